//! What nodes offer and how they are doing.

use crate::candidates::Candidates;
use crate::id::{ModelDigest, ModelId, NodeId, NumericsId, Region, UserId};
use crate::money::Usd;
use crate::privacy::Destination;
use crate::request::Task;
use crate::tier::Tier;
use crate::time::Time;
use std::sync::Arc;
use std::time::Duration;

/// A model as a node offers it: what does not change while it is loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelOffer {
    /// Its exact name.
    pub id: ModelId,
    /// Its family; a request may ask for any member.
    pub family: String,
    /// SHA-256 over the artifact. None for a model behind an API.
    pub digest: Option<ModelDigest>,
    /// Equal ids say equal tokens. None for a model behind an API.
    pub numerics_id: Option<NumericsId>,
    /// The tasks it can do.
    pub tasks: Vec<Task>,
    /// Prompt and answer together, in tokens.
    pub context_tokens: u32,
    /// Measured quality at its job, 0 to 1.
    pub quality: f32,
    /// Price of a million prompt tokens.
    pub input_per_million: Usd,
    /// Price of a million answer tokens.
    pub output_per_million: Usd,
}

impl ModelOffer {
    /// What so many tokens cost.
    #[must_use]
    #[inline]
    pub fn cost(&self, input_tokens: u64, output_tokens: u64) -> Usd {
        self.input_per_million.per_million(input_tokens)
            + self.output_per_million.per_million(output_tokens)
    }
}

/// One model's measured speed on one node, at the present load.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ModelState {
    /// Prompt tokens a second.
    pub prefill_tok_s: f32,
    /// Answer tokens a second of one stream.
    pub decode_tok_s: f32,
    /// Expected time to the first token of a short prompt, queue included.
    pub first_token_ms: f32,
    /// The same, at its 99th percentile.
    pub first_token_p99_ms: f32,
    /// Where the model is.
    pub residency: Residency,
    /// Milliseconds that loading it took the last time; 0 where it never was
    /// loaded on demand.
    pub load_ms: u32,
    /// Tokens of prompt and answer that fit the free memory for keys and
    /// values; 0 where that is not known, as of a model behind an API.
    pub kv_tokens_free: u32,
    /// How far its predictions of first tokens were off on average: 0.25 is a
    /// quarter too much or too little; 0 before there were any.
    pub calibration_error: f32,
}

/// Where a model is on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Residency {
    /// In memory.
    #[default]
    Hot,
    /// On its way there.
    Loading,
    /// On the node's disk: the first request waits for it to load.
    Warm,
    /// Kept elsewhere: the first request has it fetched.
    Cold,
}

impl Residency {
    /// The spelling on the wire and in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Loading => "loading",
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

/// Classes of priority that queues are told apart by.
pub const PRIORITY_CLASSES: usize = 4;

/// What a node's engine has left beside its streams.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct EngineCapacity {
    /// Streams waiting by class, the least urgent first.
    pub queued_by_class: [u32; PRIORITY_CLASSES],
    /// KiB of memory for keys and values in use, kept prefixes included.
    pub kv_used_kib: u32,
    /// KiB of memory for keys and values in all.
    pub kv_budget_kib: u32,
    /// KiB of weights in memory.
    pub weights_kib: u32,
    /// Share of prompt tokens that were found computed already, 0 to 1.
    pub prefix_hit_share: f32,
    /// The hottest sensor, in degrees Celsius, where the system tells.
    pub temperature_c: Option<f32>,
}

/// How a node is doing. Latest wins; the lease runs from receipt.
#[derive(Debug, Clone, PartialEq)]
pub struct CapacityReport {
    /// Counts up; an older report never replaces a newer one.
    pub sequence: u64,
    /// Streams the receiver may have open here.
    pub credits: u32,
    /// Streams it works on at once; 0 where it is not known.
    pub slots: u32,
    /// How long the report and its credits are good for.
    pub lease: Duration,
    /// Streams being answered.
    pub active: u32,
    /// Streams waiting.
    pub queued: u32,
    /// Busy share of the node, 0 to 1.
    pub load: f32,
    /// Charge in percent, on battery-powered nodes.
    pub battery_percent: Option<u8>,
    /// What its engine has left; all zeros for a node without one.
    pub engine: EngineCapacity,
    /// By position in the node's list of offers.
    pub models: Vec<ModelState>,
}

/// What was learnt of a model on a node from its answers so far, and what is
/// under way there. All zero where nothing was learnt: then the node's own
/// report is all there is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Outlook {
    /// When the last report came, where the candidate outlives its report;
    /// `report_age` then is its age on arrival.
    pub reported_at: Option<Time>,
    /// Streams it works on at once; 0 when not known. Then its own report
    /// predicts, and what was learnt corrects it: `ratio`, `ratio_sd` and
    /// `per_token_ms` once they are known, and `waiting_ms` of prompts that
    /// were sent since that report.
    pub slots: u32,
    /// Streams open there, as far as known.
    pub open: u32,
    /// How many of them have no first token yet.
    pub waiting: u32,
    /// Milliseconds of one slot that those will take.
    pub waiting_ms: f32,
    /// Milliseconds that a running stream still takes, on average.
    pub running_ms: f32,
    /// Variance of a stream's time over the square of its mean.
    pub spread: f32,
    /// Milliseconds to the first token of an empty prompt when idle.
    pub base_ms: f32,
    /// Observed over predicted time from slot to first token; 0 is not known.
    pub ratio: f32,
    /// The standard deviation of that ratio.
    pub ratio_sd: f32,
    /// Milliseconds a token of an answer, as they were; 0 is not known.
    pub per_token_ms: f32,
    /// Not before then: its model is being loaded, or it has gone silent.
    pub ready_at: Option<Time>,
    /// Answers learnt from, fading.
    pub samples: f32,
    /// Its pool: nodes that are alike to a request; 0 where there is none.
    pub pool: u32,
    /// Nodes of its pool.
    pub pool_nodes: u32,
    /// Streams open in its whole pool.
    pub pool_busy: u32,
    /// Slots of its whole pool that are free where somebody may be sent.
    pub pool_free: u32,
    /// Requests held back until somebody of the pool has a slot free.
    pub held: u32,
    /// What a slot of the pool is worth to whoever needs it most, in dollars a
    /// second; 0 where there are always some to spare.
    pub slot_usd_s: f32,
    /// How scarce its slots are right now: 0 with some to spare, 1 with none
    /// beyond the next one.
    pub scarcity: f32,
    /// Tokens of keys and values that a slot has on average; 0 is not known.
    pub kv_slot: u32,
    /// Tokens of keys and values that are free, where the above is known.
    pub kv_free: i32,
}

impl Outlook {
    /// Whether whoever has so many before it finds no slot free in the whole
    /// pool; never without a pool.
    #[must_use]
    pub const fn pool_is_full(&self, before: u32) -> bool {
        self.pool != 0 && self.pool_free <= before
    }
}

/// How well a model on a node was predicted, and what was seen instead.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibrated {
    /// First tokens that came, or were waited for too long.
    pub answers: f64,
    /// Observed over predicted; 1 is right on average.
    pub ratio: f64,
    /// Share within the predicted 99th percentile.
    pub within_p99: f64,
    /// Milliseconds that predictions are off, on average.
    pub error_ms: f64,
    /// Milliseconds to half of the first tokens, lately.
    pub first_token_p50_ms: f64,
    /// Milliseconds to 99 of 100 first tokens, lately.
    pub first_token_p99_ms: f64,
    /// Share of the attempts that failed, lately.
    pub failed_share: f64,
}

/// How a breaker would treat the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests pass.
    Closed,
    /// A bounded number of probes pass.
    HalfOpen,
    /// Nothing passes for this long.
    Open {
        /// Until it half-opens.
        retry_in: Duration,
    },
}

/// One node's one model, as the decision sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct CandidateState {
    /// The node.
    pub node: NodeId,
    /// Its tier.
    pub tier: Tier,
    /// Its region, where told.
    pub region: Option<Region>,
    /// Its owner, for a device.
    pub owner: Option<UserId>,
    /// Whoever the content passes through on the way, when not direct.
    pub transit: Option<Destination>,
    /// The model.
    pub model: Arc<ModelOffer>,
    /// Its measured speed.
    pub state: ModelState,
    /// Round trip to it.
    pub rtt_ms: f32,
    /// Streams that may still be opened on it.
    pub credits_free: u32,
    /// Busy share, 0 to 1.
    pub load: f32,
    /// Charge in percent, on battery-powered nodes.
    pub battery_percent: Option<u8>,
    /// Age of the report behind all this.
    pub report_age: Duration,
    /// The breaker in front of it.
    pub breaker: BreakerState,
    /// What was learnt of it here.
    pub outlook: Outlook,
}

impl CandidateState {
    /// How old the report behind this is, in microseconds.
    #[must_use]
    #[inline]
    pub fn age_us(&self, now: Time) -> u64 {
        let on_arrival = self.report_age;
        let whole = on_arrival.as_secs().saturating_mul(1_000_000);
        let on_arrival = whole.saturating_add(u64::from(on_arrival.subsec_micros()));
        let since = self.outlook.reported_at;
        let since = since.map_or(0, |at| now.as_us().saturating_sub(at.as_us()));
        on_arrival.saturating_add(since)
    }

    /// Whom a permit for this candidate names.
    #[must_use]
    pub fn destination(&self) -> Destination {
        Destination {
            tier: self.tier,
            region: self.region.clone(),
            node: self.node.clone(),
            owner: self.owner.clone(),
        }
    }
}

/// Everything a decision is made from, at one point of the report log.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Which run of the process the log belongs to.
    pub epoch: u64,
    /// The last report applied.
    pub sequence: u64,
    /// Every node's every model.
    pub candidates: Candidates,
}
