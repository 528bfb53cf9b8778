//! Does the router do better than fixed rules, and how far is it from what
//! nobody could beat?
//!
//! A discrete-event simulation in virtual time drives the decision and the
//! tracker that the daemons use. Every strategy meets the same requests, the
//! same service times and the same accidents; the bound knows all of them in
//! advance. The same flags and seed give the same figures on every platform.

use anyhow::{Context as _, bail};
use bound::Bound;
use clap::Parser as _;
use cli::{Flags, say};
use fleet::Fleet;
use load::Job;
use measure::{Measured, Table};
use network::Network;
use ours::Ours;
use scenario::Scenario;
use serde_json::{Map, Value, json};
use sim::Sim;
use std::path::PathBuf;
use std::sync::Arc;
use strategy::{Fixed, Rule, Strategy};
use tiermesh_decision::{Policies, Policy};
use trace::Source;

mod bound;
#[path = "../common/cli.rs"]
#[expect(dead_code, reason = "its JSON line has more keys here")]
mod cli;
mod fleet;
mod load;
mod measure;
mod network;
mod ours;
mod rng;
mod scenario;
mod server;
mod sim;
#[path = "../common/stats.rs"]
#[expect(dead_code, reason = "its figures are means here")]
mod stats;
mod strategy;
mod trace;

const QUESTION: &str = "How many answers come in time and what do they cost, with our router, \
                        with fixed rules, and at best?";
/// The policy of the simulation, unless another is named.
const POLICY: &str = include_str!("policy.toml");

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Azure's CSV, Mooncake's JSON lines, ServeGen's clients or their folder;
    /// synthetic conversations when left out.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Bandwidth of the clients' way in, as lines of `seconds Mbit/s`.
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
    /// The fleet, as `benches/routing_quality/fleet.toml` documents it.
    #[arg(long, value_name = "FILE")]
    fleet: Option<PathBuf>,
    /// Policies; the file's default is used.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// What goes wrong.
    #[arg(long, value_enum, default_value = "normal")]
    scenario: Scenario,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs, each with a seed of its own.
    #[arg(long, default_value_t = 3)]
    seeds: usize,
    /// Arrivals as a share of what the fleet can do of this trace.
    #[arg(long, default_value_t = 0.8)]
    load: f64,
    /// Writes the first run's decisions there, for `tiermesh route replay`.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// The most requests of a run.
    #[arg(long, default_value_t = 20_000)]
    requests: usize,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = Arguments::parse();
    if arguments.flags.smoke {
        arguments.requests = arguments.requests.min(400);
        arguments.seeds = arguments.seeds.min(2);
    }
    if !(arguments.load > 0.0 && arguments.load <= 10.0) {
        bail!(
            "`--load` is {}; allowed: above 0, at most 10",
            arguments.load
        );
    }
    if arguments.seeds == 0 || arguments.requests == 0 {
        bail!("`--seeds` and `--requests` are at least 1");
    }
    let setting = Setting::new(&arguments)?;
    let mut table = Table::default();
    for run in 0..arguments.seeds {
        setting.run(&arguments, arguments.seed + run as u64, &mut table)?;
    }
    say(&format!(
        "load {:.0} % of the fleet's capacity for this trace, scenario {:?}, seeds {} to {}",
        arguments.load * 100.0,
        arguments.scenario,
        arguments.seed,
        arguments.seed + arguments.seeds as u64 - 1,
    ));
    table.print();
    if arguments.flags.json {
        say(&report(&arguments, &table).to_string());
    }
    Ok(())
}

/// What all runs have in common.
struct Setting {
    fleet: Fleet,
    source: Source,
    network: Option<Network>,
    policy: Arc<Policy>,
}

impl Setting {
    fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let policies = match &arguments.policy {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("the policies {}", path.display()))?;
                Policies::builtin()
                    .extended(&text)
                    .context("the policies")?
            }
            None => Policies::parse(POLICY).context("the policies")?,
        };
        Ok(Self {
            fleet: Fleet::open(arguments.fleet.as_deref())?,
            source: match &arguments.trace {
                Some(path) => Source::open(path)?,
                None => Source::Synthetic,
            },
            network: arguments
                .network
                .as_deref()
                .map(Network::open)
                .transpose()?,
            policy: policies.require(policies.default_name())?.clone(),
        })
    }

    fn run(&self, arguments: &Arguments, seed: u64, table: &mut Table) -> anyhow::Result<()> {
        let asked = self.source.requests(arguments.requests, seed);
        if asked.is_empty() {
            bail!("the trace has no requests");
        }
        let burst = arguments.scenario == Scenario::Burst;
        let network = self.network.as_ref();
        let jobs = load::jobs(&self.fleet, &asked, arguments.load, network, burst, seed);
        let span = jobs.last().map_or(0, |job| job.at);
        let plan = arguments.scenario.plan(&self.fleet, span);
        let ceiling: u64 = jobs.iter().map(|job| u64::from(job.ceiling)).sum();
        let users = jobs.iter().map(|job| job.user).max().unwrap_or(0) + 1;
        let mut ours = Ours::new(&self.fleet, &self.policy, users, seed)?;
        if let Some(path) = arguments.record.as_ref().filter(|_| seed == arguments.seed) {
            ours.record(path)?;
        }
        let done = Sim::new(&self.fleet, &jobs, plan.clone(), ours, seed).run();
        let calibration = done.strategy.calibration();
        let mut measured = measure(&jobs, &done, ceiling);
        measured.push(("predicted_ratio", calibration.1));
        measured.push(("within_p99", calibration.2));
        table.add("ours", measured);
        let nodes = self.fleet.nodes().count();
        for rule in Rule::ALL {
            let fixed = Fixed::new(rule, nodes, seed);
            let done = Sim::new(&self.fleet, &jobs, plan.clone(), fixed, seed).run();
            table.add(rule.name(), measure(&jobs, &done, ceiling));
        }
        let usual = |kind: usize, job: usize, cold: u32| {
            self.fleet.kinds[kind].service_ms(cold, jobs[job].output)
        };
        let service = |kind: usize, job: usize, cold: u32| {
            let (read, write) = usual(kind, job, cold);
            let (fast, slow) = sim::noise(seed, job, kind, self.fleet.kinds[kind].noise);
            (read * fast, write * slow)
        };
        let bound = Bound::of(&self.fleet, &jobs, &plan, (&service, &usual));
        let in_time = bound.served * jobs.len() as f64;
        table.add(
            "bound",
            vec![
                ("attainment", bound.attainment),
                ("cost_usd", bound.usd / in_time.max(1.0) * 1e3),
                ("total_usd", bound.usd),
                ("cost_usd_without_luck", bound.usd_without_luck * 1e3),
                ("served", bound.served),
                ("reached_by_a_schedule", bound.reached),
                ("cost_usd_of_that_schedule", bound.reached_usd * 1e3),
            ],
        );
        Ok(())
    }
}

fn measure<S: Strategy>(jobs: &[Job], done: &Sim<'_, S>, ceiling: u64) -> Measured {
    let (mut in_time, mut gave_up, mut first_ms) = (0.0, 0.0, Vec::new());
    for (job, fate) in jobs.iter().zip(&done.fates) {
        if let Some(first) = fate.first {
            first_ms.push((first - job.at) as f64 / 1e3);
        }
        let in_due = |at: Option<u64>, due: u64| at.is_some_and(|at| at <= due);
        if in_due(fate.first, job.due_first) && in_due(fate.done, job.due_end) {
            in_time += 1.0;
        }
        gave_up += f64::from(u8::from(fate.gave_up));
    }
    let count = jobs.len() as f64;
    let spent = &done.spent;
    let mut measured = vec![
        ("attainment", in_time / count),
        ("cost_usd", spent.usd / f64::max(in_time, 1.0) * 1e3),
        ("total_usd", spent.usd),
        ("refused", gave_up / count),
        ("first_token_p50_ms", stats::quantile(&first_ms, 0.5)),
        ("first_token_p99_ms", stats::quantile(&first_ms, 0.99)),
        ("joules", spent.joules / f64::max(in_time, 1.0)),
        ("device_share", spent.by_tier[0] / count),
        ("mec_share", spent.by_tier[1] / count),
        ("cloud_share", spent.by_tier[2] / count),
    ];
    if ceiling > 0 {
        measured.push(("prefix_hit_share", spent.hit_tokens as f64 / ceiling as f64));
    }
    measured
}

fn report(arguments: &Arguments, table: &Table) -> Value {
    let mut baselines = Map::new();
    for rule in Rule::ALL {
        baselines.insert(rule.name().to_owned(), table.means(rule.name()));
    }
    let (ours, peer) = (table.means("ours"), table.means("bound"));
    let part = |of: &Value, key: &str| of[key].as_f64().unwrap_or(f64::NAN);
    let ratio = part(&ours, "attainment") / part(&peer, "attainment");
    let cost_ratio = part(&ours, "cost_usd") / part(&peer, "cost_usd");
    json!({
        "question": QUESTION,
        "ours": ours,
        "peer": peer,
        "ratio": ratio,
        "cost_ratio": cost_ratio,
        "spread": {"ours": table.ranges("ours"), "peer": table.ranges("bound"),
                   "ci95": table.intervals()},
        "runs": arguments.seeds,
        "baselines": baselines,
        "load": arguments.load,
        "scenario": format!("{:?}", arguments.scenario),
        "seed": arguments.seed,
    })
}
