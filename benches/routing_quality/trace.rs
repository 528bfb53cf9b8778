//! Requests from traces: Azure's CSV, Mooncake's JSON lines, ServeGen's
//! clients with their lengths, or a synthetic one.

use crate::rng::Rng;
use anyhow::{Context as _, bail};
use std::path::Path;

mod servegen;

/// Tokens of one of Mooncake's prefix blocks.
pub(crate) const BLOCK_TOKENS: u32 = 512;

/// One request of a trace.
#[derive(Clone)]
pub(crate) struct Asked {
    /// Microseconds from the beginning.
    pub(crate) at_us: u64,
    pub(crate) prompt: u32,
    pub(crate) output: u32,
    /// Who asks, where the trace says; else drawn by the seed.
    pub(crate) user: Option<u32>,
    /// Digests of the prompt's blocks, each covering all before it.
    pub(crate) blocks: Vec<u64>,
}

/// Where requests come from.
pub(crate) enum Source {
    Fixed(Vec<Asked>),
    ServeGen(servegen::Clients),
    Synthetic,
}

impl Source {
    /// Reads a trace by what it looks like: a `.csv` of Azure's, a `.jsonl` of
    /// Mooncake's, a ServeGen `_clients.csv` or the folder it lies in.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let said = || format!("the trace {}", path.display());
        if path.is_dir() {
            return servegen::Clients::in_folder(path).map(Self::ServeGen);
        }
        let text = std::fs::read_to_string(path).with_context(said)?;
        let first = text.lines().next().unwrap_or_default();
        if first.starts_with("client,window_start_s") {
            return servegen::Clients::read(path, &text).map(Self::ServeGen);
        }
        let mut asked = if first.starts_with("TIMESTAMP,") {
            azure(&text).with_context(said)?
        } else if first.starts_with('{') {
            mooncake(&text).with_context(said)?
        } else {
            bail!(
                "{} is no trace: its first line is neither `TIMESTAMP,…` (Azure), `client,…` \
                 (ServeGen) nor a JSON object (Mooncake)",
                path.display()
            );
        };
        asked.sort_by_key(|asked| asked.at_us);
        let begin = asked.first().map_or(0, |first| first.at_us);
        for one in &mut asked {
            one.at_us -= begin;
        }
        Ok(Self::Fixed(asked))
    }

    /// The requests of one run, at most `most` of them.
    pub(crate) fn requests(&self, most: usize, seed: u64) -> Vec<Asked> {
        match self {
            Self::Fixed(all) => all.iter().take(most).cloned().collect(),
            Self::ServeGen(clients) => clients.requests(most, seed),
            Self::Synthetic => synthetic(most.min(6_000), seed),
        }
    }
}

fn azure(text: &str) -> anyhow::Result<Vec<Asked>> {
    let row = |(at, line): (usize, &str)| -> anyhow::Result<Asked> {
        let said = || format!("line {}: `{line}`", at + 1);
        let mut parts = line.trim().split(',');
        let mut part = || parts.next().with_context(said);
        let at_us = clock_us(part()?).with_context(said)?;
        Ok(Asked {
            at_us,
            prompt: part()?.parse::<u32>().with_context(said)?.max(1),
            output: part()?.parse::<u32>().with_context(said)?.max(1),
            user: None,
            blocks: Vec::new(),
        })
    };
    let lines = text.lines().enumerate().skip(1);
    lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(row)
        .collect()
}

/// Microseconds of a `YYYY-MM-DD HH:MM:SS.fraction`, from any fixed origin.
fn clock_us(stamp: &str) -> anyhow::Result<u64> {
    let (date, time) = stamp
        .trim()
        .split_once([' ', 'T'])
        .context("no time in the stamp")?;
    let mut date = date.split('-').map(str::parse::<u64>);
    let mut part = || {
        date.next()
            .context("no date in the stamp")?
            .context("a date")
    };
    let (year, month, day) = (part()?, part()?, part()?);
    // Days of a civil date since March of year 0.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    let mut hms = time.trim_end_matches(['Z', 'z']).split(':');
    let mut part = || hms.next().context("no time in the stamp");
    let (hour, minute) = (part()?.parse::<u64>()?, part()?.parse::<u64>()?);
    let second = part()?
        .split('+')
        .next()
        .unwrap_or_default()
        .parse::<f64>()?;
    Ok((days * 86_400 + hour * 3_600 + minute * 60) * 1_000_000 + (second * 1e6) as u64)
}

fn mooncake(text: &str) -> anyhow::Result<Vec<Asked>> {
    #[derive(serde::Deserialize)]
    struct Row {
        timestamp: f64,
        input_length: u32,
        output_length: u32,
        #[serde(default)]
        hash_ids: Vec<u64>,
    }
    let row = |(at, line): (usize, &str)| -> anyhow::Result<Asked> {
        let row: Row = serde_json::from_str(line).with_context(|| format!("line {}", at + 1))?;
        Ok(Asked {
            at_us: (row.timestamp.max(0.0) * 1e3) as u64,
            prompt: row.input_length.max(1),
            output: row.output_length.max(1),
            user: None,
            blocks: row.hash_ids,
        })
    };
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(row)
        .collect()
}

/// Conversations: Poisson arrivals, log-normal lengths, and half of the
/// prompts begin with one of a few shared beginnings.
fn synthetic(count: usize, seed: u64) -> Vec<Asked> {
    let mut rng = Rng::new(seed ^ 0x7379_6e74);
    let mut at = 0.0;
    let one = |number: usize| {
        at += rng.exponential();
        let prompt = libm::exp(6.6 + 0.9 * rng.normal()).clamp(16.0, 30_000.0) as u32;
        let output = libm::exp(5.0 + 0.8 * rng.normal()).clamp(1.0, 2_000.0) as u32;
        let shared = match rng.below(2) {
            0 => Some(rng.below(16) as u64),
            _ => None,
        };
        let block = |at: u32| match shared {
            Some(shared) if at < 3 => 1 + shared * 8 + u64::from(at),
            _ => 1_000 + number as u64 * 64 + u64::from(at),
        };
        Asked {
            at_us: (at * 1e6) as u64,
            prompt,
            output,
            user: None,
            blocks: (0..prompt / BLOCK_TOKENS).map(block).collect(),
        }
    };
    (0..count).map(one).collect()
}
