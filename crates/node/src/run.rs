//! The daemon around a node: logging, announcement, signals.

use crate::build::build;
use crate::config::{NodeConfig, Role};
use tiermesh_daemon::{Announcement, DaemonArgs, announce, bind_tcp, configured, stop_requested};

/// Runs a node until it is told to stop.
///
/// # Errors
/// What kept it from starting.
pub async fn run(args: DaemonArgs, role: Role) -> anyhow::Result<()> {
    tiermesh_telemetry::init(&args.log, tiermesh_telemetry::Format::Text)
        .map_err(anyhow::Error::msg)?;
    let Some(config) = configured(&args, |config: &NodeConfig| config.validate(role))? else {
        return Ok(());
    };
    let listener = bind_tcp(config.listen.api, "listen.api").await?;
    let node = tokio::task::block_in_place(|| build(&config, role, listener))?;
    let announcement = Announcement::new(
        role.as_str(),
        config.node.as_str(),
        node.endpoint().to_owned(),
    );
    announce(&announcement);
    tracing::info!(node = %config.node, endpoint = node.endpoint(), "serving");
    node.serve(async {
        let why = stop_requested().await;
        tracing::info!(?why, "draining");
    })
    .await
}
