//! What is said on a link, and when: two state machines without I/O.
//!
//! Frames and times go in through `handle_*`; frames and events come out
//! through `poll_*`. The drivers own the sockets and the clock.

mod gateway;
mod node;

pub use gateway::{GatewayEvent, GatewaySession, NodeHello};
pub use node::{NodeEvent, NodeSession, NodeSessionConfig};

use std::time::Duration;

/// The protocol versions this build speaks, newest first.
pub const VERSIONS: &[u32] = &[1];
/// How long a peer may take to greet.
pub const GREETING: Duration = Duration::from_secs(5);
/// Reports with streams in flight.
pub const REFRESH_BUSY: Duration = Duration::from_millis(250);
/// Reports of an idle MEC node.
pub const REFRESH_IDLE_MEC: Duration = Duration::from_secs(1);
/// Reports of an idle device.
pub const REFRESH_IDLE_DEVICE: Duration = Duration::from_secs(30);
/// A lease lasts this many refreshes: so many reports in a row may be lost.
pub const LEASE_REFRESHES: u32 = 6;
/// The longest lease a gateway believes.
pub const LEASE_MAX: Duration = Duration::from_secs(300);
/// From the moment a gateway opens a stream, the node must report this soon:
/// whatever it granted while idle, it is now busy.
pub const LEASE_BUSY: Duration = REFRESH_BUSY.saturating_mul(LEASE_REFRESHES);
/// The most models a node offers.
pub const MAX_MODELS: usize = 24;

/// The ability of a node to bring a model into memory when it is told to.
pub const PRELOAD: &str = "preload";

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The peer said nothing for too long.
    #[error("no greeting within {} s", GREETING.as_secs())]
    Silent,
    /// The node's lease ran out: it is taken for dead.
    #[error("the node's lease expired")]
    LeaseExpired,
    /// No version in common.
    #[error("no protocol version in common: the peer speaks {theirs:?}, we speak {VERSIONS:?}")]
    Version {
        /// What the peer speaks.
        theirs: Vec<u32>,
    },
    /// The peer claims to be somebody its certificate does not name.
    #[error("the certificate is for `{certified}` and the peer says it is `{claimed}`")]
    Identity {
        /// What the certificate says.
        certified: String,
        /// What the peer says.
        claimed: String,
    },
    /// The peer refused us.
    #[error("the gateway refused this node ({code}): {message}")]
    Rejected {
        /// Its code.
        code: String,
        /// Its explanation.
        message: String,
    },
    /// The peer said something that fits no state.
    #[error("protocol violation: {0}")]
    Protocol(&'static str),
    /// The peer sent values that make no sense.
    #[error("the peer's message makes no sense")]
    Wire(#[from] tiermesh_proto::WireError),
}

#[cfg(test)]
mod tests;
