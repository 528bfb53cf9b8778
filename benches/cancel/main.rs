//! When a client leaves, how long does what it held stay held?
//!
//! Door, dispatcher and link are the real ones, in this process: a client's
//! HTTP/2 over loopback, then QUIC to a node that says a token every few
//! milliseconds until it is stopped. Many clients leave at one moment. What is
//! timed, from each one's drop: until the dispatcher's stream is gone (with it
//! the door's place, the breaker's ticket and the budget's reservation), until
//! the node's stream is gone (the place in its engine), and until the gateway
//! counts no stream on the node any more (the credits).

use clap::Parser as _;
use cli::{Flags, Report, say};
use serde_json::{Map, Value, json};
use setup::House;
use stats::{median, quantile, range, round};
use std::sync::Arc;
use std::time::{Duration, Instant};
use streams::Held;
use tiermesh_proto::v1;
use tiermesh_proto::v1::infer_event::Event;
use tiermesh_proto::v1::inference_client::InferenceClient;
use tokio::sync::Barrier;
use tonic::transport::Channel;

#[path = "../common/cli.rs"]
mod cli;
mod setup;
#[path = "../common/stats.rs"]
mod stats;
mod streams;

const QUESTION: &str = "When clients leave, how long until the gateway's stream with its place and \
    its reservation, the node's stream, and the node's credits are free? Milliseconds from the \
    client's drop, by how many leave at once.";
/// The longest any of it may take before the run fails.
const WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// How often each number of clients leaves.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

/// Milliseconds of one round, a sample a client; of the credits one.
#[derive(Default)]
struct Samples {
    released: Vec<f64>,
    stopped: Vec<f64>,
    credits: Vec<f64>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (rounds, sizes): (usize, &[usize]) = match arguments.flags.smoke {
        true => (1, &[1, 8]),
        false => (arguments.rounds, &[1, 16, 128]),
    };
    let house = House::open().await?;
    let (mut ours, mut spread) = (Map::new(), Map::new());
    say("clients   gateway p50/p99 ms      node p50/p99 ms    credits p50/p99 ms");
    for &clients in sizes {
        let mut all = Samples::default();
        for _ in 0..rounds {
            leave(&house, clients, &mut all).await?;
        }
        let mut line = format!("{clients:>7}");
        for (name, samples) in [
            ("gateway_released", &all.released),
            ("node_stopped", &all.stopped),
            ("credits_back", &all.credits),
        ] {
            let (p50, p99) = (median(samples), quantile(samples, 0.99));
            line.push_str(&format!("   {:>8} /{:>8}", round(p50), round(p99)));
            ours.insert(format!("{name}_p50_ms_at_{clients}"), json!(round(p50)));
            ours.insert(format!("{name}_p99_ms_at_{clients}"), json!(round(p99)));
            let (least, most) = range(samples);
            let ends = json!({"min": round(least), "max": round(most)});
            spread.insert(format!("{name}_ms_at_{clients}"), ends);
        }
        say(&line);
    }
    Report {
        question: QUESTION,
        ours: Value::Object(ours),
        peer: None,
        ratio: None,
        spread: Value::Object(spread),
        runs: rounds,
    }
    .print(arguments.flags)
}

/// So many clients read a few tokens each and leave at one moment.
async fn leave(house: &House, clients: usize, all: &mut Samples) -> anyhow::Result<()> {
    let ready = Arc::new(Barrier::new(clients));
    let readers = (0..clients).map(|n| {
        let (channel, ready) = (house.channel.clone(), Arc::clone(&ready));
        let id = format!("r-{n}");
        tokio::spawn(async move { read_and_leave(channel, id, &ready).await })
    });
    let mut first: Option<Instant> = None;
    let mut left = Vec::new();
    for reader in readers.collect::<Vec<_>>() {
        let (id, at) = reader.await??;
        first = Some(first.map_or(at, |first| first.min(at)));
        left.push((id, at));
    }
    let first = first.ok_or_else(|| anyhow::anyhow!("nobody left"))?;
    let until = first + WITHIN;
    let back = house.credits_back(until).await?;
    all.credits.push(ms(first, back));
    for (id, at) in left {
        let released = house.at(Held::Gateway, &id, until).await?;
        let stopped = house.at(Held::Node, &id, until).await?;
        all.released.push(ms(at, released));
        all.stopped.push(ms(at, stopped));
    }
    anyhow::ensure!(house.reservations() == 0, "a reservation stays");
    Ok(())
}

async fn read_and_leave(
    channel: Channel,
    id: String,
    ready: &Barrier,
) -> anyhow::Result<(String, Instant)> {
    let request = v1::InferRequest {
        request_id: id.clone(),
        policy: "iot".to_owned(),
        content: Some(v1::infer_request::Content::Prompt("a title".to_owned())),
        sampling: Some(v1::Sampling {
            max_tokens: Some(8_192),
            ..v1::Sampling::default()
        }),
        ..v1::InferRequest::default()
    };
    let mut stream = InferenceClient::new(channel)
        .infer(request)
        .await?
        .into_inner();
    let mut heard = 0;
    while heard < 3 {
        let event = stream.message().await?.and_then(|event| event.event);
        match event {
            Some(Event::Tokens(tokens)) => heard += tokens.items.len(),
            Some(_) => {}
            None => anyhow::bail!("the answer ended before its client left"),
        }
    }
    ready.wait().await;
    let at = Instant::now();
    drop(stream);
    Ok((id, at))
}

fn ms(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e3
}
