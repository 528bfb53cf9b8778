//! By how much do many streams at once overshoot one budget?
//!
//! So many clients share a user's budget and ask again as long as they are let
//! in. Ours reserves and grows; the other side counts what an answer cost once
//! it is there, as most gateways do, over the same nodes. Overshoot is what
//! the nodes wrote for the user, over the budget.

use clap::Parser as _;
use cli::{Flags, Report, say};
use futures::StreamExt as _;
use scripted::{Node, Scripted, TOKEN_NANOS, request};
use serde_json::{Map, Value, json};
use stats::round;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tiermesh_core::{
    Context, Destination, Event, Fleet as _, Infer, MonotonicClock, NodeId, Tier, Usd,
};
use tiermesh_decision::Policies;
use tiermesh_router::{BreakerConfig, Breakers, BudgetLimits, Dispatcher, Options, Setup, Window};

#[path = "common/cli.rs"]
mod cli;
#[path = "common/scripted.rs"]
mod scripted;
#[path = "common/stats.rs"]
#[expect(dead_code, reason = "shared with other benchmarks")]
mod stats;

const QUESTION: &str = "By how many percent do 1 to 512 streams at once overshoot one budget, \
    against counting after each response? The ratio is at 128 streams; the goal is 0.1 %.";
/// An answer's tokens.
const TOKENS: u64 = 100;
/// The budget, in tokens.
const BUDGET: u64 = 40_000;
/// Between two tokens the others go on.
const PAUSE: Duration = Duration::from_micros(1);

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
}

fn fleet(said: &Arc<AtomicU64>) -> Arc<Scripted> {
    let node = || Node {
        tokens: TOKENS,
        pause: PAUSE,
        said: Arc::clone(said),
    };
    Arc::new(Scripted::new(vec![node(), node(), node()]))
}

/// What one run wrote, and what its ledger says.
struct Outcome {
    written: u64,
    booked: u64,
    left_open: usize,
}

/// Reads answers until one is refused.
async fn keep_asking(infer: Arc<dyn Infer>) -> anyhow::Result<()> {
    let asked = request(u32::try_from(TOKENS)?, "ann")?;
    loop {
        let Ok(mut events) = infer.infer(Arc::clone(&asked), Context::default()).await else {
            return Ok(());
        };
        while let Some(event) = events.next().await {
            if event.is_err() {
                return Ok(());
            }
        }
    }
}

async fn ours(streams: usize, budget: u64) -> anyhow::Result<Outcome> {
    let said = Arc::<AtomicU64>::default();
    let clock = Arc::new(MonotonicClock::new());
    let dispatcher = Arc::new(Dispatcher::new(Setup {
        own: Destination {
            tier: Tier::Cloud,
            region: None,
            node: NodeId::new("gateway")?,
            owner: None,
        },
        fleet: fleet(&said),
        policies: Policies::builtin(),
        breakers: Breakers::new(BreakerConfig::default(), 1),
        clock: clock.clone(),
        options: Options {
            budgets: BudgetLimits {
                user: Some(Window {
                    most: Usd::from_nanos(budget * TOKEN_NANOS),
                    per: Duration::from_secs(86_400),
                }),
                ..BudgetLimits::default()
            },
            ..Options::default()
        },
    }));
    let clients = (0..streams).map(|_| tokio::spawn(keep_asking(dispatcher.clone())));
    for client in futures::future::join_all(clients).await {
        client??;
    }
    let ledger = dispatcher.ledger();
    let (settled, _) = ledger.of_user(
        &tiermesh_core::UserId::new("ann")?,
        tiermesh_core::Clock::now(&*clock),
    );
    Ok(Outcome {
        written: said.load(Ordering::Relaxed),
        booked: settled.as_nanos() / TOKEN_NANOS,
        left_open: ledger.open(),
    })
}

/// Lets a request in while the count is below the budget, and counts at its
/// end.
async fn count_after(streams: usize, budget: u64) -> anyhow::Result<Outcome> {
    let said = Arc::<AtomicU64>::default();
    let (fleet, spent) = (fleet(&said), Arc::<AtomicU64>::default());
    let asked = request(u32::try_from(TOKENS)?, "ann")?;
    let clients = (0..streams).map(|n| {
        let node = fleet.node(&NodeId::new(format!("edge-{}", n % 3)).expect("a name"));
        let (node, asked, spent) = (
            node.expect("a node"),
            Arc::clone(&asked),
            Arc::clone(&spent),
        );
        tokio::spawn(async move {
            while spent.load(Ordering::SeqCst) < budget {
                let mut events = node.infer(Arc::clone(&asked), Context::default()).await?;
                let mut tokens = 0;
                while let Some(event) = events.next().await {
                    if let Event::Tokens { items, .. } = event? {
                        tokens += items.len() as u64;
                    }
                }
                spent.fetch_add(tokens, Ordering::SeqCst);
            }
            anyhow::Ok(())
        })
    });
    for client in futures::future::join_all(clients).await {
        client??;
    }
    Ok(Outcome {
        written: said.load(Ordering::Relaxed),
        booked: spent.load(Ordering::Relaxed),
        left_open: 0,
    })
}

fn percent(written: u64, budget: u64) -> f64 {
    (written as f64 - budget as f64) / budget as f64 * 100.0
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()?;
    runtime.block_on(run(arguments.flags))
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let (counts, budget): (&[usize], u64) = match flags.smoke {
        true => (&[1, 128], BUDGET / 8),
        false => (&[1, 2, 4, 8, 16, 32, 64, 128, 256, 512], BUDGET),
    };
    let (mut us, mut them) = (Map::new(), Map::new());
    let mut at_128 = (f64::NAN, f64::NAN);
    say(&format!(
        "{:>8} {:>16} {:>16} {:>22}",
        "streams", "ours %", "booked of it %", "count-after-response %"
    ));
    for &streams in counts {
        let mine = ours(streams, budget).await?;
        let theirs = count_after(streams, budget).await?;
        anyhow::ensure!(mine.left_open == 0, "{} reservations stay", mine.left_open);
        let (a, b) = (
            percent(mine.written, budget),
            percent(theirs.written, budget),
        );
        say(&format!(
            "{streams:>8} {:>16} {:>16} {:>22}",
            round(a),
            round(percent(mine.booked, budget)),
            round(b)
        ));
        us.insert(format!("overshoot_percent_{streams}"), json!(round(a)));
        us.insert(
            format!("booked_percent_{streams}"),
            json!(round(percent(mine.booked, budget))),
        );
        them.insert(format!("overshoot_percent_{streams}"), json!(round(b)));
        if streams == 128 {
            at_128 = (a, b);
        }
    }
    Report {
        question: QUESTION,
        ours: Value::Object(us),
        peer: Some(Value::Object(them)),
        ratio: Some(round(at_128.0.max(0.0) / at_128.1)),
        spread: json!({}),
        runs: counts.len(),
    }
    .print(flags)
}
