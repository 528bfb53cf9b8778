//! The fleet a simulation runs on, from TOML; `fleet.toml` documents the form.

use anyhow::{Context as _, bail};
use serde::Deserialize;
use std::path::Path;
use tiermesh_core::{Tier, Usd};

const DEFAULT: &str = include_str!("fleet.toml");
/// Nodes a fleet may have.
const MAX_NODES: usize = 20_000;

/// When an answer is in time.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Due {
    pub(crate) first_token_ms: f64,
    pub(crate) first_token_ms_per_1k_prompt: f64,
    pub(crate) ms_per_token: f64,
    pub(crate) max_tokens: u32,
}

impl Due {
    /// Milliseconds to the first token and to the end.
    pub(crate) fn of(&self, prompt: u32) -> (f64, f64) {
        let long = self.first_token_ms_per_1k_prompt * f64::from(prompt) / 1e3;
        let first = self.first_token_ms + long;
        (
            first,
            first + self.ms_per_token * f64::from(self.max_tokens),
        )
    }
}

/// One kind of node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kind {
    pub(crate) name: String,
    pub(crate) count: usize,
    tier: String,
    pub(crate) zone: String,
    pub(crate) slots: u32,
    pub(crate) queue: u32,
    pub(crate) prefill_tok_s: f64,
    pub(crate) decode_tok_s: f64,
    pub(crate) base_ms: f64,
    pub(crate) kv_tokens: u64,
    pub(crate) rtt_ms: f64,
    input_usd: f64,
    output_usd: f64,
    pub(crate) joules_per_1k: f64,
    pub(crate) quality: f32,
    #[serde(default = "some_noise")]
    pub(crate) noise: f64,
    #[serde(default = "some_load")]
    pub(crate) load_ms: f64,
    #[serde(default)]
    pub(crate) owned: bool,
}

const fn some_noise() -> f64 {
    0.1
}

const fn some_load() -> f64 {
    8_000.0
}

impl Kind {
    pub(crate) fn tier(&self) -> Tier {
        self.tier.parse().unwrap_or(Tier::Mec)
    }

    /// Prices of a million tokens read and written.
    pub(crate) fn prices(&self) -> (Usd, Usd) {
        let usd = |dollars| Usd::from_dollars(dollars).unwrap_or(Usd::ZERO);
        (usd(self.input_usd), usd(self.output_usd))
    }

    /// Milliseconds to the first token on a free slot, and from there to the
    /// end, at its usual speed.
    pub(crate) fn service_ms(&self, cold: u32, output: u32) -> (f64, f64) {
        let read = self.base_ms + f64::from(cold) * 1e3 / self.prefill_tok_s;
        (
            read,
            f64::from(output.saturating_sub(1)) * 1e3 / self.decode_tok_s,
        )
    }

    fn check(&self) -> anyhow::Result<()> {
        let positive = |key: &str, value: f64| match value > 0.0 && value < 1e12 {
            true => Ok(()),
            false => bail!("node `{}`: `{key}` is {value}; allowed: above 0", self.name),
        };
        let amount = |key: &str, value: f64| match (0.0..1e9).contains(&value) {
            true => Ok(()),
            false => bail!(
                "node `{}`: `{key}` is {value}; allowed: 0 to 1e9",
                self.name
            ),
        };
        if self.tier.parse::<Tier>().is_err() {
            let (name, tier) = (&self.name, &self.tier);
            bail!("node `{name}`: `tier` is `{tier}`; allowed: DEVICE, MEC, CLOUD");
        }
        positive("count", self.count as f64)?;
        positive("slots", f64::from(self.slots))?;
        positive("prefill_tok_s", self.prefill_tok_s)?;
        positive("decode_tok_s", self.decode_tok_s)?;
        positive("kv_tokens", self.kv_tokens as f64)?;
        amount("base_ms", self.base_ms)?;
        amount("rtt_ms", self.rtt_ms)?;
        amount("input_usd", self.input_usd)?;
        amount("output_usd", self.output_usd)?;
        amount("joules_per_1k", self.joules_per_1k)?;
        amount("noise", self.noise)?;
        amount("load_ms", self.load_ms)?;
        if !(0.0..=1.0).contains(&self.quality) {
            bail!(
                "node `{}`: `quality` is {}; allowed: 0 to 1",
                self.name,
                self.quality
            );
        }
        Ok(())
    }
}

/// Kinds of nodes, and when answers are due.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fleet {
    pub(crate) deadline: Due,
    #[serde(rename = "node")]
    pub(crate) kinds: Vec<Kind>,
}

impl Fleet {
    pub(crate) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let text = match path {
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("the fleet {}", path.display()))?,
            None => DEFAULT.to_owned(),
        };
        let fleet: Self = toml::from_str(&text).context("the fleet's file")?;
        fleet.kinds.iter().try_for_each(Kind::check)?;
        let count = fleet.nodes().count();
        if count == 0 || count > MAX_NODES {
            bail!("the fleet has {count} nodes; allowed: 1 to {MAX_NODES}");
        }
        let due = &fleet.deadline;
        if !(due.first_token_ms > 0.0 && due.ms_per_token > 0.0 && due.max_tokens > 0) {
            bail!("`deadline`: `first_token_ms`, `ms_per_token` and `max_tokens` are above 0");
        }
        Ok(fleet)
    }

    /// Every node: its kind's place and its number within the kind.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let kinds = self.kinds.iter().enumerate();
        kinds.flat_map(|(kind, of)| (0..of.count).map(move |number| (kind, number)))
    }
}
