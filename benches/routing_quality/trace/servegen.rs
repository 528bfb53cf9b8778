//! ServeGen's clients: each a tenant with rates by window and histograms of
//! lengths.

use super::Asked;
use crate::rng::Rng;
use anyhow::{Context as _, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

const WINDOW_S: f64 = 600.0;

/// A client's arrivals in one window.
struct Rate {
    client: u32,
    start_s: f64,
    per_s: f64,
    cv: f64,
}

type Histogram = Vec<(f64, u32)>;

/// Every client of a ServeGen trace.
pub(crate) struct Clients {
    rates: Vec<Rate>,
    /// By client and window: prompts and answers, summed up.
    lengths: BTreeMap<(u32, u64), (Histogram, Histogram)>,
}

#[derive(Deserialize)]
struct Line {
    client: u32,
    windows: BTreeMap<String, Lengths>,
}

#[derive(Deserialize)]
struct Lengths {
    input_tokens: String,
    output_tokens: String,
}

impl Clients {
    pub(crate) fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        let entries = std::fs::read_dir(folder)
            .with_context(|| format!("the trace folder {}", folder.display()))?;
        let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        files.sort();
        let is_clients = |path: &&PathBuf| path.to_string_lossy().ends_with("_clients.csv");
        let Some(path) = files.iter().find(is_clients) else {
            bail!("{} has no `…_clients.csv`", folder.display());
        };
        Self::read(path, &std::fs::read_to_string(path)?)
    }

    /// The lengths lie beside the clients, as `…_lengths.jsonl.gz`.
    pub(crate) fn read(path: &Path, text: &str) -> anyhow::Result<Self> {
        let beside = path
            .to_string_lossy()
            .replace("_clients.csv", "_lengths.jsonl.gz");
        let file = std::fs::File::open(&beside).with_context(|| format!("the lengths {beside}"))?;
        let mut lines = String::new();
        flate2::read::GzDecoder::new(file)
            .read_to_string(&mut lines)
            .with_context(|| format!("the lengths {beside}"))?;
        let mut lengths = BTreeMap::new();
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let line: Line = serde_json::from_str(line).context("a line of the lengths")?;
            for (start, window) in line.windows {
                let start = start.parse::<f64>().context("a window of the lengths")? as u64;
                let both = (
                    histogram(&window.input_tokens)?,
                    histogram(&window.output_tokens)?,
                );
                lengths.insert((line.client, start), both);
            }
        }
        let mut rates = Vec::new();
        for (at, line) in text.lines().enumerate().skip(1) {
            let parts: Vec<_> = line.split(',').collect();
            let number = |place: usize| -> anyhow::Result<f64> {
                let part = parts.get(place).copied().unwrap_or_default();
                part.parse()
                    .with_context(|| format!("line {}: `{line}`", at + 1))
            };
            let per_s = number(2)?;
            if per_s > 0.0 {
                rates.push(Rate {
                    client: number(0)? as u32,
                    start_s: number(1)?,
                    per_s,
                    cv: number(3)?,
                });
            }
        }
        Ok(Self { rates, lengths })
    }

    /// The busiest windows in a row, from the first of them on, until there
    /// are enough requests.
    pub(crate) fn requests(&self, most: usize, seed: u64) -> Vec<Asked> {
        let mut total: BTreeMap<u64, f64> = BTreeMap::new();
        for rate in &self.rates {
            *total.entry(rate.start_s as u64).or_default() += rate.per_s;
        }
        let busiest = total.iter().max_by(|a, b| a.1.total_cmp(b.1));
        let from = busiest.map_or(0, |(start, _)| *start);
        let (mut windows, mut expected) = (Vec::new(), 0.0);
        for (start, per_s) in total.range(from..) {
            if expected >= most as f64 {
                break;
            }
            windows.push(*start);
            expected += per_s * WINDOW_S;
        }
        let mut asked = Vec::new();
        for rate in &self.rates {
            if windows.contains(&(rate.start_s as u64)) {
                self.client(rate, from, seed, &mut asked);
            }
        }
        asked.sort_by_key(|asked| (asked.at_us, asked.user));
        asked.truncate(most);
        asked
    }

    /// Gaps drawn from a gamma distribution of the client's mean and spread.
    fn client(&self, rate: &Rate, from: u64, seed: u64, asked: &mut Vec<Asked>) {
        let window = rate.start_s as u64;
        // Lengths are given for longer windows than rates: the last that began.
        let known = self.lengths.range((rate.client, 0)..=(rate.client, window));
        let Some((_, (prompts, outputs))) = known.last() else {
            return;
        };
        let mut rng = Rng::new(seed ^ (u64::from(rate.client) << 32) ^ window);
        let shape = (1.0 / (rate.cv * rate.cv).max(1e-3)).clamp(0.01, 100.0);
        let mut gap = || rng.gamma(shape) / (shape * rate.per_s);
        // A process met at any moment is somewhere in a gap.
        let mut at_s = gap() * 0.5;
        let mut times = Vec::new();
        while at_s < WINDOW_S {
            times.push(at_s);
            at_s += gap();
        }
        for at_s in times {
            let since = (window - from) as f64 + at_s;
            asked.push(Asked {
                at_us: (since * 1e6) as u64,
                prompt: draw(prompts, rng.unit()),
                output: draw(outputs, rng.unit()),
                user: Some(rate.client),
                blocks: Vec::new(),
            });
        }
    }
}

/// `{45: 0.0097, 46: …}`, summed up from the left.
fn histogram(text: &str) -> anyhow::Result<Histogram> {
    let inner = text.trim().trim_start_matches('{').trim_end_matches('}');
    let (mut sum, mut steps) = (0.0, Vec::new());
    for pair in inner.split(',').filter(|pair| !pair.trim().is_empty()) {
        let (tokens, share) = pair.split_once(':').context("a histogram's entry")?;
        sum += share.trim().parse::<f64>().context("a histogram's share")?;
        steps.push((
            sum,
            tokens.trim().parse::<f64>().context("a length")? as u32,
        ));
    }
    Ok(steps)
}

fn draw(histogram: &Histogram, share: f64) -> u32 {
    let total = histogram.last().map_or(0.0, |(sum, _)| *sum);
    let at = histogram.partition_point(|(sum, _)| *sum < share * total);
    histogram.get(at).map_or(1, |(_, tokens)| (*tokens).max(1))
}
