//! The daemon around a node: logging, announcement, signals.

use crate::build::build;
use crate::config::{NodeConfig, Role};
use tiermesh_daemon::{
    Announcement, DaemonArgs, DaemonMode, announce, bind_tcp, load, print, show, stop_requested,
};

/// Runs a node until it is told to stop.
///
/// # Errors
/// What kept it from starting.
pub async fn run(args: DaemonArgs, role: Role) -> anyhow::Result<()> {
    tiermesh_telemetry::init(&args.log, tiermesh_telemetry::Format::Text)
        .map_err(anyhow::Error::msg)?;
    let config: NodeConfig = load(&args.config)?;
    config.validate(role)?;
    match args.mode() {
        DaemonMode::PrintConfig => {
            show(&print(&config)?);
            return Ok(());
        }
        DaemonMode::CheckConfig => {
            show(&format!("{}: ok", args.config.display()));
            return Ok(());
        }
        DaemonMode::Run => {}
    }
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
