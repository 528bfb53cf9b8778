//! The clients' way in, from a trace of `seconds Mbit/s` lines.

use anyhow::{Context as _, bail};
use std::path::Path;

/// Bandwidth over time, repeated from its beginning when it ends.
pub(crate) struct Network {
    /// Microseconds, and bytes a microsecond from then on.
    steps: Vec<(u64, f64)>,
    period: u64,
}

/// The slowest a step may be: a kilobit a second.
const LEAST_BYTES_PER_US: f64 = 1e3 / 8e6;

impl Network {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("the network trace {}", path.display()))?;
        let mut steps = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let said = || format!("line {} of the network trace: `{line}`", at + 1);
            let mut parts = line.split_whitespace();
            let (Some(seconds), Some(mbit)) = (parts.next(), parts.next()) else {
                continue;
            };
            let seconds: f64 = seconds.parse().with_context(said)?;
            let mbit: f64 = mbit.parse().with_context(said)?;
            if !(seconds >= 0.0 && mbit >= 0.0) {
                bail!("{}: both are at least 0", said());
            }
            steps.push(((seconds * 1e6) as u64, (mbit / 8.0).max(LEAST_BYTES_PER_US)));
        }
        let Some(last) = steps.last() else {
            bail!("the network trace {} is empty", path.display());
        };
        let period = last.0 + 1_000_000;
        Ok(Self { steps, period })
    }

    /// Microseconds that so many bytes take when they are sent at `at`.
    pub(crate) fn upload_us(&self, at: u64, bytes: f64) -> u64 {
        let (mut now, mut left) = (at, bytes);
        // A minute is the longest that anybody tries.
        while left > 0.0 && now < at + 60_000_000 {
            let within = now % self.period;
            let step = self.steps.partition_point(|(from, _)| *from <= within);
            let until = self.steps.get(step).map_or(self.period, |(from, _)| *from);
            let speed = self.steps[step.saturating_sub(1)].1;
            let whole = (until - within) as f64;
            let need = left / speed;
            if need <= whole {
                return now + need as u64 - at;
            }
            left -= whole * speed;
            now += until - within;
        }
        now - at
    }
}
