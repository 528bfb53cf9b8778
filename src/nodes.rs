//! `tiermesh nodes`: the nodes a daemon knows.

use crate::client::{DoorArgs, connect, explain, tier_name};
use crate::out;
use serde_json::json;
use tiermesh_proto::v1;
use tiermesh_proto::v1::fleet_client::FleetClient;

/// Arguments of `tiermesh nodes`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  tiermesh nodes
  tiermesh nodes --endpoint http://127.0.0.1:8081 --json
  tiermesh nodes preload edge-1 brand-extractor"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    door: DoorArgs,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Tell a node to bring a model into memory before it is asked for.
    ///
    /// The node obeys if the model fits beside those in memory; a model that is
    /// kept elsewhere is fetched first. `tiermesh nodes` shows what became of it.
    Preload {
        /// The node's id.
        node: String,
        /// The model's exact name.
        model: String,
        #[command(flatten)]
        door: DoorArgs,
    },
}

/// Runs the command.
///
/// # Errors
/// What the door said instead of listing.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    if let Some(Command::Preload { node, model, door }) = args.command {
        let mut fleet = FleetClient::new(connect(&door.endpoint).await?);
        let told = v1::PreloadRequest { node, model };
        let told = fleet.preload(door.request(told)?).await;
        told.map_err(|status| explain(&status))?;
        return Ok(());
    }
    let mut fleet = FleetClient::new(connect(&args.door.endpoint).await?);
    let listed = fleet
        .list_nodes(args.door.request(v1::ListNodesRequest {})?)
        .await
        .map_err(|status| explain(&status))?
        .into_inner();
    if !args.json {
        out::line(&format!(
            "{:<12} {:<6} {:>7} {:>6} {:>6} {:>9} {:>8} {:>10} {:>9} {:>11} {:>5} {:>8} {:>8}  {}",
            "NODE",
            "TIER",
            "CREDITS",
            "ACTIVE",
            "QUEUED",
            "BREAKER",
            "RTT ms",
            "TTFT ms",
            "TOK/S",
            "KV MiB",
            "HIT%",
            "AGE ms",
            "OBS/PRED",
            "MODELS"
        ));
    }
    for node in listed.nodes {
        out::line(&if args.json { record(&node) } else { row(&node) });
    }
    Ok(())
}

fn row(node: &v1::Node) -> String {
    format!(
        "{:<12} {:<6} {:>7} {:>6} {:>6} {:>9} {:>8.2} {:>10.1} {:>9.0} {:>11} {:>5} {:>8} {:>8}  {}",
        node.node,
        tier_name(node.tier),
        node.credits_free,
        node.streams_active,
        node.streams_queued,
        node.breaker,
        node.rtt_ms,
        node.first_token_ms,
        node.decode_tokens_per_s,
        memory(node),
        hits(node),
        node.report_age_ms,
        calibration(node),
        models(node)
    )
}

/// Memory for keys and values, used of all; a dash without an engine.
fn memory(node: &v1::Node) -> String {
    match node.kv_budget_bytes {
        0 => "-".to_owned(),
        all => format!("{}/{}", node.kv_used_bytes >> 20, all >> 20),
    }
}

fn hits(node: &v1::Node) -> String {
    match node.kv_budget_bytes {
        0 => "-".to_owned(),
        _ => format!("{:.0}", 100.0 * node.prefix_hit_share),
    }
}

/// Observed over predicted time to the first token, over all models by their
/// answers; a dash before the first.
fn calibration(node: &v1::Node) -> String {
    let known = || node.model_states.iter().filter_map(|m| m.calibration);
    let answers: u64 = known().map(|c| c.answers).sum();
    if answers == 0 {
        return "-".to_owned();
    }
    let sum: f64 = known().map(|c| c.ratio * c.answers as f64).sum();
    format!("{:.2}", sum / answers as f64)
}

/// The models, those that are not in memory marked.
fn models(node: &v1::Node) -> String {
    let residency = |index: usize| {
        let state = node.model_states.get(index);
        state.map_or("hot", |state| state.residency.as_str())
    };
    let marked = node
        .models
        .iter()
        .enumerate()
        .map(|(index, model)| match residency(index) {
            "hot" | "" => model.clone(),
            elsewhere => format!("{model}({elsewhere})"),
        });
    marked.collect::<Vec<_>>().join(",")
}

fn record(node: &v1::Node) -> String {
    let states = node.model_states.iter().map(|state| {
        json!({
            "residency": state.residency,
            "load_ms": state.load_ms,
            "prefill_tokens_per_s": state.prefill_tokens_per_s,
            "decode_tokens_per_s": state.decode_tokens_per_s,
            "first_token_ms": state.first_token_ms,
            "calibration_error": state.calibration_error,
            "kv_tokens_free": state.kv_tokens_free,
            "calibration": state.calibration.map(|known| json!({
                "answers": known.answers,
                "observed_over_predicted": known.ratio,
                "within_p99": known.within_p99,
                "error_ms": known.error_ms,
                "first_token_p50_ms": known.first_token_p50_ms,
                "first_token_p99_ms": known.first_token_p99_ms,
                "failed_share": known.failed_share,
            })),
        })
    });
    let states: Vec<_> = states.collect();
    json!({
        "node": node.node,
        "tier": tier_name(node.tier),
        "region": node.region,
        "owner": node.owner,
        "models": node.models,
        "credits_free": node.credits_free,
        "streams_active": node.streams_active,
        "streams_queued": node.streams_queued,
        "slots": node.slots,
        "breaker": node.breaker,
        "rtt_ms": node.rtt_ms,
        "first_token_ms": node.first_token_ms,
        "decode_tokens_per_s": node.decode_tokens_per_s,
        "report_age_ms": node.report_age_ms,
        "load": node.load,
        "endpoint": node.endpoint,
        "model_states": states,
        "streams_queued_by_class": node.streams_queued_by_class,
        "kv_used_bytes": node.kv_used_bytes,
        "kv_budget_bytes": node.kv_budget_bytes,
        "weights_bytes": node.weights_bytes,
        "prefix_hit_share": node.prefix_hit_share,
        "temperature_c": node.temperature_c,
    })
    .to_string()
}
