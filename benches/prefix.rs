//! How much of a prompt is found computed, and what that saves.
//!
//! Mooncake's trace in its order, through the engine: each of its blocks of 512
//! tokens stands for one page of 16, prompts keep their shared blocks, and
//! answers are one token, so that what is measured is reading. The ceiling is
//! what a cache without end would find; a cache of so many pages is compared
//! with what a least-recently-used one of that size can find at best, which is
//! computed beside it.

use anyhow::Context as _;
use clap::Parser as _;
use cli::{Flags, Report, say};
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::json;
use stats::{quantile, round};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tiermesh_core::{Content, Task};
use tiermesh_engine::{
    Engine, EngineOptions, Job, KernelChoice, LoadOptions, Model, Output, PrefixSharing,
    Quantization,
};

#[path = "common/cli.rs"]
mod cli;
#[path = "common/stats.rs"]
#[expect(dead_code, reason = "medians and ranges are not asked here")]
mod stats;

const QUESTION: &str = "What share of Mooncake's prompt blocks is found in the engine's prefix \
    cache, of what a cache of that size allows? The ratio is that share.";
/// Tokens of a page.
const PAGE: usize = 16;
/// Blocks of a prompt that fit the tiny model's context.
const MOST_BLOCKS: usize = 100;

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// A trace with `hash_ids`, a line a request.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Requests of it.
    #[arg(long, default_value_t = 3_993)]
    requests: usize,
    /// Pages of the cache.
    #[arg(long, default_value_t = 20_000)]
    pages: usize,
}

#[derive(Debug, Deserialize)]
struct Line {
    hash_ids: Vec<u64>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let shared = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/data/traces/mooncake_synthetic.jsonl");
    let path = arguments.trace.clone().unwrap_or(shared);
    let (count, pages) = match arguments.flags.smoke {
        true => (40, 400),
        false => (arguments.requests, arguments.pages),
    };
    let lines = match path.exists() {
        true => read(&path, count)?,
        false => made_up(count),
    };
    let blocks: usize = lines.iter().map(|line| line.len()).sum();
    let ceiling = found(&lines, usize::MAX) as f64 / blocks as f64;
    let allowed = found(&lines, pages) as f64 / blocks as f64;
    let bytes_per_token = bytes_per_token()?;
    let mut first_ms = BTreeMap::new();
    let mut hit = 0.0;
    for (name, sharing) in [
        ("with", PrefixSharing::All),
        ("without", PrefixSharing::Off),
    ] {
        let engine = Engine::start(
            vec![model()?],
            EngineOptions {
                kv_bytes: pages * PAGE * bytes_per_token,
                prefix_sharing: sharing,
                ..EngineOptions::default()
            },
        )?;
        let times = serve(&engine, &lines)?;
        let stats = engine.load().prefix;
        if sharing == PrefixSharing::All {
            hit = stats.found_tokens as f64 / (blocks * PAGE) as f64;
        }
        say(&format!(
            "{name} sharing: first token p50 {:.3} ms, p99 {:.3} ms, {} tokens found",
            quantile(&times, 0.5),
            quantile(&times, 0.99),
            stats.found_tokens
        ));
        first_ms.insert(name, times);
    }
    let p = |name: &str, share: f64| round(quantile(&first_ms[name], share));
    let report = Report {
        question: QUESTION,
        ours: json!({
            "hit_share": round(hit), "allowed_share": round(allowed), "ceiling_share": round(ceiling),
            "share_of_ceiling": round(hit / ceiling), "requests": lines.len(), "pages": pages,
            "first_token_ms_p50": p("with", 0.5), "first_token_ms_p99": p("with", 0.99),
            "without_first_token_ms_p50": p("without", 0.5),
            "without_first_token_ms_p99": p("without", 0.99),
        }),
        peer: None,
        ratio: Some(round(hit / allowed)),
        spread: json!({}),
        runs: 1,
    };
    report.print(arguments.flags)
}

/// The blocks of each request, in the trace's order.
fn read(path: &Path, count: usize) -> anyhow::Result<Vec<Vec<u64>>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let blocks = |line: &str| {
        let line: Line = serde_json::from_str(line)
            .with_context(|| format!("{} has a line without hash_ids", path.display()))?;
        Ok(line.hash_ids.into_iter().take(MOST_BLOCKS).collect())
    };
    text.lines().take(count).map(blocks).collect()
}

/// Requests that share beginnings, for where the trace is not.
fn made_up(count: usize) -> Vec<Vec<u64>> {
    let blocks = |request: u64| {
        (0..6).map(move |n| {
            if n < 3 {
                n + 10 * (request % 4)
            } else {
                1000 * request + n
            }
        })
    };
    (0..count as u64)
        .map(|request| blocks(request).collect())
        .collect()
}

/// Blocks that a cache of so many would find, the least recently used one
/// going first and none without those before it. The last page of a prompt is
/// always read: its logits are asked for.
fn found(requests: &[Vec<u64>], pages: usize) -> usize {
    // A block is one only after the same blocks.
    let mut places: BTreeMap<(usize, u64), usize> = BTreeMap::new();
    let mut used: BTreeMap<usize, u64> = BTreeMap::new();
    let mut order: BTreeSet<(u64, std::cmp::Reverse<usize>)> = BTreeSet::new();
    let (mut tick, mut total) = (0, 0);
    for blocks in requests {
        let (mut at, mut hit) = (0, true);
        for block in blocks {
            let next = places.len() + 1;
            at = *places.entry((at, *block)).or_insert(next);
            hit &= used.contains_key(&at);
            total += usize::from(hit);
            tick += 1;
            // Later blocks of a prompt go before earlier ones.
            let mark = tick - tick % (1 << 12);
            if let Some(before) = used.insert(at, mark) {
                order.remove(&(before, std::cmp::Reverse(at)));
            }
            order.insert((mark, std::cmp::Reverse(at)));
            while used.len() > pages {
                let Some((_, std::cmp::Reverse(gone))) = order.pop_first() else {
                    break;
                };
                used.remove(&gone);
            }
        }
        tick = (tick / (1 << 12) + 1) * (1 << 12);
    }
    total
}

fn model() -> anyhow::Result<Model> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/engine/tests/fixtures");
    let options = LoadOptions::new(KernelChoice::Auto.resolve()?, Quantization::Q8);
    Ok(Model::load(&fixtures.join("tiny-llama"), options)?)
}

fn bytes_per_token() -> anyhow::Result<usize> {
    let engine = Engine::start(vec![model()?], EngineOptions::default())?;
    let load = engine.load();
    let tokens = load
        .models
        .first()
        .map_or(1, |state| state.kv_tokens_free as usize);
    Ok(load.kv_budget_bytes.div_ceil(tokens.max(1)))
}

/// One request after the other; milliseconds to the first token of each.
fn serve(engine: &Engine, requests: &[Vec<u64>]) -> anyhow::Result<Vec<f64>> {
    let model = engine
        .models()
        .next()
        .context("the engine has a model")?
        .id
        .clone();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut times = Vec::with_capacity(requests.len());
    for blocks in requests {
        // A token a digit: sixteen of them are a page.
        let text: String = blocks
            .iter()
            .map(|block| format!("{block:0PAGE$}"))
            .collect();
        let job = Job::new(model.clone(), Task::Generate, Content::Prompt(text), 1);
        let asked = Instant::now();
        let mut stream = engine.submit(job)?;
        let took = runtime.block_on(async {
            let mut took = None;
            while let Some(output) = stream.next().await {
                if let Output::Tokens { .. } = output? {
                    took.get_or_insert(asked.elapsed());
                }
            }
            Ok::<_, anyhow::Error>(took.unwrap_or_else(|| asked.elapsed()))
        })?;
        times.push(took.as_secs_f64() * 1e3);
    }
    Ok(times)
}
