//! `tiermesh route`: where a request would go and why, and what other policies
//! would have changed.

use crate::client::{DoorArgs, RequestArgs, explain, inference, tier_name};
use crate::out;
use serde_json::json;
use tiermesh_proto::v1;

mod replay;

/// Arguments of `tiermesh route`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the decision for a request without running it.
    Explain(Box<ExplainArgs>),
    /// Make a log's decisions again under other policies, and show what changes.
    Replay(replay::Args),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tiermesh route explain \"sony mdr-zx110 headphones\"
  tiermesh route explain \"sony mdr-zx110 headphones\" --policy batch --json")]
struct ExplainArgs {
    #[command(flatten)]
    request: RequestArgs,
    #[command(flatten)]
    door: DoorArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// What the door said instead of explaining.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let args = match args.command {
        Command::Explain(args) => args,
        Command::Replay(args) => return replay::run(&args),
    };
    let mut client = inference(&args.door.endpoint).await?;
    let decision = client
        .explain(args.door.request(v1::InferRequest::from(args.request))?)
        .await
        .map_err(|status| explain(&status))?
        .into_inner();
    if args.json {
        out::line(&record(&decision).to_string());
    } else {
        show(&decision);
    }
    Ok(())
}

fn record(decision: &v1::Decision) -> serde_json::Value {
    let scores = decision
        .scores
        .iter()
        .map(|s| json!({"tier": tier_name(s.tier), "score": s.score}));
    let reasons = decision.reasons.iter().map(|r| {
        json!({"code": r.code, "node": r.node, "model": r.model, "value": r.value, "limit": r.limit, "removes": r.removes})
    });
    let fallbacks = decision
        .fallbacks
        .iter()
        .map(|f| json!({"tier": tier_name(f.tier), "node": f.node, "model": f.model}));
    json!({
        "policy": decision.policy,
        "tier": tier_name(decision.tier),
        "node": decision.node,
        "model": decision.model,
        "scores": scores.collect::<Vec<_>>(),
        "confidence": decision.confidence,
        "reasons": reasons.collect::<Vec<_>>(),
        "fallbacks": fallbacks.collect::<Vec<_>>(),
        "first_token_ms": decision.first_token_ms,
        "total_ms": decision.total_ms,
        "cost_usd": decision.cost_usd,
        "epoch": decision.epoch,
        "sequence": decision.sequence,
        "calibrations": decision.calibrations.iter().map(known).collect::<Vec<_>>(),
    })
}

fn known(of: &v1::Calibrated) -> serde_json::Value {
    let known = of.calibration.unwrap_or_default();
    json!({
        "node": of.node,
        "model": of.model,
        "answers": known.answers,
        "observed_over_predicted": known.ratio,
        "within_p99": known.within_p99,
        "error_ms": known.error_ms,
        "first_token_p50_ms": known.first_token_p50_ms,
        "first_token_p99_ms": known.first_token_p99_ms,
        "failed_share": known.failed_share,
    })
}

fn show(decision: &v1::Decision) {
    out::line(&format!(
        "{} on {} ({}) by policy {}, confidence {:.2}",
        tier_name(decision.tier),
        decision.node,
        decision.model,
        decision.policy,
        decision.confidence
    ));
    out::line(&format!(
        "expected: first token {:.1} ms, whole answer at most {:.0} ms, ${:.7}",
        decision.first_token_ms, decision.total_ms, decision.cost_usd
    ));
    for score in &decision.scores {
        out::line(&format!(
            "  {:<6} {:>5.1} of 100",
            tier_name(score.tier),
            score.score
        ));
    }
    for reason in &decision.reasons {
        out::line(&format!("  {}", in_words(reason)));
    }
    for of in &decision.calibrations {
        let known = of.calibration.unwrap_or_default();
        out::line(&format!(
            "  predicted: {} ({}), observed over predicted {:.2} in {} answers, {:.1} % within p99",
            of.node,
            of.model,
            known.ratio,
            known.answers,
            100.0 * known.within_p99
        ));
    }
    for fallback in &decision.fallbacks {
        out::line(&format!(
            "  then {} on {} ({})",
            tier_name(fallback.tier),
            fallback.node,
            fallback.model
        ));
    }
}

/// A reason as a person reads it: points and what they were given for, or the
/// value and the limit it was held against.
fn in_words(reason: &v1::Reason) -> String {
    let (code, node) = (&reason.code, &reason.node);
    let value = reason.value.unwrap_or_default();
    match (code.as_str(), reason.limit) {
        ("latency", Some(ms)) => format!("{code} {value:.1} points: {node} within {ms:.1} ms"),
        ("chance", Some(ms)) => format!(
            "{code} {:.1} %: {node} ({}) within {ms:.1} ms",
            100.0 * value,
            reason.model
        ),
        ("cost", Some(usd)) => format!("{code} {value:.1} points: {node} for ${usd:.7}"),
        ("slot", _) => format!("{code}: {node} keeps others from ${value:.7}"),
        ("held", _) if node.is_empty() => format!("{code}: waited {value:.1} ms for a slot"),
        ("held", _) => format!("{code}: {node} has no slot for {value:.1} ms"),
        (_, Some(limit)) => format!("{code}: {node}, {value} against {limit}"),
        (_, None) if reason.removes => format!("{code}: {node} is out"),
        (_, None) => format!("{code} {value:.1} points: {node}"),
    }
}
