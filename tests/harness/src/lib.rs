//! A whole mesh on one machine, each daemon a process of its own: what `demo`
//! and `up` start, and what the tests start, kill and stop.
//!
//! Everything lives in one throw-away directory: a certificate authority made
//! for the run, the configurations, and a log per daemon.

mod certificates;
pub mod client;
mod config;
mod daemon;
mod mesh;

pub use certificates::certify;
pub use daemon::Daemon;
pub use mesh::{Cloud, Mesh, MeshSpec};

/// The node id of the gateway.
pub const GATEWAY: &str = "gateway-1";
/// The node id of the device agent.
pub const DEVICE: &str = "phone-1";
/// Whose device it is.
pub const OWNER: &str = "ann";
/// The node id of the cloud tier when it is Amazon's.
pub const BEDROCK: &str = "bedrock";
/// Its node id when it is a local stand-in, so that every line that names it
/// says so.
pub const STANDIN: &str = "bedrock-standin";
/// The region the gateway stands in.
pub const REGION: &str = "ap-southeast-7";
/// The cloud tier's model by its family, which is what people type.
pub const CLOUD_MODEL: &str = "nova-lite";
/// The same by its id, Bedrock's own, so that an AWS application finds it.
pub const BEDROCK_MODEL: &str = "amazon.nova-lite-v1:0";
