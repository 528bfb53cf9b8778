//! Does memory stay flat while an engine writes a million tokens?
//!
//! Clients with prompts of all lengths, some sharing their beginnings, some
//! leaving in the middle, against a cache that is too small for all of them at
//! once. Resident memory is looked at after every hundredth of the tokens;
//! growth is from the tenth of the run to its end.

use anyhow::Context as _;
use clap::Parser as _;
use cli::{Flags, Report, say};
use futures::StreamExt as _;
use serde_json::json;
use stats::round;
use std::cell::Cell;
use std::path::Path;
use std::time::Instant;
use tiermesh_core::{Content, Task, UserId};
use tiermesh_engine::{
    Engine, EngineOptions, Job, KernelChoice, LoadOptions, Model, Output, Quantization,
};

#[path = "common/cli.rs"]
mod cli;
#[path = "common/process.rs"]
#[expect(dead_code, reason = "only resident memory is asked here")]
mod process;
#[path = "common/stats.rs"]
#[expect(dead_code, reason = "there is one run")]
mod stats;

const QUESTION: &str = "By how much does resident memory grow while an engine writes a million \
    tokens with random cancels? `growth_mib` is from a tenth of the run to its end.";
const CLIENTS: usize = 48;

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Tokens to write.
    #[arg(long, default_value_t = 1_000_000)]
    tokens: usize,
    /// Of lengths, cancels and prompts.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

struct Run {
    engine: Engine,
    target: usize,
    written: Cell<usize>,
    cancelled: Cell<usize>,
    requests: Cell<usize>,
    resident_mib: Cell<Vec<f64>>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let target = if arguments.flags.smoke {
        4_000
    } else {
        arguments.tokens
    };
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/engine/tests/fixtures");
    let options = LoadOptions::new(KernelChoice::Auto.resolve()?, Quantization::Q8);
    let model = Model::load(&fixtures.join("tiny-llama"), options)?;
    let run = Run {
        // Some forty streams of a thousand tokens would need four times this.
        engine: Engine::start(
            vec![model],
            EngineOptions {
                kv_bytes: 8 << 20,
                ..EngineOptions::default()
            },
        )?,
        target,
        written: Cell::default(),
        cancelled: Cell::default(),
        requests: Cell::default(),
        resident_mib: Cell::default(),
    };
    say(&format!(
        "seed {}, {target} tokens, {CLIENTS} clients",
        arguments.seed
    ));
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let clients = (0..CLIENTS).map(|n| client(&run, n, arguments.seed));
        futures::future::try_join_all(clients).await
    })?;
    let took = began.elapsed().as_secs_f64();
    let resident = run.resident_mib.take();
    let early = *resident
        .get(resident.len() / 10)
        .context("memory was looked at")?;
    let end = *resident.last().context("memory was looked at")?;
    let most = resident.iter().copied().fold(0.0, f64::max);
    let load = run.engine.load();
    let report = Report {
        question: QUESTION,
        ours: json!({
            "tokens": run.written.get(), "requests": run.requests.get(),
            "cancelled": run.cancelled.get(), "seconds": round(took),
            "tokens_s": round(run.written.get() as f64 / took),
            "resident_mib_at_a_tenth": round(early), "resident_mib_at_the_end": round(end),
            "resident_mib_most": round(most), "growth_mib": round(end - early),
            "kv_used_mib": round(load.kv_used_bytes as f64 / 1048576.0),
            "prefix_tokens_found": load.prefix.found_tokens,
        }),
        peer: None,
        ratio: None,
        spread: json!({}),
        runs: 1,
    };
    report.print(arguments.flags)
}

async fn client(run: &Run, number: usize, seed: u64) -> anyhow::Result<()> {
    let mut lots =
        fastrand::Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
    let model = run
        .engine
        .models()
        .next()
        .context("the engine has a model")?
        .id
        .clone();
    while run.written.get() < run.target {
        let family = lots.usize(0..6);
        let text = "shared beginning of many prompts ".repeat(family * 3)
            + &"and its own end ".repeat(lots.usize(1..30));
        let mut job = Job::new(
            model.clone(),
            Task::Generate,
            Content::Prompt(text),
            lots.u32(1..400),
        );
        job.user = UserId::new(format!("user-{}", number % 7))?;
        job.priority = lots.u8(0..4);
        job.seed = lots.u64(..);
        let leaves_after = lots.bool().then(|| lots.usize(0..200));
        run.requests.set(run.requests.get() + 1);
        let mut stream = run.engine.submit(job)?;
        let mut mine = 0;
        while let Some(output) = stream.next().await {
            if let Output::Tokens { items, .. } = output? {
                mine += items.len();
                count(run, items.len())?;
            }
            if leaves_after.is_some_and(|most| mine >= most) {
                run.cancelled.set(run.cancelled.get() + 1);
                break;
            }
        }
    }
    Ok(())
}

/// Counts tokens, and looks at memory now and then.
fn count(run: &Run, tokens: usize) -> anyhow::Result<()> {
    let before = run.written.get();
    run.written.set(before + tokens);
    let share = |n: usize| n * 100 / run.target;
    if share(before) != share(before + tokens) {
        let mut resident = run.resident_mib.take();
        resident.push(process::resident_mib(std::process::id())?);
        run.resident_mib.set(resident);
    }
    Ok(())
}
