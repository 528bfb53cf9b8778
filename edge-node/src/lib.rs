//! The edge node: serves a zone with its own engine, lends its capacity to a
//! gateway, and forwards upward what it may not or cannot answer.

pub use tiermesh_node::{DaemonArgs, NodeConfig};

/// What `--help` ends with.
pub const EXAMPLES: &str = "\
Examples:
  tiermesh edge-node --config edge.toml
  tiermesh edge-node --config edge.toml --check-config
  tiermesh edge-node --config edge.toml --print-config

A smallest edge.toml, without a gateway:
  node = \"edge-1\"
  [engine]
  models = [\"models/brand-extractor\"]";

/// Runs the edge node until it is told to stop.
///
/// # Errors
/// What kept it from starting.
pub async fn run(args: DaemonArgs) -> anyhow::Result<()> {
    tiermesh_node::run(args, tiermesh_node::Role::EdgeNode).await
}
