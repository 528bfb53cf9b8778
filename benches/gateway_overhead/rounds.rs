//! Rounds: every way in turn, and whether something else ran meanwhile.

use crate::client::{Clients, Seen};
use crate::process::{cpu_us, machine_us};
use crate::setup::{Place, Way};
use crate::stats::quantile;
use std::time::{Duration, Instant};

/// Between two measurements: what the one before left behind settles.
const PAUSE: Duration = Duration::from_millis(300);

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Effort {
    /// Undisturbed rounds wanted.
    pub(crate) rounds: usize,
    /// Rounds tried for them.
    pub(crate) tries: usize,
    /// Paced streams at a time.
    pub(crate) streams: usize,
    /// Answers of each.
    pub(crate) answers: u32,
    /// Tokens of each answer.
    pub(crate) tokens: u32,
    /// Connections of the tests with short answers.
    pub(crate) connections: Vec<usize>,
    /// How long each of them runs.
    pub(crate) hurry: Duration,
    /// The share of one core that others may take in a round.
    pub(crate) others: f64,
}

/// One way's figures of one round, in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    pub(crate) first_token: [f64; 2],
    pub(crate) token: [f64; 2],
    /// Of the process in between, all of it over all tokens.
    pub(crate) cpu_token: f64,
    /// The same over short requests, by number of connections.
    pub(crate) cpu_request: Vec<f64>,
    /// Median of a short request's first token, by number of connections.
    pub(crate) short: Vec<f64>,
}

/// A round's figures, in the order of [`Place::ways`].
pub(crate) struct Round {
    pub(crate) figures: Vec<Figures>,
    /// What else ran, as a share of one core.
    pub(crate) others: f64,
}

/// The benchmark's processes and clients.
pub(crate) struct Bench {
    place: Place,
    ways: Vec<(Way, Clients)>,
    effort: Effort,
}

impl Bench {
    /// Connects the clients of every way.
    pub(crate) async fn new(place: Place, effort: Effort) -> anyhow::Result<Self> {
        let most = effort.connections.iter().copied().max().unwrap_or(0);
        let count = effort.streams.max(most);
        let mut ways = Vec::new();
        for way in place.ways() {
            let clients = Clients::connect(place.endpoint(way), count).await?;
            clients.stream(1, effort.tokens.min(20)).await?;
            ways.push((way, clients));
        }
        Ok(Self {
            place,
            ways,
            effort,
        })
    }

    /// The processes.
    pub(crate) const fn place(&self) -> &Place {
        &self.place
    }

    /// Every way once; `number` turns their order.
    pub(crate) async fn round(&self, number: usize) -> anyhow::Result<Round> {
        let began = Instant::now();
        let (machine, own) = (machine_us()?, self.own_us()?);
        let count = self.ways.len();
        let mut figures = vec![None; count];
        for turn in 0..count {
            let at = (turn + number) % count;
            let (way, clients) = &self.ways[at];
            figures[at] = Some(self.measure(*way, clients).await?);
        }
        let others = (machine_us()? - machine) - (self.own_us()? - own);
        Ok(Round {
            figures: figures.into_iter().flatten().collect(),
            others: others / (began.elapsed().as_secs_f64() * 1e6),
        })
    }

    async fn measure(&self, way: Way, clients: &Clients) -> anyhow::Result<Figures> {
        let effort = &self.effort;
        let between = self.place.between(way);
        tokio::time::sleep(PAUSE).await;
        let before = cpu_of(between)?;
        let seen = clients.stream(effort.answers, effort.tokens).await?;
        let cpu_token = (cpu_of(between)? - before) / seen.tokens as f64;
        let mut figures = Figures {
            first_token: ends(&seen.first_token),
            token: ends(&seen.token),
            cpu_token,
            cpu_request: Vec::new(),
            short: Vec::new(),
        };
        for &count in &effort.connections {
            tokio::time::sleep(PAUSE).await;
            let before = cpu_of(between)?;
            let Seen {
                requests,
                first_token,
                ..
            } = clients.hurry(count, effort.hurry).await?;
            let cpu = (cpu_of(between)? - before) / requests as f64;
            figures.cpu_request.push(cpu);
            figures.short.push(quantile(&first_token, 0.5));
        }
        Ok(figures)
    }

    fn own_us(&self) -> anyhow::Result<f64> {
        self.place.pids().into_iter().map(cpu_us).sum()
    }
}

fn cpu_of(process: Option<u32>) -> anyhow::Result<f64> {
    process.map_or(Ok(0.0), cpu_us)
}

/// Median and 99th percentile.
fn ends(samples: &[f64]) -> [f64; 2] {
    [quantile(samples, 0.5), quantile(samples, 0.99)]
}
