//! What is left of goodput when more is asked than can be answered?
//!
//! Two nodes in memory with so many places each. Requests arrive at one to
//! five times what they can answer, whether or not the earlier ones are done,
//! and an answer counts if it is whole within its deadline. The other side is
//! the same nodes behind a queue without a bound, first come, first served.
//! One request in ten is urgent.

use clap::Parser as _;
use cli::{Flags, Report, say};
use futures::{FutureExt as _, StreamExt as _};
use scripted::{Node, Scripted, request};
use serde_json::{Map, Value, json};
use stats::{quantile, round};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tiermesh_core::{
    Clock, Context, Deadline, Destination, ErrorClass, EventStream, Fleet, Infer, InferError,
    InferFuture, MonotonicClock, NodeId, Request, Sealed, Snapshot, Tier,
};
use tiermesh_decision::Policies;
use tiermesh_router::{BreakerConfig, Breakers, Dispatcher, Options, Setup};
use tokio::sync::Semaphore;

#[path = "common/cli.rs"]
mod cli;
#[path = "common/scripted.rs"]
mod scripted;
#[path = "common/stats.rs"]
#[expect(dead_code, reason = "shared with other benchmarks")]
mod stats;

const QUESTION: &str = "How much of its peak does goodput keep at one to five times the capacity? \
    The ratio is ours at 5x over an unbounded queue's; the goal is 90 % of the peak.";
const NODES: usize = 2;
const PLACES: u32 = 16;
const TOKENS: u64 = 10;
const PAUSE: Duration = Duration::from_millis(4);
/// An answer that takes longer is worth nothing.
const DEADLINE: Duration = Duration::from_millis(250);
const URGENT: u8 = 5;

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Seconds at each load.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// A node with so many places, which refuses one stream more.
struct Bounded {
    node: Arc<Node>,
    active: Arc<AtomicU32>,
}

struct Place(Arc<AtomicU32>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Infer for Bounded {
    fn infer(&self, asked: Arc<Sealed<Request>>, context: Context) -> InferFuture<'_> {
        if self.active.fetch_add(1, Ordering::AcqRel) >= PLACES {
            self.active.fetch_sub(1, Ordering::AcqRel);
            let full = InferError::new(ErrorClass::Exhausted, "QUEUE_FULL", "full");
            return Box::pin(std::future::ready(Err(full)));
        }
        let place = Place(Arc::clone(&self.active));
        let opened = self.node.infer(asked, context).map(|opened| {
            let held = opened?.map(move |event| {
                let _ = &place;
                event
            });
            Ok(Box::pin(held) as EventStream)
        });
        Box::pin(opened)
    }
}

/// The scripted fleet with each node's free places told as they are.
struct Places {
    fleet: Scripted,
    active: Vec<Arc<AtomicU32>>,
}

impl Places {
    fn new() -> Arc<Self> {
        let said = Arc::<AtomicU64>::default();
        let node = |_| Node {
            tokens: TOKENS,
            pause: PAUSE,
            said: Arc::clone(&said),
        };
        Arc::new(Self {
            fleet: Scripted::new((0..NODES).map(node).collect()),
            active: (0..NODES).map(|_| Arc::default()).collect(),
        })
    }
}

impl Fleet for Places {
    fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.fleet.snapshot();
        for (candidate, active) in snapshot.candidates.iter_mut().zip(&self.active) {
            let active = active.load(Ordering::Acquire);
            candidate.credits_free = PLACES.saturating_sub(active);
            candidate.load = active as f32 / PLACES as f32;
        }
        snapshot
    }

    fn node(&self, node: &NodeId) -> Option<Arc<dyn Infer>> {
        let at = self.fleet.nodes.keys().position(|known| known == node)?;
        Some(Arc::new(Bounded {
            node: Arc::clone(self.fleet.nodes.get(node)?),
            active: Arc::clone(&self.active[at]),
        }))
    }
}

/// The same nodes behind one queue that takes everybody.
struct Unbounded {
    fleet: Arc<Places>,
    places: Arc<Semaphore>,
    turn: AtomicU64,
}

impl Infer for Unbounded {
    fn infer(&self, asked: Arc<Sealed<Request>>, context: Context) -> InferFuture<'_> {
        Box::pin(async move {
            let place = Arc::clone(&self.places).acquire_owned().await;
            let place = place.map_err(|_| InferError::unavailable("closed"))?;
            let at = self.turn.fetch_add(1, Ordering::Relaxed) as usize % NODES;
            let node = self.fleet.fleet.nodes.values().nth(at).expect("a node");
            let events = node.infer(asked, context).await?.map(move |event| {
                let _ = &place;
                event
            });
            Ok(Box::pin(events) as EventStream)
        })
    }
}

fn ours(clock: Arc<dyn Clock>) -> Arc<dyn Infer> {
    Arc::new(Dispatcher::new(Setup {
        own: Destination {
            tier: Tier::Cloud,
            region: None,
            node: NodeId::new("gateway").expect("a name"),
            owner: None,
        },
        fleet: Places::new(),
        policies: Policies::builtin(),
        breakers: Breakers::new(BreakerConfig::default(), 1),
        clock,
        options: Options::default(),
    }))
}

fn unbounded() -> Arc<dyn Infer> {
    Arc::new(Unbounded {
        fleet: Places::new(),
        places: Arc::new(Semaphore::new(NODES * PLACES as usize)),
        turn: AtomicU64::new(0),
    })
}

/// What became of one request.
struct Outcome {
    urgent: bool,
    good: bool,
    /// Milliseconds until it was refused, if it was.
    refused_ms: Option<f64>,
    first_token_ms: Option<f64>,
}

async fn one(
    infer: Arc<dyn Infer>,
    asked: Arc<Sealed<Request>>,
    clock: Arc<dyn Clock>,
    urgent: bool,
) -> Outcome {
    let (started, now) = (Instant::now(), clock.now());
    let ms = || started.elapsed().as_secs_f64() * 1e3;
    let context = Context {
        priority: if urgent { URGENT } else { 0 },
        deadline: Deadline {
            first_token: Some(now + DEADLINE / 2),
            total: Some(now + DEADLINE),
        },
        ..Context::default()
    };
    let mut outcome = Outcome {
        urgent,
        good: false,
        refused_ms: None,
        first_token_ms: None,
    };
    let Ok(mut events) = infer.infer(asked, context).await else {
        outcome.refused_ms = Some(ms());
        return outcome;
    };
    while let Some(event) = events.next().await {
        match event {
            Ok(tiermesh_core::Event::Tokens { .. }) => {
                outcome.first_token_ms.get_or_insert_with(ms);
            }
            Ok(tiermesh_core::Event::Done(_)) => outcome.good = started.elapsed() <= DEADLINE,
            Ok(_) => {}
            Err(_) => return outcome,
        }
    }
    outcome
}

/// Requests at a rate, whether or not the earlier ones are done.
async fn load(
    infer: &Arc<dyn Infer>,
    clock: &Arc<dyn Clock>,
    rate: f64,
    seconds: f64,
) -> anyhow::Result<Vec<Outcome>> {
    let asked = request(u32::try_from(TOKENS)?, "ann")?;
    let (started, mut tasks, mut sent) = (Instant::now(), Vec::new(), 0_usize);
    while started.elapsed().as_secs_f64() < seconds {
        let due = (started.elapsed().as_secs_f64() * rate) as usize;
        while sent < due {
            let answer = one(
                Arc::clone(infer),
                Arc::clone(&asked),
                Arc::clone(clock),
                sent % 10 == 0,
            );
            tasks.push(tokio::spawn(answer));
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut outcomes = Vec::with_capacity(tasks.len());
    for task in tasks {
        outcomes.push(task.await?);
    }
    Ok(outcomes)
}

/// Answers a second with every place taken all the time.
async fn capacity(
    infer: &Arc<dyn Infer>,
    clock: &Arc<dyn Clock>,
    seconds: f64,
) -> anyhow::Result<f64> {
    let asked = request(u32::try_from(TOKENS)?, "ann")?;
    let started = Instant::now();
    let workers = (0..NODES * PLACES as usize).map(|_| {
        let (infer, asked, clock) = (Arc::clone(infer), Arc::clone(&asked), Arc::clone(clock));
        tokio::spawn(async move {
            let mut done = 0_u64;
            while started.elapsed().as_secs_f64() < seconds {
                let outcome = one(
                    Arc::clone(&infer),
                    Arc::clone(&asked),
                    Arc::clone(&clock),
                    false,
                );
                done += u64::from(outcome.await.good);
            }
            done
        })
    });
    let mut done = 0;
    for worker in workers.collect::<Vec<_>>() {
        done += worker.await?;
    }
    Ok(done as f64 / started.elapsed().as_secs_f64())
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()?;
    runtime.block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let seconds = if arguments.flags.smoke {
        0.5
    } else {
        arguments.seconds
    };
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let rate = capacity(&unbounded(), &clock, seconds).await?;
    say(&format!("capacity: {rate:.0} answers a second"));
    let (mut us, mut them) = (Map::new(), Map::new());
    us.insert("capacity_per_s".to_owned(), json!(round(rate)));
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    for times in 1..=5_u32 {
        let at = rate * f64::from(times);
        for (name, infer, into, all) in [
            ("ours", ours(Arc::clone(&clock)), &mut us, &mut mine),
            ("unbounded", unbounded(), &mut them, &mut theirs),
        ] {
            let outcomes = load(&infer, &clock, at, seconds).await?;
            let goodput = outcomes.iter().filter(|o| o.good).count() as f64 / seconds;
            all.push(goodput);
            figures(name, times, goodput, &outcomes, into);
        }
    }
    let kept = |all: &[f64]| all[4] / quantile(all, 1.0);
    us.insert("kept_of_peak_at_5x".to_owned(), json!(round(kept(&mine))));
    them.insert("kept_of_peak_at_5x".to_owned(), json!(round(kept(&theirs))));
    say(&format!(
        "kept of the peak at 5x: ours {:.3}, unbounded {:.3}",
        kept(&mine),
        kept(&theirs)
    ));
    Report {
        question: QUESTION,
        ours: Value::Object(us),
        peer: Some(Value::Object(them)),
        ratio: Some(round(mine[4] / theirs[4].max(1.0))),
        spread: json!({}),
        runs: 5,
    }
    .print(arguments.flags)
}

fn figures(
    name: &str,
    times: u32,
    goodput: f64,
    outcomes: &[Outcome],
    into: &mut Map<String, Value>,
) {
    let some = |of: fn(&Outcome) -> Option<f64>| outcomes.iter().filter_map(of).collect::<Vec<_>>();
    let first = some(|o| o.first_token_ms.filter(|_| o.good));
    let refused = some(|o| o.refused_ms);
    let urgent: Vec<_> = outcomes.iter().filter(|o| o.urgent).collect();
    let served = urgent.iter().filter(|o| o.good).count() as f64 / urgent.len().max(1) as f64;
    let or_none = |samples: &[f64], share: f64| {
        (!samples.is_empty()).then(|| round(quantile(samples, share)))
    };
    say(&format!(
        "{times}x {name:<10} goodput {goodput:>7.0}/s, first token p50 {:?} p99 {:?} ms, refused {} (p50 {:?} ms), urgent served {:.3}",
        or_none(&first, 0.5),
        or_none(&first, 0.99),
        refused.len(),
        or_none(&refused, 0.5),
        served,
    ));
    into.insert(format!("goodput_per_s_{times}x"), json!(round(goodput)));
    into.insert(
        format!("first_token_p99_ms_{times}x"),
        json!(or_none(&first, 0.99)),
    );
    into.insert(format!("urgent_served_{times}x"), json!(round(served)));
}
