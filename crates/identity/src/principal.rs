//! The name a certificate gives its holder.

use std::fmt;
use std::str::FromStr;
use tiermesh_core::{NodeId, Tier, UserId};

const PREFIX: &str = "spiffe://tiermesh/";

/// Whoever holds a certificate of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A cloud gateway.
    Gateway {
        /// Its node id.
        node: NodeId,
    },
    /// An edge node.
    Edge {
        /// Its node id.
        node: NodeId,
    },
    /// A device agent.
    Device {
        /// Its node id.
        node: NodeId,
        /// Whose device it is, and whom alone it serves.
        owner: UserId,
    },
}

impl Principal {
    /// The node id.
    #[must_use]
    pub const fn node(&self) -> &NodeId {
        match self {
            Self::Gateway { node } | Self::Edge { node } | Self::Device { node, .. } => node,
        }
    }

    /// The tier it stands in.
    #[must_use]
    pub const fn tier(&self) -> Tier {
        match self {
            Self::Gateway { .. } => Tier::Cloud,
            Self::Edge { .. } => Tier::Mec,
            Self::Device { .. } => Tier::Device,
        }
    }

    /// The owner, for a device.
    #[must_use]
    pub const fn owner(&self) -> Option<&UserId> {
        match self {
            Self::Device { owner, .. } => Some(owner),
            _ => None,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway { node } => write!(f, "{PREFIX}gateway/{node}"),
            Self::Edge { node } => write!(f, "{PREFIX}mec/{node}"),
            Self::Device { node, owner } => write!(f, "{PREFIX}device/{node}/owner/{owner}"),
        }
    }
}

/// A URI that names nobody in the mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names nobody in the mesh: use spiffe://tiermesh/gateway/NODE, \
     spiffe://tiermesh/mec/NODE or spiffe://tiermesh/device/NODE/owner/USER"
)]
pub struct InvalidPrincipal(pub String);

impl FromStr for Principal {
    type Err = InvalidPrincipal;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPrincipal(uri.chars().take(120).collect());
        let path = uri.strip_prefix(PREFIX).ok_or_else(invalid)?;
        let node = |name: &str| NodeId::new(name).map_err(|_| invalid());
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            ["gateway", name] => Ok(Self::Gateway { node: node(name)? }),
            ["mec", name] => Ok(Self::Edge { node: node(name)? }),
            ["device", name, "owner", owner] => Ok(Self::Device {
                node: node(name)?,
                owner: UserId::new(owner).map_err(|_| invalid())?,
            }),
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_their_uri() {
        for uri in [
            "spiffe://tiermesh/gateway/gw-1",
            "spiffe://tiermesh/mec/edge-1",
            "spiffe://tiermesh/device/phone-1/owner/ann",
        ] {
            assert_eq!(uri.parse::<Principal>().unwrap().to_string(), uri);
        }
    }

    #[test]
    fn other_uris_name_nobody() {
        for uri in [
            "",
            "https://tiermesh/mec/edge-1",
            "spiffe://elsewhere/mec/edge-1",
            "spiffe://tiermesh/mec/",
            "spiffe://tiermesh/mec/a/b",
            "spiffe://tiermesh/device/phone-1",
        ] {
            assert!(uri.parse::<Principal>().is_err(), "{uri}");
        }
    }
}
