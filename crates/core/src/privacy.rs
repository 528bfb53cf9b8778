//! Privacy by type: content is [`Sealed`], and a [`Permit`] opens it.
//!
//! [`permit`] is the only function that makes a permit. It checks privacy,
//! residency and ownership against one destination, and the permit is good
//! for that request and that destination alone. Every path that hands content
//! to anybody (a local engine, a link, Bedrock) opens the seal and so needs
//! one: first attempt, retry, hedge, continuation, cache fill, advisor.

use crate::id::{NodeId, Region, UserId};
use crate::request::{Content, Request, RequestMeta};
use crate::tier::Tier;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

/// How far content may travel, strictest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Privacy {
    /// It stays on its owner's device.
    Device,
    /// It stays on the device or in the edge zone.
    Edge,
    /// It stays in its residency region.
    Region,
    /// Anywhere.
    Any,
}

impl Privacy {
    /// The spelling on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Edge => "edge",
            Self::Region => "region",
            Self::Any => "any",
        }
    }

    /// Whether content marked so may be on a machine of `tier` at all.
    #[must_use]
    pub const fn allows(self, tier: Tier) -> bool {
        match self {
            Self::Device => matches!(tier, Tier::Device),
            Self::Edge => matches!(tier, Tier::Device | Tier::Mec),
            Self::Region | Self::Any => true,
        }
    }
}

/// One machine, or one service, that content may be shown to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Where it stands. A gateway stands in the cloud.
    pub tier: Tier,
    /// Its region, where it has told one.
    pub region: Option<Region>,
    /// Which one it is.
    pub node: NodeId,
    /// Whose device it is.
    pub owner: Option<UserId>,
}

/// Why content may not go somewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PermitError {
    /// The request's privacy forbids the tier.
    #[error("privacy `{}` forbids the {tier} tier", privacy.as_str())]
    Privacy {
        /// What the request asked for.
        privacy: Privacy,
        /// Where it would have gone.
        tier: Tier,
    },
    /// The request must stay in another region.
    #[error("content must stay in region `{wanted}`, and `{node}` is {}", found.as_ref().map_or("in none".into(), |r| format!("in `{r}`")))]
    Residency {
        /// The region the content must stay in.
        wanted: Region,
        /// The destination's region.
        found: Option<Region>,
        /// The destination.
        node: NodeId,
    },
    /// Region privacy without a region to stay in.
    #[error("privacy `region` needs `residency` to name the region")]
    NoRegion,
    /// A device serves only its owner.
    #[error("device `{node}` serves only its owner")]
    NotOwner {
        /// The device.
        node: NodeId,
    },
    /// A permit for one request was used on another, or for another place.
    #[error("the permit is for another request or destination")]
    Mismatch,
}

/// The right to show one request's content to one destination.
///
/// [`permit`] makes it, after it has checked, and nobody else can: content
/// that somebody would send without one does not compile.
///
/// ```compile_fail,E0451
/// use tiermesh_core::{Destination, NodeId, Permit, Tier};
/// let destination = Destination {
///     tier: Tier::Cloud,
///     region: None,
///     node: NodeId::new("anywhere").unwrap(),
///     owner: None,
/// };
/// let forged = Permit { seal: 1, destination };
/// ```
///
/// ```compile_fail,E0616
/// fn leak(request: &tiermesh_core::Sealed<tiermesh_core::Request>) -> usize {
///     request.inner.content.bytes()
/// }
/// ```
///
/// ```compile_fail,E0061
/// fn leak(request: &tiermesh_core::Sealed<tiermesh_core::Request>) -> usize {
///     request.open().unwrap().bytes()
/// }
/// ```
///
/// With one, it opens for that destination alone:
///
/// ```
/// use tiermesh_core::{Destination, NodeId, PermitError, Request, Sealed, privacy};
/// fn show(request: &Sealed<Request>, to: &Destination) -> Result<usize, PermitError> {
///     let permit = privacy::permit(request, to)?;
///     Ok(request.open(&permit, &to.node)?.bytes())
/// }
/// ```
#[derive(Debug)]
pub struct Permit {
    seal: u64,
    destination: Destination,
}

impl Permit {
    /// Whom the content may be shown to.
    #[must_use]
    pub const fn destination(&self) -> &Destination {
        &self.destination
    }
}

/// A request whose content shows only to a permit's holder.
#[derive(Debug)]
pub struct Sealed<T> {
    seal: u64,
    inner: T,
}

impl Sealed<Request> {
    /// Seals a request. The door does it once, right after validation.
    #[must_use]
    pub fn new(request: Request) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            seal: NEXT.fetch_add(1, Ordering::Relaxed),
            inner: request,
        }
    }

    /// What routing may look at.
    #[must_use]
    pub const fn meta(&self) -> &RequestMeta {
        &self.inner.meta
    }

    /// The same request under a privacy that is at least as strict, as a
    /// policy may ask. It is another seal: permits for this one do not open
    /// it. Copies the content.
    #[must_use]
    pub fn tightened(&self, privacy: Privacy) -> Self {
        let mut request = self.inner.clone();
        request.meta.privacy = request.meta.privacy.min(privacy);
        Self::new(request)
    }

    /// The content, for the permit's destination.
    ///
    /// # Errors
    /// [`PermitError::Mismatch`] when the permit was made for another request,
    /// or names another node than `at`, which is whoever will see the content.
    pub fn open(&self, permit: &Permit, at: &NodeId) -> Result<&Content, PermitError> {
        if permit.seal != self.seal || &permit.destination.node != at {
            return Err(PermitError::Mismatch);
        }
        Ok(&self.inner.content)
    }
}

/// Checks privacy, residency and ownership, and makes a permit.
///
/// # Errors
/// The first rule that forbids the destination.
pub fn permit(request: &Sealed<Request>, destination: &Destination) -> Result<Permit, PermitError> {
    may_see(request.meta(), destination)?;
    Ok(Permit {
        seal: request.seal,
        destination: destination.clone(),
    })
}

/// The rule behind [`permit`], for deciding without content in hand.
///
/// # Errors
/// The first rule that forbids the destination.
pub fn may_see(meta: &RequestMeta, destination: &Destination) -> Result<(), PermitError> {
    let limits = Limits {
        privacy: meta.privacy,
        residency: meta.residency.as_ref(),
        user: &meta.user_id,
    };
    match limits.forbids(&Place::of(destination)) {
        None => Ok(()),
        Some(Forbidden::Privacy) => Err(PermitError::Privacy {
            privacy: meta.privacy,
            tier: destination.tier,
        }),
        Some(Forbidden::NoRegion) => Err(PermitError::NoRegion),
        Some(Forbidden::Residency(wanted)) => Err(PermitError::Residency {
            wanted: wanted.clone(),
            found: destination.region.clone(),
            node: destination.node.clone(),
        }),
        Some(Forbidden::NotOwner) => Err(PermitError::NotOwner {
            node: destination.node.clone(),
        }),
    }
}

/// What a request demands of every machine that sees its content, by
/// reference, so that a decision checks a thousand machines without a copy.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    /// How far the content may travel.
    pub privacy: Privacy,
    /// The only region that may see it, when set.
    pub residency: Option<&'a Region>,
    /// Who asks.
    pub user: &'a UserId,
}

/// A machine as [`Limits`] look at it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Where it stands.
    pub tier: Tier,
    /// Its region, where it has told one.
    pub region: Option<&'a Region>,
    /// Whose device it is.
    pub owner: Option<&'a UserId>,
}

/// Which rule forbids a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbidden<'a> {
    /// The privacy forbids the tier.
    Privacy,
    /// Region privacy without a region to stay in.
    NoRegion,
    /// The content must stay in this other region.
    Residency(&'a Region),
    /// It is somebody else's device.
    NotOwner,
}

impl<'a> Place<'a> {
    /// A destination, by reference.
    #[must_use]
    pub const fn of(destination: &'a Destination) -> Self {
        Self {
            tier: destination.tier,
            region: destination.region.as_ref(),
            owner: destination.owner.as_ref(),
        }
    }
}

impl<'a> Limits<'a> {
    /// The first rule that forbids the place: the one copy of these rules.
    #[must_use]
    #[inline]
    pub fn forbids(&self, place: &Place<'_>) -> Option<Forbidden<'a>> {
        if !self.privacy.allows(place.tier) {
            return Some(Forbidden::Privacy);
        }
        match self.residency {
            None if self.privacy == Privacy::Region => return Some(Forbidden::NoRegion),
            Some(wanted) if place.region != Some(wanted) => {
                return Some(Forbidden::Residency(wanted));
            }
            _ => {}
        }
        let owned_by_another = place.tier == Tier::Device && place.owner != Some(self.user);
        owned_by_another.then_some(Forbidden::NotOwner)
    }
}

/// The tiers a request's receiver may pass it on to. It travels with the
/// request and only ever narrows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PermitScope(u8);

impl PermitScope {
    /// Every tier.
    pub const ALL: Self = Self(0b111);
    /// None: the receiver answers itself or refuses.
    pub const NONE: Self = Self(0);

    const fn bit(tier: Tier) -> u8 {
        match tier {
            Tier::Device => 0b001,
            Tier::Mec => 0b010,
            Tier::Cloud => 0b100,
        }
    }

    /// Just this tier.
    #[must_use]
    pub const fn only(tier: Tier) -> Self {
        Self(Self::bit(tier))
    }

    /// This scope and one more tier.
    #[must_use]
    pub const fn with(self, tier: Tier) -> Self {
        Self(self.0 | Self::bit(tier))
    }

    /// What both scopes allow.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether the tier is in scope.
    #[must_use]
    pub const fn contains(self, tier: Tier) -> bool {
        self.0 & Self::bit(tier) != 0
    }

    /// The tiers as bits: DEVICE 1, MEC 2, CLOUD 4.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From bits; unknown ones are dropped.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0b111)
    }
}

#[cfg(test)]
mod tests;
