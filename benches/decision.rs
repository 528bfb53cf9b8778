//! How long does a routing decision take, by the number of candidates?
//!
//! The function alone, warm: snapshot in, plan out. Copying the snapshot, and
//! turning the plan into the decision a client sees, are timed beside it.

use clap::Parser as _;
use cli::{Flags, Report, say};
use serde_json::{Map, Value, json};
use stats::{median, range, round};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tiermesh_core::{
    BreakerState, CandidateState, Content, Context, ModelId, ModelOffer, ModelState, NodeId,
    PolicyName, RawRequest, RequestMeta, Snapshot, Task, Tier, Time, Usd, UserId,
};
use tiermesh_decision::{Policies, Policy, Question, decide};

#[path = "common/cli.rs"]
mod cli;
#[path = "common/stats.rs"]
mod stats;

const SIZES: [usize; 4] = [8, 100, 1_000, 10_000];
const NOW: Time = Time::from_us(5_000_000);

/// The system's allocator, counted.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

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
            warm: Duration::from_millis(500),
            batch: Duration::from_millis(10),
            batches: 150,
        }
    };
    let policies = Policies::builtin();
    let policy = policies.require(policies.default_name())?;
    let (mut ours, mut spread) = (Map::new(), Map::new());
    say("candidates  decide median (best)      copy snapshot   decide+summary   allocations");
    for size in SIZES {
        let world = World::new(size, policy)?;
        let decided = time(&effort, |seed| drop(black_box(world.plan(seed))));
        let copied = time(&effort, |_| drop(black_box(world.snapshot.clone())));
        let told = time(&effort, |seed| world.summary(seed));
        let allocations = allocations(|seed| drop(black_box(world.plan(seed))));
        say(&format!(
            "{size:>10}  {:>10.2} us ({:>8.2} us)  {:>10.2} us  {:>12.2} us  {allocations:>10.1}",
            decided.median, decided.best, copied.median, told.median,
        ));
        ours.insert(format!("us_at_{size}"), json!(round(decided.median)));
        for (name, figure) in [
            ("best_us_at", decided.best),
            ("snapshot_copy_us_at", copied.median),
            ("with_summary_us_at", told.median),
            ("allocations_at", allocations),
        ] {
            ours.insert(format!("{name}_{size}"), json!(round(figure)));
        }
        let ends = json!({"min": round(decided.best), "max": round(decided.worst)});
        spread.insert(format!("us_at_{size}"), ends);
    }
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
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for seed in 0..1_000 {
        call(seed);
    }
    (ALLOCATIONS.load(Ordering::Relaxed) - before) as f64 / 1e3
}

/// A gateway's view of so many candidates, and a request.
struct World<'a> {
    snapshot: Snapshot,
    meta: RequestMeta,
    context: Context,
    policy: &'a Policy,
    own: NodeId,
}

impl<'a> World<'a> {
    /// One candidate in four is a device, one of them the user's; one in
    /// sixty-four a cloud model; the rest are edges. One in sixteen cannot be
    /// asked: no credit, or an open breaker.
    fn new(size: usize, policy: &'a Policy) -> anyhow::Result<Self> {
        let raw = RawRequest {
            request_id: "r".into(),
            user_id: "user-0".into(),
            policy: PolicyName::as_str(&policy.name).to_owned(),
            content: Some(Content::Prompt(
                "a title of some forty bytes, as usual".into(),
            )),
            max_tokens: Some(64),
            ..RawRequest::default()
        };
        let small = Arc::new(offer("small", 0.6, 0.0)?);
        let large = Arc::new(offer("large", 0.9, 3.0)?);
        let candidates = (0..size).map(|index| candidate(index, &small, &large));
        Ok(Self {
            snapshot: Snapshot {
                epoch: 7,
                sequence: 11,
                candidates: candidates.collect::<anyhow::Result<_>>()?,
            },
            meta: raw.validate()?.meta,
            context: Context::default(),
            policy,
            own: NodeId::new("gateway-1")?,
        })
    }

    fn question(&self, seed: u64) -> Question<'_> {
        Question {
            meta: &self.meta,
            context: &self.context,
            policy: self.policy,
            own: &self.own,
            now: NOW,
            seed,
        }
    }

    fn plan(&self, seed: u64) -> tiermesh_decision::Plan {
        decide(&self.question(seed), &self.snapshot).expect("an edge can always be asked")
    }

    fn summary(&self, seed: u64) {
        let plan = self.plan(seed);
        black_box(plan.summary(&self.question(seed), &self.snapshot, 0));
    }
}

fn offer(id: &str, quality: f32, usd_per_million: f64) -> anyhow::Result<ModelOffer> {
    let price = Usd::from_dollars(usd_per_million).unwrap_or(Usd::ZERO);
    Ok(ModelOffer {
        id: ModelId::new(id)?,
        family: "family".into(),
        digest: None,
        numerics_id: None,
        tasks: vec![Task::Generate, Task::Chat],
        context_tokens: 4096,
        quality,
        input_per_million: price,
        output_per_million: price,
    })
}

fn candidate(
    index: usize,
    small: &Arc<ModelOffer>,
    large: &Arc<ModelOffer>,
) -> anyhow::Result<CandidateState> {
    let tier = match index % 64 {
        1 => Tier::Cloud,
        at if at % 4 == 0 => Tier::Device,
        _ => Tier::Mec,
    };
    // Speeds and loads that differ, so that the ranking has something to do.
    let spread = (index.wrapping_mul(2_654_435_761) >> 7) % 1_000;
    let share = spread as f32 / 1_000.0;
    let first_token_ms = 5.0 + 40.0 * share;
    let owner = format!("user-{index}");
    Ok(CandidateState {
        node: NodeId::new(format!("{}-{index}", tier.as_str()))?,
        tier,
        region: None,
        owner: match tier {
            Tier::Device => Some(UserId::new(owner)?),
            Tier::Mec | Tier::Cloud => None,
        },
        transit: None,
        model: if tier == Tier::Cloud { large } else { small }.clone(),
        state: ModelState {
            prefill_tok_s: 2_000.0,
            decode_tok_s: 40.0 + 60.0 * share,
            first_token_ms,
            first_token_p99_ms: first_token_ms * 2.0,
            ..ModelState::default()
        },
        rtt_ms: 0.2 + 10.0 * share,
        credits_free: if index % 32 == 7 { 0 } else { 4 },
        load: share,
        battery_percent: None,
        report_age: Duration::from_millis(100),
        breaker: match index % 32 {
            23 => BreakerState::Open {
                retry_in: Duration::from_secs(30),
            },
            _ => BreakerState::Closed,
        },
    })
}
