//! Candidates and requests as a log holds them.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    BreakerState, CandidateState, Content, Context, Continuation, Deadline, Destination,
    DeviceInfo, ModelId, ModelOffer, ModelSelector, ModelState, NetworkKind, NodeId, Outlook,
    PermitScope, Privacy, RawRequest, Region, RequestMeta, Task, Thermal, Tier, Time, Usd, UserId,
    Via,
};

/// A measured number by its bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bits(u32);

impl From<f32> for Bits {
    fn from(value: f32) -> Self {
        Self(value.to_bits())
    }
}

impl From<Bits> for f32 {
    fn from(bits: Bits) -> Self {
        Self::from_bits(bits.0)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Place {
    tier: Tier,
    node: NodeId,
    region: Option<Region>,
    owner: Option<UserId>,
}

impl Place {
    fn of(place: &Destination) -> Self {
        Self {
            tier: place.tier,
            node: place.node.clone(),
            region: place.region.clone(),
            owner: place.owner.clone(),
        }
    }

    fn destination(&self) -> Destination {
        Destination {
            tier: self.tier,
            node: self.node.clone(),
            region: self.region.clone(),
            owner: self.owner.clone(),
        }
    }
}

/// One candidate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Candidate {
    place: Place,
    transit: Option<Place>,
    model: ModelId,
    family: String,
    tasks: Vec<Task>,
    context_tokens: u32,
    input_per_million: Usd,
    output_per_million: Usd,
    credits_free: u32,
    battery_percent: Option<u8>,
    report_age_us: u64,
    /// Microseconds until an open breaker half-opens; 0 for half-open.
    breaker_us: Option<u64>,
    reported_at_us: Option<u64>,
    ready_at_us: Option<u64>,
    slots: u32,
    open: u32,
    waiting: u32,
    #[serde(default)]
    pool: (u32, u32, u32, u32, u32),
    /// Tokens of keys and values: a slot's, and free ones.
    #[serde(default)]
    kv: (u32, i32),
    /// Dollars a second of a slot, and how scarce slots are.
    #[serde(default)]
    slot: [Bits; 2],
    /// Prefill, decode, first token, its 99th percentile; round trip, load,
    /// quality; waiting, running, spread, base, ratio, its deviation, samples;
    /// milliseconds a token.
    bits: [Bits; 15],
}

impl Candidate {
    pub(super) fn of(c: &CandidateState) -> Self {
        let (m, s, o) = (&c.model, &c.state, &c.outlook);
        let numbers = [
            s.prefill_tok_s,
            s.decode_tok_s,
            s.first_token_ms,
            s.first_token_p99_ms,
            c.rtt_ms,
            c.load,
            m.quality,
            o.waiting_ms,
            o.running_ms,
            o.spread,
            o.base_ms,
            o.ratio,
            o.ratio_sd,
            o.samples,
            o.per_token_ms,
        ];
        Self {
            place: Place::of(&c.destination()),
            transit: c.transit.as_ref().map(Place::of),
            model: m.id.clone(),
            family: m.family.clone(),
            tasks: m.tasks.clone(),
            context_tokens: m.context_tokens,
            input_per_million: m.input_per_million,
            output_per_million: m.output_per_million,
            credits_free: c.credits_free,
            battery_percent: c.battery_percent,
            report_age_us: micros(c.report_age),
            breaker_us: match c.breaker {
                BreakerState::Closed => None,
                BreakerState::HalfOpen => Some(0),
                BreakerState::Open { retry_in } => Some(micros(retry_in).max(1)),
            },
            reported_at_us: o.reported_at.map(Time::as_us),
            ready_at_us: o.ready_at.map(Time::as_us),
            slots: o.slots,
            open: o.open,
            waiting: o.waiting,
            pool: (o.pool, o.pool_nodes, o.pool_busy, o.pool_free, o.held),
            kv: (o.kv_slot, o.kv_free),
            slot: [o.slot_usd_s, o.scarcity].map(Bits::from),
            bits: numbers.map(Bits::from),
        }
    }

    pub(super) fn state(&self) -> CandidateState {
        let n = self.bits.map(f32::from);
        let place = self.place.destination();
        CandidateState {
            node: place.node,
            tier: place.tier,
            region: place.region,
            owner: place.owner,
            transit: self.transit.as_ref().map(Place::destination),
            model: Arc::new(ModelOffer {
                id: self.model.clone(),
                family: self.family.clone(),
                digest: None,
                numerics_id: None,
                tasks: self.tasks.clone(),
                context_tokens: self.context_tokens,
                quality: n[6],
                input_per_million: self.input_per_million,
                output_per_million: self.output_per_million,
            }),
            state: ModelState {
                prefill_tok_s: n[0],
                decode_tok_s: n[1],
                first_token_ms: n[2],
                first_token_p99_ms: n[3],
                ..ModelState::default()
            },
            rtt_ms: n[4],
            credits_free: self.credits_free,
            load: n[5],
            battery_percent: self.battery_percent,
            report_age: Duration::from_micros(self.report_age_us),
            breaker: match self.breaker_us {
                None => BreakerState::Closed,
                Some(0) => BreakerState::HalfOpen,
                Some(us) => BreakerState::Open {
                    retry_in: Duration::from_micros(us),
                },
            },
            outlook: Outlook {
                reported_at: self.reported_at_us.map(Time::from_us),
                slots: self.slots,
                open: self.open,
                waiting: self.waiting,
                waiting_ms: n[7],
                running_ms: n[8],
                spread: n[9],
                base_ms: n[10],
                ratio: n[11],
                ratio_sd: n[12],
                ready_at: self.ready_at_us.map(Time::from_us),
                samples: n[13],
                per_token_ms: n[14],
                pool: self.pool.0,
                pool_nodes: self.pool.1,
                pool_busy: self.pool.2,
                pool_free: self.pool.3,
                held: self.pool.4,
                slot_usd_s: self.slot[0].into(),
                scarcity: self.slot[1].into(),
                kv_slot: self.kv.0,
                kv_free: self.kv.1,
            },
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What was asked, without its content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) request_id: String,
    pub(super) zone: Option<Region>,
    user: UserId,
    task: Task,
    model: String,
    first_token_us: Option<u64>,
    total_us: Option<u64>,
    max_cost: Option<Usd>,
    pub(super) privacy: Privacy,
    residency: Option<Region>,
    max_tokens: u32,
    content_bytes: usize,
    battery_percent: Option<u8>,
    thermal: Option<Thermal>,
    network: Option<NetworkKind>,
    due_first_us: Option<u64>,
    due_us: Option<u64>,
    via: Vec<NodeId>,
    scope: u8,
    chosen_model: Option<ModelId>,
    said: usize,
}

impl Asked {
    pub(super) fn of(meta: &RequestMeta, context: &Context, zone: Option<&Region>) -> Self {
        let deadline = context.deadline;
        Self {
            request_id: meta.request_id.to_string(),
            zone: zone.cloned(),
            user: meta.user_id.clone(),
            task: meta.task,
            model: meta.model.as_str().to_owned(),
            first_token_us: meta.first_token.map(micros),
            total_us: meta.total.map(micros),
            max_cost: meta.max_cost,
            privacy: meta.privacy,
            residency: meta.residency.clone(),
            max_tokens: meta.sampling.max_tokens,
            content_bytes: meta.content_bytes,
            battery_percent: meta.device.battery_percent,
            thermal: meta.device.thermal,
            network: meta.device.network,
            due_first_us: deadline.first_token.map(Time::as_us),
            due_us: deadline.total.map(Time::as_us),
            via: context.via.hops().to_vec(),
            scope: context.scope.bits(),
            chosen_model: context.model.clone(),
            said: usize::try_from(context.continuation.said()).unwrap_or(usize::MAX),
        }
    }

    /// The request and its context again; none when no request can be so.
    pub(super) fn parts(&self, policy: &str) -> Option<(RequestMeta, Context)> {
        let raw = RawRequest {
            request_id: self.request_id.clone(),
            user_id: self.user.to_string(),
            policy: policy.to_owned(),
            content: Some(Content::Prompt("-".into())),
            ..RawRequest::default()
        };
        let mut meta = raw.validate().ok()?.meta;
        meta.task = self.task;
        meta.model = match self.model.as_str() {
            "auto" => ModelSelector::Auto,
            name => ModelSelector::Named(ModelId::new(name).ok()?),
        };
        meta.first_token = self.first_token_us.map(Duration::from_micros);
        meta.total = self.total_us.map(Duration::from_micros);
        meta.max_cost = self.max_cost;
        meta.privacy = self.privacy;
        meta.residency.clone_from(&self.residency);
        meta.sampling.max_tokens = self.max_tokens;
        meta.content_bytes = self.content_bytes;
        meta.device = DeviceInfo {
            battery_percent: self.battery_percent,
            thermal: self.thermal,
            network: self.network,
            free_memory_mib: None,
        };
        let context = Context {
            deadline: Deadline {
                first_token: self.due_first_us.map(Time::from_us),
                total: self.due_us.map(Time::from_us),
            },
            via: Via::from_hops(self.via.iter().cloned()).ok()?,
            scope: PermitScope::from_bits(self.scope),
            model: self.chosen_model.clone(),
            continuation: Continuation {
                // Only how many there were counts.
                tokens: self.said as u64,
                ..Continuation::default()
            },
            ..Context::default()
        };
        Some((meta, context))
    }
}
