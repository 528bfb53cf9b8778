//! What does it cost that a row's bits depend on neither its batch nor the
//! processor's path?
//!
//! Our products are added in one order with two roundings each, so that every
//! code path can repeat them. The peer is the same engine with products and
//! sums rounded once (fused), as a program does that need not repeat them
//! elsewhere. Both sides take turns within a round: Qwen2.5-0.5B's shape, two
//! threads. `rows_16` is what sixteen streams' next tokens take: sixteen rows
//! at once. Attention rounds twice on both sides.

use anyhow::Context as _;
use clap::Parser as _;
use cli::Flags;
use figures::Figures;
use models::Models;
use others::Watch;
use serde_json::json;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tiermesh_engine::{KernelChoice, KernelPath, LoadOptions, Model, Quantization, Session};

#[path = "common/cli.rs"]
mod cli;
#[path = "common/figures.rs"]
#[expect(dead_code, reason = "the peer has nothing to say of itself")]
mod figures;
#[path = "common/models.rs"]
#[expect(dead_code, reason = "the peer is no other program")]
mod models;
#[path = "common/others.rs"]
mod others;
#[path = "common/process.rs"]
#[expect(dead_code, reason = "only the machine's time is asked here")]
mod process;
#[path = "common/stats.rs"]
mod stats;
#[path = "common/talker.rs"]
#[expect(dead_code, reason = "the peer is no other program")]
mod talker;

const QUESTION: &str = "How many tokens a second are left when products are rounded before they \
    are added, so that bits are the same on every path and in every batch? The ratio is \
    sixteen q8 rows at once, over the same with one rounding.";
/// Rows of sixteen streams' next tokens.
const ROWS: usize = 16;

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Rounds to measure.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let models = Models::find("qwen-0.5b", "tiny-llama", arguments.flags.smoke)?;
    let rounds = if models.is_real() {
        arguments.rounds
    } else {
        2
    };
    models::pool()?.install(|| run(&models, rounds, arguments.flags))
}

fn run(models: &Models, rounds: usize, flags: Flags) -> anyhow::Result<()> {
    let mut figures = Figures::default();
    let exact = KernelChoice::Auto.resolve()?;
    figures.say_ours("kernel", json!(exact.as_str()));
    let Some(fused) = exact.fused() else {
        cli::say("this processor has no AVX-512: there is nothing to compare with");
        return figures.report(QUESTION, "q8_rows_16_tok_s", flags);
    };
    let mut pairs = Vec::new();
    for quantization in [Quantization::Q8, Quantization::Q4] {
        let artifact = models.artifact(quantization)?;
        pairs.push((
            quantization,
            load(&artifact, exact)?,
            load(&artifact, fused)?,
        ));
    }
    for round in 0..rounds {
        let watch = Watch::start([])?;
        for (quantization, exact, fused) in &pairs {
            for (what, rows, calls) in [("decode", 1, 24), ("rows_16", ROWS, 6), ("prompt", 128, 1)]
            {
                let name = format!("{}_{what}_tok_s", quantization.as_str());
                // Who begins changes from round to round.
                if round % 2 == 0 {
                    figures.ours(&name, speed(exact, rows, calls)?);
                    figures.peer(&name, speed(fused, rows, calls)?);
                } else {
                    let theirs = speed(fused, rows, calls)?;
                    figures.ours(&name, speed(exact, rows, calls)?);
                    figures.peer(&name, theirs);
                }
            }
        }
        figures.ours("others_percent_of_a_core", watch.others_percent()?);
    }
    figures.report(QUESTION, "q8_rows_16_tok_s", flags)
}

fn load(artifact: &Path, kernel: KernelPath) -> anyhow::Result<Arc<Model>> {
    let model = Model::load(artifact, LoadOptions::new(kernel, Quantization::Q8));
    let model = model.with_context(|| format!("cannot load {}", artifact.display()))?;
    Ok(Arc::new(model))
}

/// Tokens a second in calls of so many rows, after a short context.
fn speed(model: &Arc<Model>, rows: usize, calls: usize) -> anyhow::Result<f64> {
    let mut session = Session::new(Arc::clone(model));
    let ids: Vec<u32> = (0..rows as u32).map(|id| id % 97 + 1).collect();
    black_box(session.read(&[1, 2, 3])?);
    let began = Instant::now();
    for _ in 0..calls {
        black_box(session.read(&ids)?);
    }
    Ok((rows * calls) as f64 / began.elapsed().as_secs_f64())
}
