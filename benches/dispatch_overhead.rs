//! What does dispatch add to a request and to a token?
//!
//! The same node in memory is asked directly and through a dispatcher, in
//! turns, on one thread. It says its tokens at once, so all the time there is
//! belongs to the path: decision, breaker, budget, attempt and relay. A
//! request's share is that of an answer of one token; a token's is the slope
//! from there to a long answer.

use clap::Parser as _;
use cli::{Flags, Report, say};
use futures::StreamExt as _;
use scripted::{Node, Scripted, request};
use serde_json::{Map, Value, json};
use stats::{median, range, round};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use tiermesh_core::{
    Context, Destination, Fleet as _, Infer, MonotonicClock, NodeId, Request, Sealed, Tier,
};
use tiermesh_decision::Policies;
use tiermesh_router::{BreakerConfig, Breakers, Dispatcher, Options, Setup};

#[path = "common/cli.rs"]
mod cli;
#[path = "common/counting.rs"]
mod counting;
#[path = "common/scripted.rs"]
mod scripted;
#[path = "common/stats.rs"]
mod stats;

const QUESTION: &str = "What does dispatch add to a request, and to each of its tokens? Time is \
    the thread's; goals are 20 us a request and 1 us a token.";
/// A long answer's tokens.
const LONG: u64 = 1_000;
/// Nodes the dispatcher picks among.
const NODES: usize = 8;

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Rounds to measure.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
}

/// What one answer took.
#[derive(Clone, Copy)]
struct Cost {
    us: f64,
    allocations: f64,
}

async fn read(infer: &dyn Infer, asked: &Arc<Sealed<Request>>) -> anyhow::Result<usize> {
    let mut events = infer.infer(Arc::clone(asked), Context::default()).await?;
    let mut heard = 0;
    while let Some(event) = events.next().await {
        event?;
        heard += 1;
    }
    Ok(heard)
}

async fn measure(
    infer: &dyn Infer,
    asked: &Arc<Sealed<Request>>,
    answers: usize,
) -> anyhow::Result<Cost> {
    let (before, started) = (counting::allocations(), Instant::now());
    for _ in 0..answers {
        std::hint::black_box(read(infer, asked).await?);
    }
    let us = started.elapsed().as_secs_f64() * 1e6;
    let allocations = counting::allocations() - before;
    Ok(Cost {
        us: us / answers as f64,
        allocations: allocations as f64 / answers as f64,
    })
}

fn dispatcher(tokens: u64) -> (Arc<Scripted>, Dispatcher) {
    let said = Arc::<AtomicU64>::default();
    let node = || Node {
        tokens,
        pause: Duration::ZERO,
        said: Arc::clone(&said),
    };
    let fleet = Arc::new(Scripted::new((0..NODES).map(|_| node()).collect()));
    let dispatcher = Dispatcher::new(Setup {
        own: Destination {
            tier: Tier::Cloud,
            region: None,
            node: NodeId::new("gateway").expect("a name"),
            owner: None,
        },
        fleet: fleet.clone(),
        policies: Policies::builtin(),
        breakers: Breakers::new(BreakerConfig::default(), 1),
        clock: Arc::new(MonotonicClock::new()),
        options: Options::default(),
    });
    (fleet, dispatcher)
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    runtime.block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (rounds, short, long) = match arguments.flags.smoke {
        true => (2, 50, 2),
        false => (arguments.rounds, 4_000, 60),
    };
    let names = [
        "us_per_request",
        "us_per_token",
        "allocations_per_request",
        "allocations_per_token",
    ];
    let mut samples: [Vec<f64>; 4] = Default::default();
    for _ in 0..rounds {
        let (one_fleet, one) = dispatcher(1);
        let (many_fleet, many) = dispatcher(LONG);
        let asked_one = request(1, "ann")?;
        let asked_many = request(u32::try_from(LONG)?, "ann")?;
        let edge = NodeId::new("edge-0")?;
        let direct = |fleet: &Scripted| fleet.node(&edge).ok_or_else(|| anyhow::anyhow!("no node"));
        let (direct_one, direct_many) = (direct(&one_fleet)?, direct(&many_fleet)?);
        let base = measure(&*direct_one, &asked_one, short).await?;
        let ours = measure(&one, &asked_one, short).await?;
        let base_many = measure(&*direct_many, &asked_many, long).await?;
        let ours_many = measure(&many, &asked_many, long).await?;
        let request = |of: fn(Cost) -> f64| of(ours) - of(base);
        let whole = |of: fn(Cost) -> f64| of(ours_many) - of(base_many);
        let token = |of: fn(Cost) -> f64| (whole(of) - request(of)) / (LONG - 1) as f64;
        let figures = [
            request(|c| c.us),
            token(|c| c.us),
            request(|c| c.allocations),
            token(|c| c.allocations),
        ];
        for (samples, figure) in samples.iter_mut().zip(figures) {
            samples.push(figure);
        }
    }
    report(arguments.flags, &names, &samples)
}

fn report(flags: Flags, names: &[&str], samples: &[Vec<f64>]) -> anyhow::Result<()> {
    let (mut ours, mut spread) = (Map::new(), Map::new());
    for (name, samples) in names.iter().zip(samples) {
        let (least, most) = range(samples);
        say(&format!(
            "{name:<28} {:>10} ({}–{})",
            round(median(samples)),
            round(least),
            round(most)
        ));
        ours.insert((*name).to_owned(), json!(round(median(samples))));
        spread.insert(
            (*name).to_owned(),
            json!({"min": round(least), "max": round(most)}),
        );
    }
    ours.insert("nodes".to_owned(), json!(NODES));
    Report {
        question: QUESTION,
        ours: Value::Object(ours),
        peer: None,
        ratio: None,
        spread: Value::Object(spread),
        runs: samples[0].len(),
    }
    .print(flags)
}
