//! `tiermesh route replay`: a log of decisions under other policies.

use crate::out;
use anyhow::Context as _;
use serde_json::json;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use tiermesh_core::Tier;
use tiermesh_decision::Policies;
use tiermesh_decision::record::{Compared, Side, replay};

/// Arguments of `tiermesh route replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tiermesh route replay --decisions decisions.jsonl --policy new.toml
  tiermesh route replay --decisions decisions.jsonl --old now.toml --policy new.toml --json")]
pub(crate) struct Args {
    /// The log: JSON lines, as a gateway with `[decisions]` in its configuration
    /// writes them.
    #[arg(long, value_name = "FILE")]
    decisions: PathBuf,
    /// The policies to try; they extend the built-in ones.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The policies the log was made under, where not only the built-in ones.
    #[arg(long, value_name = "FILE")]
    old: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be read, or is not what it should be.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let new = policies(&args.policy)?;
    let old = match &args.old {
        Some(path) => policies(path)?,
        None => Policies::builtin(),
    };
    let path = &args.decisions;
    let log = std::fs::File::open(path)
        .with_context(|| format!("cannot read `--decisions` {}", path.display()))?;
    let compared = replay(BufReader::new(log), &old, &new)
        .with_context(|| format!("the log {}", path.display()))?;
    if args.json {
        out::line(&record(&compared).to_string());
    } else {
        show(&compared);
    }
    Ok(())
}

fn policies(path: &Path) -> anyhow::Result<Policies> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the policies {}", path.display()))?;
    Policies::builtin()
        .extended(&text)
        .with_context(|| format!("the policies {}", path.display()))
}

fn side(side: &Side) -> serde_json::Value {
    let tiers = Tier::ALL.into_iter().zip(side.by_tier);
    let tiers = tiers.map(|(tier, count)| (tier.as_str().to_owned(), json!(count)));
    json!({
        "tiers": tiers.collect::<serde_json::Map<_, _>>(),
        "refused": side.refused,
        "cost_usd": side.usd,
        "in_time": side.in_time,
        "kept_private": side.kept_private,
        "to_the_cloud": side.left_the_edge,
    })
}

fn record(compared: &Compared) -> serde_json::Value {
    json!({
        "decisions": compared.decisions,
        "reproduced": compared.reproduced,
        "without_policy": compared.without_policy,
        "changed": compared.changed,
        "outcomes": compared.outcomes,
        "lost": compared.lost,
        "before": side(&compared.sides[0]),
        "after": side(&compared.sides[1]),
    })
}

fn show(compared: &Compared) {
    let [before, after] = &compared.sides;
    out::line(&format!(
        "{} decisions, {} reproduced bit for bit, {} would go elsewhere",
        compared.decisions, compared.reproduced, compared.changed
    ));
    if compared.lost > 0 {
        let lost = compared.lost;
        out::line(&format!("{lost} records are missing from the log"));
    }
    if compared.without_policy > 0 {
        out::line(&format!(
            "{} were made under policies that are not given",
            compared.without_policy
        ));
    }
    let row = |name: &str, before: String, after: String| {
        out::line(&format!("  {name:<24} {before:>14} {after:>14}"));
    };
    row("", "before".into(), "after".into());
    for (at, tier) in Tier::ALL.into_iter().enumerate() {
        let [b, a] = [before, after].map(|side| side.by_tier[at].to_string());
        row(tier.as_str(), b, a);
    }
    let whole = |name: &str, of: fn(&Side) -> u64| {
        row(name, of(before).to_string(), of(after).to_string());
    };
    whole("refused", |side| side.refused);
    whole("expected in time", |side| side.in_time);
    whole("kept at edge or device", |side| side.kept_private);
    whole("content to the cloud", |side| side.left_the_edge);
    let usd = |side: &Side| format!("${:.6}", side.usd);
    row("expected cost", usd(before), usd(after));
}
