//! What an edge node and a device agent share: a local engine, a link up to a
//! gateway, a dispatcher that picks between the two, and a door in front.
//!
//! `tiermesh-edge-node` and `tiermesh-device-agent` are this with a tier and
//! its defaults; neither knows the other.

mod build;
mod capacity;
mod catalog;
mod config;
mod fleet;
mod guard;
mod remote;
mod run;

pub use build::{Node, build};
pub use config::{
    EngineConfig, GatewayConfig, ListenConfig, NodeConfig, PriceConfig, Role, SharingConfig,
};
pub use run::run;
pub use tiermesh_daemon::DaemonArgs;
