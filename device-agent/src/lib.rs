//! The device agent: serves its owner on the owner's device, and forwards
//! upward what the device may share and cannot answer as well.

pub use tiermesh_node::{DaemonArgs, NodeConfig};

/// What `--help` ends with.
pub const EXAMPLES: &str = "\
Examples:
  tiermesh device-agent --config device.toml
  tiermesh device-agent --config device.toml --check-config
  tiermesh device-agent --config device.toml --print-config

A smallest device.toml, without a gateway:
  node = \"phone-1\"
  owner = \"ann\"
  [listen]
  api = \"127.0.0.1:8082\"
  [engine]
  models = [\"models/brand-extractor\"]";

/// Runs the device agent until it is told to stop.
///
/// # Errors
/// What kept it from starting.
pub async fn run(args: DaemonArgs) -> anyhow::Result<()> {
    tiermesh_node::run(args, tiermesh_node::Role::DeviceAgent).await
}
