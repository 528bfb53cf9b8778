//! What does the gateway add to a stream, in time and in CPU?
//!
//! Real processes on loopback: clients, `tiermesh cloud-gateway`, a node whose
//! answers are paced at 10 ms a token, and HAProxy in front of the same node's
//! door as the floor for any proxy. The ways take turns within a round, and
//! rounds in which something else ran are dropped.

use clap::Parser as _;
use cli::{Flags, Report, say};
use node::NodeArguments;
use rounds::{Bench, Effort, Figures, Round};
use serde_json::{Map, Value, json};
use setup::{Place, Way};
use stats::{median, range, round};
use std::time::Duration;

#[path = "../common/cli.rs"]
mod cli;
mod client;
mod fleet;
#[path = "../peers/haproxy.rs"]
mod haproxy;
mod node;
mod pacer;
#[path = "../common/process.rs"]
mod process;
mod rounds;
mod setup;
#[path = "../common/stats.rs"]
mod stats;

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    node: NodeArguments,
    /// Undisturbed rounds to measure.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let (Some(dir), Some(link)) = (&arguments.node.paced_node, arguments.node.link) {
        return node::serve(dir, link).await;
    }
    // Told to stop, it drops what it started: the children do not outlive it.
    tokio::select! {
        outcome = run(arguments.flags, arguments.rounds) => outcome,
        _ = tiermesh_daemon::stop_requested() => anyhow::bail!("stopped"),
    }
}

async fn run(flags: Flags, rounds: usize) -> anyhow::Result<()> {
    let effort = effort(flags, rounds);
    let place = Place::start().await?;
    match &place.haproxy {
        Some(haproxy) => say(&format!("peer: {}", haproxy.version)),
        None => say("peer: haproxy is not installed (apt-get install haproxy); none measured"),
    }
    let bench = Bench::new(place, effort.clone()).await?;
    let rounds = measure(&bench, &effort).await?;
    report(&bench, &effort, &rounds)?.print(flags)
}

fn effort(flags: Flags, rounds: usize) -> Effort {
    if flags.smoke {
        return Effort {
            rounds: 1,
            tries: 1,
            streams: 4,
            answers: 1,
            tokens: 20,
            connections: vec![1, 4],
            hurry: Duration::from_millis(200),
            others: f64::INFINITY,
        };
    }
    Effort {
        rounds,
        tries: rounds * 3,
        streams: 64,
        answers: 3,
        tokens: 200,
        connections: vec![1, 16, 64],
        hurry: Duration::from_secs(2),
        others: 0.1,
    }
}

/// Rounds until enough were undisturbed. When none was after all tries, all
/// are kept, and the report says what ran beside them: the ways took turns.
async fn measure(bench: &Bench, effort: &Effort) -> anyhow::Result<Vec<Round>> {
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for number in 0..effort.tries {
        let round = bench.round(number).await?;
        let quiet = round.others <= effort.others;
        let cpu: Vec<_> = round.figures[1..]
            .iter()
            .map(|figures| format!("{:.1}", figures.cpu_token))
            .collect();
        say(&format!(
            "round {number}: CPU us per token {}; others took {:.0} % of a core{}",
            cpu.join(" and "),
            round.others * 100.0,
            if quiet { "" } else { "; dropped" }
        ));
        if quiet { &mut kept } else { &mut dropped }.push(round);
        if kept.len() >= effort.rounds {
            break;
        }
    }
    if kept.is_empty() {
        say("no round was undisturbed: the figures below are of all of them");
        return Ok(dropped);
    }
    Ok(kept)
}

/// One way's figures over all rounds.
struct Table {
    medians: Map<String, Value>,
    ranges: Map<String, Value>,
    cpu_token: Vec<f64>,
}

impl Table {
    fn put(&mut self, name: String, samples: &[f64]) {
        let (min, max) = range(samples);
        self.medians
            .insert(name.clone(), json!(round(median(samples))));
        self.ranges
            .insert(name, json!({"min": round(min), "max": round(max)}));
    }
}

/// What `way` adds to the direct way, round by round.
fn table(effort: &Effort, rounds: &[Round], way: usize) -> Table {
    let each = |figure: &dyn Fn(&Figures, &Figures) -> f64| -> Vec<f64> {
        rounds
            .iter()
            .map(|round| figure(&round.figures[way], &round.figures[0]))
            .collect()
    };
    let cpu_token = each(&|this, _| this.cpu_token);
    let mut table = Table {
        medians: Map::new(),
        ranges: Map::new(),
        cpu_token,
    };
    for (at, name) in ["p50", "p99"].into_iter().enumerate() {
        let first = each(&|this, direct| this.first_token[at] - direct.first_token[at]);
        table.put(format!("first_token_added_us_{name}"), &first);
        let token = each(&|this, direct| this.token[at] - direct.token[at]);
        table.put(format!("token_added_us_{name}"), &token);
    }
    let cpu_token = table.cpu_token.clone();
    table.put("cpu_us_per_token".into(), &cpu_token);
    for (at, count) in effort.connections.iter().enumerate() {
        let cpu = each(&|this, _| this.cpu_request[at]);
        table.put(format!("cpu_us_per_request_at_{count}"), &cpu);
        let short = each(&|this, direct| this.short[at] - direct.short[at]);
        table.put(format!("short_request_added_us_p50_at_{count}"), &short);
    }
    table
}

fn report(bench: &Bench, effort: &Effort, rounds: &[Round]) -> anyhow::Result<Report> {
    let place = bench.place();
    let ways = place.ways();
    let mut tables = Vec::new();
    for way in [Way::Gateway, Way::Haproxy] {
        let Some(at) = ways.iter().position(|w| *w == way) else {
            continue;
        };
        let mut table = table(effort, rounds, at);
        if let Some(pid) = place.between(way) {
            let resident = process::resident_mib(pid)?;
            let resident = json!(round(resident));
            table.medians.insert("resident_mib".into(), resident);
        }
        tables.push(table);
    }
    let direct = |figure: &dyn Fn(&Figures) -> f64| {
        let samples: Vec<_> = rounds.iter().map(|r| figure(&r.figures[0])).collect();
        median(&samples)
    };
    say(&format!(
        "direct: first token {:.0} us (p50), {:.0} us (p99); token {:.0} us, {:.0} us after it was due",
        direct(&|f| f.first_token[0]),
        direct(&|f| f.first_token[1]),
        direct(&|f| f.token[0]),
        direct(&|f| f.token[1]),
    ));
    let mut tables = tables.into_iter();
    let ours = tables.next().map(|ours| (ours, tables.next()));
    let (ours, peer) = ours.ok_or_else(|| anyhow::anyhow!("the gateway was not measured"))?;
    say("figure                                    gateway     haproxy");
    for (name, value) in &ours.medians {
        let beside = peer.as_ref().and_then(|peer| peer.medians.get(name));
        let beside = beside.map_or_else(|| "-".to_owned(), ToString::to_string);
        say(&format!("{name:<38} {value:>10} {beside:>11}"));
    }
    let mut spread = ours.ranges;
    let mut ratio = None;
    if let Some(peer) = &peer {
        let both = ours.cpu_token.iter().zip(&peer.cpu_token);
        let ratios: Vec<_> = both.map(|(ours, theirs)| ours / theirs).collect();
        let (min, max) = range(&ratios);
        spread.insert(
            "ratio".into(),
            json!({"min": round(min), "max": round(max)}),
        );
        spread.insert("peer".into(), Value::Object(peer.ranges.clone()));
        ratio = Some(round(median(&ratios)));
    }
    let others: Vec<_> = rounds.iter().map(|r| r.others * 100.0).collect();
    let (min, max) = range(&others);
    spread.insert(
        "others_percent_of_a_core".into(),
        json!({"min": round(min), "max": round(max)}),
    );
    Ok(Report {
        question: "What does the gateway add to a stream, in time and CPU? The ratio is CPU per token over HAProxy's.",
        ours: Value::Object(ours.medians),
        peer: peer.map(|peer| Value::Object(peer.medians)),
        ratio,
        spread: Value::Object(spread),
        runs: rounds.len(),
    })
}
