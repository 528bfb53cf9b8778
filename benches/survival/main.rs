//! How many streams survive the death, the freezing and the slowing of the
//! node under them, and are they what they would have been?
//!
//! Real processes: a gateway and three edges, one on another kernel path. So
//! many streams at a time run at the gateway while, at a random moment, one
//! edge is killed (SIGKILL), frozen (SIGSTOP), or slowed to a tenth (SIGSTOP
//! and SIGCONT by turns). Every answer is held against that of an undisturbed
//! run with the same seed, token by token.

use clap::Parser as _;
use cli::{Flags, Report, say};
use serde_json::{Map, Value, json};
use stats::{quantile, round};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use stream::{Board, Heard, ask};
use tiermesh_harness::client::{Client, client};
use tiermesh_harness::{Mesh, MeshSpec};

#[path = "../common/cli.rs"]
mod cli;
mod peers;
#[path = "../common/stats.rs"]
#[expect(dead_code, reason = "shared with other benchmarks")]
mod stats;
mod stream;

const QUESTION: &str = "Of streams whose node is killed, frozen or slowed at a random moment, how \
    many are complete, and token for token what they would have been?";
const EDGES: usize = 3;
/// Streams at a time: as many as three edges compute at once, so that what is
/// measured is the seam and not somebody's place in a queue.
const AT_ONCE: usize = 6;
/// Different answers.
const SEEDS: u64 = 8;
/// A stream that is not done by then hangs.
const WITHIN: Duration = Duration::from_secs(45);
/// A slowed node runs for so long, and stands still nine times as long.
const RUNS: Duration = Duration::from_millis(10);

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Streams, over all faults.
    #[arg(long, default_value_t = 1_000)]
    streams: usize,
    /// Streams through each peer, over all faults; 0 for none. A freeze of
    /// theirs takes 20 s.
    #[arg(long, default_value_t = 180)]
    peer_streams: usize,
    /// Draws the moments.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Freeze,
    Slow,
}

impl Fault {
    const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Slow => "slow",
        }
    }
}

/// What became of one fault's streams.
#[derive(Default)]
struct Count {
    streams: usize,
    complete: usize,
    identical: usize,
    duplicated: usize,
    truncated: usize,
    hung: usize,
    seams: usize,
    inexact: usize,
    gaps_ms: Vec<f64>,
    errors: BTreeMap<String, usize>,
}

impl Count {
    fn add(&mut self, heard: Option<Heard>, undisturbed: &[Vec<Option<u32>>]) {
        self.streams += 1;
        let Some(heard) = heard else {
            self.hung += 1;
            return;
        };
        self.duplicated += usize::from(heard.duplicated);
        match &heard.error {
            None => self.complete += 1,
            Some(error) => {
                self.truncated += 1;
                *self.errors.entry(error.clone()).or_default() += 1;
            }
        }
        self.seams += heard.seams;
        self.inexact += heard.inexact;
        self.gaps_ms.extend(&heard.gaps_ms);
        self.identical += usize::from(heard.ids == undisturbed[heard.which]);
    }

    fn json(&self) -> Value {
        json!({
            "streams": self.streams,
            "complete": self.complete,
            "identical": self.identical,
            "duplicated": self.duplicated,
            "truncated": self.truncated,
            "hung": self.hung,
            "seams": self.seams,
            "inexact_seams": self.inexact,
            "gap_p50_ms": gap(&self.gaps_ms, 0.5),
            "gap_p99_ms": gap(&self.gaps_ms, 0.99),
        })
    }
}

/// None where nothing went on from elsewhere.
fn gap(samples: &[f64], share: f64) -> Option<f64> {
    (!samples.is_empty()).then(|| round(quantile(samples, share)))
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let streams = match arguments.flags.smoke {
        true => 36,
        false => arguments.streams,
    };
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/brand-extractor");
    let mut spec = MeshSpec::new(PathBuf::from(env!("CARGO_BIN_EXE_tiermesh")), &model);
    (spec.edges, spec.device, spec.standin) = (EDGES, false, false);
    "warn".clone_into(&mut spec.log);
    // A node dies every other second here, and the same ones again: what is
    // measured is the streams, and not how long their breaker stays open.
    spec.breaker_open_ms = Some(500);
    // The second runs without vector instructions: other code, the same bits.
    spec.edge_kernels = ["auto", "scalar", "auto"].map(str::to_owned).into();
    let mesh = Mesh::start(&spec).await?;
    let gateway = client(mesh.gateway.endpoint()).await?;
    let mut bench = Bench {
        mesh,
        gateway,
        model,
        undisturbed: Arc::default(),
        usual: Duration::ZERO,
        lots: Lots(arguments.seed),
        board: Arc::default(),
    };
    bench.undisturbed().await?;
    let faults = [Fault::Kill, Fault::Freeze, Fault::Slow];
    let (mut ours, mut rounds) = (Map::new(), 0);
    for (nth, fault) in faults.into_iter().enumerate() {
        let share = streams / 3 + usize::from(nth < streams % 3);
        let mut count = Count::default();
        while count.streams < share {
            let now = AT_ONCE.min(share - count.streams);
            bench.round(fault, now, &mut count).await?;
            rounds += 1;
        }
        say(&format!("{}: {}", fault.name(), count.json()));
        for (error, times) in &count.errors {
            say(&format!("  {times} x {error}"));
        }
        ours.insert(fault.name().to_owned(), count.json());
    }
    bench.mesh.stop().await?;
    let peer = match arguments.flags.smoke || arguments.peer_streams == 0 {
        true => None,
        false => peers::run(arguments.peer_streams, arguments.seed)?,
    };
    Report {
        question: QUESTION,
        ours: Value::Object(ours),
        peer,
        ratio: None,
        spread: json!({}),
        runs: rounds,
    }
    .print(arguments.flags)
}

struct Bench {
    mesh: Mesh,
    gateway: Client,
    model: PathBuf,
    /// The ids of each answer.
    undisturbed: Arc<Vec<Vec<Option<u32>>>>,
    /// How long a full house takes.
    usual: Duration,
    lots: Lots,
    board: Arc<Board>,
}

impl Bench {
    async fn undisturbed(&mut self) -> anyhow::Result<()> {
        let mut all = Vec::new();
        for which in 0..usize::try_from(SEEDS)? {
            let asked = stream::request(&self.model, which)?;
            let heard = ask(self.gateway.clone(), asked, which, (&self.board, which)).await;
            anyhow::ensure!(heard.error.is_none(), "undisturbed: {:?}", heard.error);
            all.push(heard.ids);
        }
        self.undisturbed = Arc::new(all);
        let started = tokio::time::Instant::now();
        let ended = self.start(AT_ONCE)?.into_iter();
        let ended = ended.map(async |task| task.await.map(|_| started.elapsed()));
        let mut ended = futures::future::try_join_all(ended).await?;
        ended.sort_unstable();
        // The slowest may be alone on a slow node: most are over long before.
        self.usual = ended[ended.len() / 2];
        say(&format!(
            "half of {AT_ONCE} answers of {} tokens at once are over in {} ms",
            self.undisturbed[0].len(),
            self.usual.as_millis()
        ));
        Ok(())
    }

    fn start(&self, streams: usize) -> anyhow::Result<Vec<tokio::task::JoinHandle<Option<Heard>>>> {
        (0..streams)
            .map(|n| {
                let which = n % self.undisturbed.len();
                let asked = stream::request(&self.model, which)?;
                let (client, board) = (self.gateway.clone(), Arc::clone(&self.board));
                Ok(tokio::spawn(async move {
                    let answer = ask(client, asked, which, (&board, n));
                    tokio::time::timeout(WITHIN, answer).await.ok()
                }))
            })
            .collect()
    }

    async fn round(
        &mut self,
        fault: Fault,
        streams: usize,
        count: &mut Count,
    ) -> anyhow::Result<()> {
        let tasks = self.start(streams)?;
        let us = u64::try_from(self.usual.as_micros())?.max(1);
        tokio::time::sleep(Duration::from_micros(self.lots.next() % us)).await;
        let lot = self.lots.next();
        // Whoever speaks in one of the streams; idle nodes prove nothing.
        let victim = loop {
            let node = self.board.somebody(lot);
            let edges = &self.mesh.edges;
            let at = node.and_then(|node| edges.iter().position(|edge| edge.name == node));
            if at.is_some() || tasks.iter().all(tokio::task::JoinHandle::is_finished) {
                break at.unwrap_or(0);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let pid = self.mesh.edges[victim].pid();
        let mut slowing = None;
        match fault {
            Fault::Kill => self.mesh.edges[victim].kill().await?,
            Fault::Freeze => self.mesh.edges[victim].signal(libc::SIGSTOP)?,
            Fault::Slow => slowing = Some(tokio::spawn(slow(pid))),
        }
        for task in tasks {
            count.add(task.await?, &self.undisturbed);
        }
        if let Some(slowing) = slowing {
            slowing.abort();
            let _ = slowing.await;
        }
        match fault {
            Fault::Kill => self.mesh.restart_edge(victim).await?,
            Fault::Freeze | Fault::Slow => self.mesh.edges[victim].signal(libc::SIGCONT)?,
        }
        self.mesh.wait_until_healthy().await?;
        // A breaker that opened is not the next round's; the first request
        // after its time is the probe that closes it.
        tokio::time::sleep(Duration::from_millis(700)).await;
        for n in 0..EDGES * 2 {
            let asked = stream::request(&self.model, 0)?;
            let board = Arc::clone(&self.board);
            let _ = ask(self.gateway.clone(), asked, 0, (&board, n)).await;
        }
        Ok(())
    }
}

/// Stops and continues a process until it is aborted.
async fn slow(pid: u32) {
    let signal = |name: &str| {
        let pid = pid.to_string();
        std::process::Command::new("kill")
            .args([name, &pid])
            .status()
            .is_ok()
    };
    while signal("-STOP") {
        tokio::time::sleep(RUNS * 9).await;
        if !signal("-CONT") {
            return;
        }
        tokio::time::sleep(RUNS).await;
    }
}

/// Lots of one seed (splitmix64).
struct Lots(u64);

impl Lots {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}
