//! Policies: what a kind of traffic wants, as data.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::id::InvalidName;
use tiermesh_core::request::MAX_DEADLINE_MS;
use tiermesh_core::{ErrorClass, InferError, PolicyName, Privacy, Tier, Usd};

mod file;
mod tenants;

pub use tenants::Tenant;

/// The policies every installation has.
const BUILTIN: &str = include_str!("../policies/builtin.toml");

/// The most policies a set holds.
pub(crate) const MAX_POLICIES: usize = 256;

/// A set of policies and the name of its default. Immutable: a change makes
/// another set.
#[derive(Debug, Clone, PartialEq)]
pub struct Policies {
    default: PolicyName,
    by_name: BTreeMap<PolicyName, Arc<Policy>>,
    tenants: BTreeMap<String, Tenant>,
}

impl Policies {
    /// The built-in set.
    #[must_use]
    pub fn builtin() -> Self {
        Self::parse(BUILTIN).expect("the built-in policies are tested")
    }

    /// A set from TOML, in the form of `policies/builtin.toml`.
    ///
    /// # Errors
    /// The key that does not fit, with its value and what is allowed.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        file::parse(text, None)
    }

    /// This set with the policies of `text` added, or replaced by name.
    ///
    /// # Errors
    /// As [`Policies::parse`]. Only `default` may be left out.
    pub fn extended(&self, text: &str) -> Result<Self, PolicyError> {
        file::parse(text, Some(self))
    }

    /// The policy of that name.
    #[must_use]
    pub fn get(&self, name: &PolicyName) -> Option<&Arc<Policy>> {
        self.by_name.get(name)
    }

    /// The policy of that name, or the refusal a client reads.
    ///
    /// # Errors
    /// `POLICY_NOT_FOUND`, naming the value and the allowed ones.
    pub fn require(&self, name: &PolicyName) -> Result<&Arc<Policy>, InferError> {
        self.get(name).ok_or_else(|| {
            let allowed: Vec<_> = self.names().map(PolicyName::as_str).collect();
            let allowed = allowed.join(", ");
            InferError::new(
                ErrorClass::NotFound,
                "POLICY_NOT_FOUND",
                format!("policy `{name}` does not exist: use one of {allowed}"),
            )
            .with("policy", name.as_str())
            .with("allowed", allowed)
        })
    }

    /// The policy for a request that names none.
    #[must_use]
    pub const fn default_name(&self) -> &PolicyName {
        &self.default
    }

    /// Every name, in order.
    pub fn names(&self) -> impl Iterator<Item = &PolicyName> {
        self.by_name.keys()
    }

    /// Every policy, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.by_name.values()
    }
}

/// What one kind of traffic wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// What clients call it. Decides nothing.
    pub name: PolicyName,
    /// What it is for, for people.
    pub description: String,
    /// Time to the first token when the client says nothing.
    pub first_token: Option<Duration>,
    /// Time to the end when the client says nothing.
    pub total: Option<Duration>,
    /// What those two do.
    pub deadline: DeadlineRule,
    /// How far content may travel; the request may only be stricter.
    pub privacy: Privacy,
    /// Models below this quality, 0 to 1, are not asked.
    pub least_quality: f32,
    /// The most an answer may cost when the client says nothing.
    pub max_cost: Option<Usd>,
    /// What a million tokens cost a device's battery, as money. It counts in
    /// the score and is never charged.
    pub device_energy_per_million: Usd,
    /// How many fallbacks a plan may have, at most [`crate::MAX_FALLBACKS`].
    pub fallbacks: usize,
    /// A candidate is in time when the chance of it is at least this, 0.5 to
    /// 0.999.
    pub sure: f64,
    /// That as a distance in standard deviations.
    pub(crate) sure_z: f64,
    /// Under [`DeadlineRule::Require`], nobody is asked whose chance of being
    /// in time is below this.
    pub least_chance: f64,
    /// Share of the requests that go where least is known, among those that
    /// would be in time.
    pub explore: f64,
    /// How much a request's complexity moves the weight of quality, 0 to 1:
    /// 0.5 takes half of it from the easiest and adds half for the hardest.
    pub complexity: f64,
    /// Whether requests go to a device over a metered network.
    pub metered: Metered,
    /// How urgent its requests are in queues at least, 0 to 255; 128 and more
    /// are as urgent as answers that go on.
    pub priority: u8,
    /// Asking a second node beside the first; none when absent.
    pub hedge: Option<Hedge>,
    /// What counts how much.
    pub weights: Weights,
    /// Which tiers it likes.
    pub preference: Preference,
}

/// Asking a second node when the first is late, or at once. Read by dispatch;
/// the decision only orders the choices.
#[derive(Debug, Clone, PartialEq)]
pub struct Hedge {
    /// Whether it is done at all.
    pub enabled: bool,
    /// The tiers that may be asked a second time.
    pub tiers: Vec<Tier>,
    /// The most requests that are asked twice, as a share of all, 0 to 1.
    pub max_share: f64,
    /// How long the first has before the second is asked; none for as long as
    /// it predicted at its 95th percentile.
    pub after: Option<Duration>,
}

/// What a policy's own deadlines do. A client's remove whoever would miss
/// them, as long as somebody would not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadlineRule {
    /// They shape the latency points and remove nobody.
    Steer,
    /// They remove whoever would miss them while somebody would not.
    Prefer,
    /// They, and the client's too, remove whoever would miss them.
    Require,
}

/// What a metered network means for the device behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metered {
    /// Nothing: its owner pays.
    #[default]
    Allow,
    /// Nobody else's door sends it anything.
    Avoid,
}

/// What counts how much. They add up to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// Time to spare before the first token is due.
    pub latency: f64,
    /// Being cheap.
    pub cost: f64,
    /// The model's quality.
    pub quality: f64,
    /// Being idle.
    pub load: f64,
    /// Sparing a battery.
    pub energy: f64,
    /// The policy's liking for the tier.
    pub preference: f64,
    /// Having the beginning of the prompt at hand.
    pub affinity: f64,
}

/// Points for each tier, 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preference {
    /// For the device.
    pub device: f64,
    /// For the edge.
    pub mec: f64,
    /// For the cloud.
    pub cloud: f64,
}

impl Preference {
    /// The points for a tier.
    #[must_use]
    pub const fn of(&self, tier: Tier) -> f64 {
        match tier {
            Tier::Device => self.device,
            Tier::Mec => self.mec,
            Tier::Cloud => self.cloud,
        }
    }
}

/// A policy file was refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It is not TOML of the expected shape; the source names the key, its
    /// line and what is allowed there.
    #[error("the policies are not TOML of the expected shape")]
    Shape(#[source] Box<toml::de::Error>),
    /// A policy's name is not a name.
    #[error("a policy's name is not usable")]
    Name(#[source] InvalidName),
    /// A value is out of its range.
    #[error("policy `{policy}`: `{key}` is {value}; allowed: {allowed}")]
    Range {
        /// The policy.
        policy: String,
        /// The key in it.
        key: &'static str,
        /// What it was set to.
        value: String,
        /// What it may be set to.
        allowed: String,
    },
    /// `default` is absent or names no policy.
    #[error("`default` is `{value}`; allowed: {allowed}")]
    Default {
        /// What it was set to; empty when absent.
        value: String,
        /// The policies there are.
        allowed: String,
    },
    /// A tenant's entry is out of its range.
    #[error("tenant `{tenant}`: `{key}` is {value}; allowed: {allowed}")]
    Tenant {
        /// The tenant.
        tenant: String,
        /// The key in its entry.
        key: &'static str,
        /// What it was set to.
        value: String,
        /// What it may be set to.
        allowed: String,
    },
    /// There are too many, or none.
    #[error("there are {count} policies; allowed: 1 to {MAX_POLICIES}")]
    Count {
        /// How many.
        count: usize,
    },
}

/// The longest a policy's deadline may be, in milliseconds.
const MAX_POLICY_DEADLINE_MS: u64 = MAX_DEADLINE_MS;

#[cfg(test)]
mod tests;
