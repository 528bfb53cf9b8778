//! How long does a routing decision take, by the number of candidates?
//!
//! What a gateway does for one request, warm: load the snapshot, decide, drop
//! both. Applying one report while somebody holds a snapshot, and turning the
//! plan into the decision a client sees, are timed beside it.

use clap::Parser as _;
use cli::{Flags, Report, say};
use serde_json::{Map, Value, json};
use stats::{median, range, round};
use std::hint::black_box;
use std::time::{Duration, Instant};
use world::World;

#[path = "common/cli.rs"]
mod cli;
#[path = "common/counting.rs"]
mod counting;
#[path = "common/stats.rs"]
mod stats;
#[path = "common/world.rs"]
mod world;

const SIZES: [usize; 4] = [8, 100, 1_000, 10_000];

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
}

/// How long to measure.
struct Effort {
    warm: Duration,
    batch: Duration,
    batches: usize,
}

/// Microseconds a call: the batches' best, median and worst.
struct Timed {
    best: f64,
    median: f64,
    worst: f64,
}

fn main() -> anyhow::Result<()> {
    let flags = Arguments::parse().flags;
    let effort = if flags.smoke {
        Effort {
            warm: Duration::from_millis(5),
            batch: Duration::from_millis(2),
            batches: 5,
        }
    } else {
        Effort {
            warm: Duration::from_millis(300),
            batch: Duration::from_millis(10),
            batches: 100,
        }
    };
    let (mut ours, mut spread) = (Map::new(), Map::new());
    let mut per_report = 0.0;
    say("candidates  load+decide median (best)    +summary   one report   allocations");
    for size in SIZES {
        let mut world = World::new(size)?;
        let decided = time(&effort, |seed| {
            black_box(world.decide(seed));
        });
        let told = time(&effort, |seed| world.summary(seed));
        let allocations = allocations(|seed| {
            black_box(world.decide(seed));
        });
        let reported = time(&effort, |seed| world.report(seed));
        per_report = reported.median;
        say(&format!(
            "{size:>10}  {:>12.2} us ({:>8.2} us)  {:>8.2} us  {:>8.2} us  {allocations:>10.1}",
            decided.median, decided.best, told.median, reported.median,
        ));
        ours.insert(format!("us_at_{size}"), json!(round(decided.median)));
        for (name, figure) in [
            ("best_us_at", decided.best),
            ("with_summary_us_at", told.median),
            ("us_per_report_at", reported.median),
            ("allocations_at", allocations),
        ] {
            ours.insert(format!("{name}_{size}"), json!(round(figure)));
        }
        let ends = json!({"min": round(decided.best), "max": round(decided.worst)});
        spread.insert(format!("us_at_{size}"), ends);
    }
    // At ten thousand, where it costs most.
    ours.insert("us_per_report".to_owned(), json!(round(per_report)));
    Report {
        question: "How long does a routing decision take at 8, 100, 1,000 and 10,000 candidates?",
        ours: Value::Object(ours),
        peer: None,
        ratio: None,
        spread: Value::Object(spread),
        runs: effort.batches,
    }
    .print(flags)
}

/// Times `call` in batches. Its argument differs from call to call.
fn time(effort: &Effort, mut call: impl FnMut(u64)) -> Timed {
    let mut seed = 0_u64;
    let mut run = |calls: u64| {
        let began = Instant::now();
        for _ in 0..calls {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            call(seed);
        }
        began.elapsed()
    };
    let (mut calls, mut warm) = (1_u64, Duration::ZERO);
    while warm < effort.warm {
        let took = run(calls);
        warm += took;
        if took < effort.batch {
            calls *= 2;
        }
    }
    let us: Vec<f64> = (0..effort.batches)
        .map(|_| run(calls).as_secs_f64() * 1e6 / calls as f64)
        .collect();
    let (best, worst) = range(&us);
    Timed {
        best,
        median: median(&us),
        worst,
    }
}

/// Allocations a call, on average over a thousand.
fn allocations(mut call: impl FnMut(u64)) -> f64 {
    let before = counting::allocations();
    for seed in 0..1_000 {
        call(seed);
    }
    (counting::allocations() - before) as f64 / 1e3
}
