//! `tiermesh up`: the demonstration's mesh in the foreground.

use crate::demo::mesh::{CloudArg, cloud_note, spec};
use crate::out;
use anyhow::Context as _;
use std::path::PathBuf;
use tiermesh_harness::Mesh;

/// Arguments of `tiermesh up`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tiermesh up
  tiermesh up --free-ports
  tiermesh up --model ./my-model --cloud none")]
pub(crate) struct Args {
    /// A model's directory instead of the one inside the program.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The cloud tier; `auto` is Amazon Bedrock when AWS credentials are found, else the stand-in.
    #[arg(long, value_enum, default_value_t = CloudArg::Auto)]
    cloud: CloudArg,
    /// Listen on free ports instead of the documented ones.
    #[arg(long)]
    free_ports: bool,
    /// What the daemons log.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
}

/// Runs the mesh until Ctrl-C, then drains it.
///
/// # Errors
/// Which daemon did not start or did not end in order.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let scratch = tempfile::Builder::new()
        .prefix("tiermesh-model-")
        .tempdir()?;
    let mut spec = spec(args.model, args.cloud, scratch.path())?;
    spec.fixed_ports = !args.free_ports;
    spec.log = args.log;
    out::note(&cloud_note(&spec));
    let mesh = tokio::select! {
        mesh = Mesh::start(&spec) => mesh.context("cannot start the mesh (if a port is taken: --free-ports listens on others)")?,
        _ = tiermesh_daemon::stop_requested() => return Ok(()),
    };
    let gateway = mesh.gateway.endpoint().to_owned();
    out::line(&format!(
        "cloud gateway   {gateway}  (gRPC, OpenAI and Bedrock APIs)"
    ));
    for edge in &mesh.edges {
        out::line(&format!("{:<15} {}", edge.name, edge.endpoint()));
    }
    if let Some(device) = &mesh.device {
        out::line(&format!("{:<15} {}", device.name, device.endpoint()));
    }
    if let Some(standin) = &mesh.standin {
        out::line(&format!(
            "cloud tier      {}  (stand-in for Bedrock)",
            standin.endpoint()
        ));
    }
    out::line(&format!("logs            {}", mesh.dir().display()));
    out::line("\nTry:");
    out::line(&format!(
        "  tiermesh infer \"sony mdr-zx110 on-ear headphones black\" --endpoint {gateway}"
    ));
    out::line(&format!(
        "  tiermesh route explain \"sony mdr-zx110\" --policy iot --endpoint {gateway}"
    ));
    out::line(&format!("  tiermesh nodes --endpoint {gateway}"));
    out::line("\nCtrl-C drains and ends.");
    tiermesh_daemon::stop_requested().await;
    out::note("draining");
    let codes = mesh.stop().await?;
    let bad: Vec<_> = codes.iter().filter(|(_, code)| *code != 0).collect();
    anyhow::ensure!(bad.is_empty(), "did not end in order: {bad:?}");
    Ok(())
}
