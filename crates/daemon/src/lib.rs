//! What every daemon needs around its work: its configuration from a file and
//! flags, its listeners, the line that says where it listens, and the end.

mod announce;
mod args;
mod config;
mod decisions;
mod listen;
mod routing;
mod signal;

pub use announce::{Announcement, announce, show};
pub use args::{DaemonArgs, configured};
pub use config::{ConfigError, check, load, print};
pub use decisions::{DecisionLog, DecisionsConfig, DecisionsError};
pub use listen::{ListenError, TlsPaths, bind_tcp, require_tls_off_loopback};
pub use routing::{PoliciesError, PolicyWatch, epoch, policies, watch_policies};
pub use signal::{StopReason, stop_requested};

/// How long a daemon lets open streams finish when it is told to stop.
pub const DRAIN: std::time::Duration = std::time::Duration::from_secs(10);
