//! `tiermesh bedrock-standin`: a local process that speaks Bedrock's Converse
//! wire, backed by the engine, for machines without AWS credentials.

use anyhow::Context as _;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tiermesh_bedrock::{Standin, StandinOptions};
use tiermesh_core::{Destination, MonotonicClock, NodeId, Tier};
use tiermesh_daemon::{Announcement, announce, bind_tcp, stop_requested};
use tiermesh_engine::{
    Engine, EngineOptions, KernelChoice, LoadOptions, LocalInfer, Model, Prices, Quantization,
};

/// Arguments of `tiermesh bedrock-standin`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tiermesh bedrock-standin --model models/brand-extractor --listen 127.0.0.1:8090
  then, in the gateway's configuration: [bedrock] endpoint_url = \"http://127.0.0.1:8090\"

It answers with the local model whatever Bedrock model is asked for by --serve-as,
and it takes any AWS signature. Nothing in it is Amazon's.")]
pub(crate) struct Args {
    /// The model's directory.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The Bedrock model ids it answers to.
    #[arg(long, value_name = "ID", default_values_t = [tiermesh_harness::BEDROCK_MODEL.to_owned()])]
    serve_as: Vec<String>,
    /// Where to listen; port 0 picks one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// What to log, in the syntax of `RUST_LOG`.
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "info",
        env = "TIERMESH_LOG"
    )]
    log: String,
}

/// Runs the stand-in until it is told to stop.
///
/// # Errors
/// What kept it from starting.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    tiermesh_telemetry::init(&args.log, tiermesh_telemetry::Format::Text)
        .map_err(anyhow::Error::msg)?;
    anyhow::ensure!(
        args.listen.ip().is_loopback(),
        "`--listen` is {}: the stand-in checks no credentials, so it listens on loopback alone",
        args.listen
    );
    let options = LoadOptions::new(KernelChoice::Auto.resolve()?, Quantization::Q8);
    let model = Model::load(&args.model, options)
        .with_context(|| format!("cannot load the model in {}", args.model.display()))?;
    let id = model.info().id.clone();
    let engine = Arc::new(Engine::start(vec![model], EngineOptions::default())?);
    let node = NodeId::new(tiermesh_harness::STANDIN)?;
    let place = Destination {
        tier: Tier::Cloud,
        region: None,
        node: node.clone(),
        owner: None,
    };
    let brain = LocalInfer::new(
        engine,
        place,
        Prices::default(),
        Arc::new(MonotonicClock::new()),
    );
    let listener = bind_tcp(args.listen, "--listen").await?;
    let models: BTreeMap<_, _> = args
        .serve_as
        .into_iter()
        .map(|name| (name, id.clone()))
        .collect();
    let options = StandinOptions {
        models,
        keep_bodies: false,
    };
    let standin = Standin::start(listener, Arc::new(brain), options)?;
    announce(&Announcement::new(
        "bedrock-standin",
        node.as_str(),
        standin.endpoint_url(),
    ));
    let why = stop_requested().await;
    tracing::info!(?why, "stopping");
    standin.shutdown().await;
    Ok(())
}
