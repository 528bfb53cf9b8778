//! Nodes, their models, and the streams open on them.

use super::calibration::Calibration;
use super::prefix::PrefixIndex;
use super::sketch::{Moments, Sketch};
use crate::decide::Warm;
use crate::estimate::Estimate;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    BreakerState, CandidateState, CapacityReport, Destination, ModelId, ModelOffer, NodeId,
    Outlook, Snapshot, Time,
};

/// Streams that are followed; beyond, a stream teaches nothing.
const MAX_OPEN: usize = 1 << 16;
/// With streams running and nothing heard for this long, a node is taken to
/// have gone silent, and to stay so for as long again.
const SILENCE: Duration = Duration::from_millis(750);
/// How long an answer is taken to last before any was seen to its end.
const UNKNOWN_ANSWER_MS: f64 = 3_000.0;
/// Answers before what was learnt counts.
const ENOUGH: f64 = 5.0;
const HALF_LIFE: u16 = 64;

/// A stream that is followed, by a number of the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// A node that is in.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Who and where it is.
    pub place: Destination,
    /// Whoever content passes through on the way.
    pub transit: Option<Destination>,
    /// What it offers.
    pub models: Vec<Arc<ModelOffer>>,
    /// Streams it works on at once, where it says so.
    pub slots: Option<u32>,
    /// Tokens its cache holds, where it says so.
    pub cache_tokens: u64,
    /// Milliseconds to the first token of an empty prompt when idle.
    pub base_ms: f32,
}

/// A stream that was sent off.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    /// The candidate's place in the snapshot that was decided from.
    pub index: usize,
    /// What was expected of it.
    pub estimate: Estimate,
    /// Tokens to read, less what is at hand.
    pub cold_tokens: u32,
    /// Tokens it will likely write.
    pub likely_tokens: u32,
}

struct Model {
    index: usize,
    id: ModelId,
    /// Milliseconds a token of the answer.
    per_token: Moments,
    /// Milliseconds from first token to end.
    answering: Moments,
    /// Milliseconds to first tokens, as they were.
    first_token: Sketch,
    /// Observed over predicted, where no queue was in the way.
    ratio: Moments,
    calibration: Calibration,
}

struct Node {
    number: u32,
    models: Vec<Model>,
    slots: u32,
    base_ms: f32,
    credits: u32,
    sequence: Option<u64>,
    open: u32,
    waiting: u32,
    waiting_ms: f64,
    heard_at: Time,
    silent: bool,
    load: f32,
}

struct Open {
    node: NodeId,
    model: usize,
    at: Time,
    predicted_ms: f64,
    predicted_p99_ms: f64,
    rtt_ms: f64,
    read_ms: f64,
    hold_ms: f64,
    queued: bool,
    first_token: Option<Time>,
}

/// What is known of every node, kept as the candidates of the next snapshot.
pub struct Tracker {
    snapshot: Snapshot,
    nodes: BTreeMap<NodeId, Node>,
    by_number: Vec<Option<NodeId>>,
    streams: BTreeMap<StreamId, Open>,
    prefixes: PrefixIndex,
}

impl Tracker {
    /// Nothing known. `epoch` tells this run of the process from others.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self {
            snapshot: Snapshot {
                epoch,
                ..Snapshot::default()
            },
            nodes: BTreeMap::new(),
            by_number: Vec::new(),
            streams: BTreeMap::new(),
            prefixes: PrefixIndex::default(),
        }
    }

    /// Everything known at this point of the log, for the price of a
    /// reference.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// How well each node's models were predicted, in order.
    pub fn calibration(&self) -> impl Iterator<Item = (&NodeId, &ModelId, &Calibration)> {
        self.nodes.iter().flat_map(|(node, known)| {
            let models = known.models.iter();
            models.map(move |model| (node, &model.id, &model.calibration))
        })
    }

    /// The time to a model's first token that a share of its answers kept,
    /// lately, in milliseconds.
    #[must_use]
    pub fn first_token_quantile(&self, node: &NodeId, model: &ModelId, share: f64) -> Option<f64> {
        let models = &self.nodes.get(node)?.models;
        let model = models.iter().find(|known| &known.id == model)?;
        model.first_token.quantile(share)
    }

    /// A node is in. One of the same name is taken over.
    pub fn join(&mut self, joined: Joined, now: Time) {
        self.leave(&joined.place.node);
        let number = u32::try_from(self.by_number.len()).unwrap_or(u32::MAX);
        self.by_number.push(Some(joined.place.node.clone()));
        self.prefixes.set_room(number, joined.cache_tokens);
        let slots = joined.slots.unwrap_or(0);
        let models = joined.models.into_iter().map(|offer| {
            let id = offer.id.clone();
            let index = self.snapshot.candidates.insert(CandidateState {
                node: joined.place.node.clone(),
                tier: joined.place.tier,
                region: joined.place.region.clone(),
                owner: joined.place.owner.clone(),
                transit: joined.transit.clone(),
                model: offer,
                state: Default::default(),
                rtt_ms: 0.0,
                // Nothing goes there before its first report.
                credits_free: 0,
                load: 0.0,
                battery_percent: None,
                report_age: Duration::ZERO,
                breaker: BreakerState::Closed,
                outlook: Outlook::default(),
            });
            Model {
                index,
                id,
                per_token: Moments::new(0.02),
                answering: Moments::new(0.01),
                first_token: Sketch::new(HALF_LIFE),
                ratio: Moments::new(0.02),
                calibration: Calibration::default(),
            }
        });
        let node = Node {
            number,
            models: models.collect(),
            slots,
            base_ms: joined.base_ms,
            credits: 0,
            sequence: None,
            open: 0,
            waiting: 0,
            waiting_ms: 0.0,
            heard_at: now,
            silent: false,
            load: 0.0,
        };
        self.nodes.insert(joined.place.node, node);
        self.snapshot.sequence += 1;
    }

    /// A node is gone, with what was known of it.
    pub fn leave(&mut self, node: &NodeId) {
        let Some(gone) = self.nodes.remove(node) else {
            return;
        };
        if let Some(number) = self.by_number.get_mut(gone.number as usize) {
            *number = None;
        }
        for model in &gone.models {
            let Some(moved) = self.snapshot.candidates.swap_remove(model.index) else {
                continue;
            };
            // Whoever was last of the chunk is now where the model was; a
            // model of the same node that moved is removed next.
            let name = self.snapshot.candidates[model.index].node.clone();
            if let Some(other) = self.nodes.get_mut(&name) {
                for theirs in other.models.iter_mut().filter(|m| m.index == moved) {
                    theirs.index = model.index;
                }
            }
        }
        self.streams.retain(|_, open| &open.node != node);
        self.snapshot.sequence += 1;
    }

    /// A node's report. One older than the last is dropped.
    pub fn report(&mut self, node: &NodeId, report: &CapacityReport, rtt_ms: f32, now: Time) {
        let Some(known) = self.nodes.get_mut(node) else {
            return;
        };
        if known.sequence.is_some_and(|last| last >= report.sequence) {
            return;
        }
        known.sequence = Some(report.sequence);
        known.credits = report.credits;
        known.load = report.load;
        let outlook = known.outlook();
        for (model, state) in known.models.iter().zip(&report.models) {
            let outlook = model.outlook(outlook, known.slots, Some(now));
            let (open, credits) = (known.open, known.credits);
            let load = known.share(report.load);
            self.snapshot.candidates.update(model.index, |candidate| {
                let ready_at = candidate.outlook.ready_at;
                candidate.state = *state;
                candidate.rtt_ms = rtt_ms;
                candidate.credits_free = credits.saturating_sub(open);
                candidate.load = load;
                candidate.battery_percent = report.battery_percent;
                candidate.outlook = outlook;
                candidate.outlook.ready_at = ready_at;
            });
        }
        self.snapshot.sequence += 1;
    }

    /// A model's price or quality is another now.
    pub fn offer(&mut self, node: &NodeId, offer: &Arc<ModelOffer>) {
        let Some(known) = self.nodes.get(node) else {
            return;
        };
        for model in known.models.iter().filter(|model| model.id == offer.id) {
            self.snapshot
                .candidates
                .update(model.index, |candidate| candidate.model = offer.clone());
        }
        self.snapshot.sequence += 1;
    }

    /// A node's model will not answer before then.
    pub fn ready_at(&mut self, node: &NodeId, at: Option<Time>) {
        let Some(known) = self.nodes.get(node) else {
            return;
        };
        for model in &known.models {
            self.snapshot
                .candidates
                .update(model.index, |candidate| candidate.outlook.ready_at = at);
        }
        self.snapshot.sequence += 1;
    }

    /// A node's answers go on: tokens came.
    pub fn heard(&mut self, node: &NodeId, now: Time) {
        if let Some(known) = self.nodes.get_mut(node) {
            known.heard_at = now;
            if std::mem::take(&mut known.silent) {
                self.ready_at(node, None);
            }
        }
    }

    /// Time passes: whoever should be heard and is not is noticed.
    pub fn tick(&mut self, now: Time) {
        let mut silent = Vec::new();
        for (name, node) in &mut self.nodes {
            let silence = now.since(node.heard_at);
            if node.open > node.waiting && silence >= SILENCE {
                node.silent = true;
                silent.push((name.clone(), now + silence));
            }
        }
        for (node, at) in silent {
            self.ready_at(&node, Some(at));
        }
    }

    /// A node lost its cache.
    pub fn cold(&mut self, node: &NodeId) {
        if let Some(known) = self.nodes.get(node) {
            self.prefixes.forget(known.number);
        }
    }

    /// Who has how much of a prompt at hand, by the digests of its blocks.
    pub fn warm(&self, prompt: &[u64], block_tokens: u32, found: &mut Vec<Warm>) {
        found.clear();
        let mut nodes = [(0, 0); 4];
        let count = self.prefixes.find(prompt, &mut nodes);
        for (number, blocks) in nodes.into_iter().take(count) {
            let name = self.by_number.get(number as usize).and_then(Option::as_ref);
            let Some(node) = name.and_then(|name| self.nodes.get(name)) else {
                continue;
            };
            found.extend(node.models.iter().map(|model| Warm {
                index: model.index,
                tokens: blocks.saturating_mul(block_tokens),
            }));
        }
    }

    /// A stream was sent off. `prompt` are the digests of its blocks, if known.
    pub fn opened(&mut self, stream: StreamId, opened: &Opened, prompt: (&[u64], u32), now: Time) {
        let Some(candidate) = self.snapshot.candidates.get(opened.index) else {
            return;
        };
        if self.streams.len() >= MAX_OPEN {
            return;
        }
        let name = candidate.node.clone();
        let (rtt_ms, state) = (f64::from(candidate.rtt_ms), candidate.state);
        let Some(node) = self.nodes.get_mut(&name) else {
            return;
        };
        let Some(at) = node.models.iter().position(|m| m.index == opened.index) else {
            return;
        };
        let prefill = f64::from(state.prefill_tok_s).max(1.0);
        let decode = f64::from(state.decode_tok_s).max(1.0);
        let read_ms = f64::from(node.base_ms) + f64::from(opened.cold_tokens) * 1e3 / prefill;
        let model = &node.models[at];
        let per_token = model.per_token.mean_or(ENOUGH, 1e3 / decode);
        let write_ms = f64::from(opened.likely_tokens) * per_token;
        let hold_ms = read_ms * model.ratio.mean_or(ENOUGH, 1.0) + write_ms;
        let queued = node.slots > 0 && node.open >= node.slots;
        if node.open == node.waiting {
            // Nobody was heard because nobody was asked.
            node.heard_at = now;
        }
        node.open += 1;
        node.waiting += 1;
        node.waiting_ms += hold_ms;
        self.prefixes.record(node.number, prompt.0, prompt.1);
        let open = Open {
            node: name.clone(),
            model: at,
            at: now,
            predicted_ms: opened.estimate.first_token_ms,
            predicted_p99_ms: opened.estimate.first_token_p99_ms,
            rtt_ms,
            read_ms,
            hold_ms,
            queued,
            first_token: None,
        };
        self.streams.insert(stream, open);
        self.refresh(&name);
    }

    /// A stream's first token came.
    pub fn first_token(&mut self, stream: StreamId, now: Time) {
        let Some(open) = self.streams.get_mut(&stream) else {
            return;
        };
        if open.first_token.replace(now).is_some() {
            return;
        }
        let observed_ms = now.since(open.at).as_secs_f64() * 1e3;
        let name = open.node.clone();
        let Some(node) = self.nodes.get_mut(&name) else {
            return;
        };
        node.waiting = node.waiting.saturating_sub(1);
        node.waiting_ms = (node.waiting_ms - open.hold_ms).max(0.0);
        let model = &mut node.models[open.model];
        model.first_token.record(observed_ms);
        if !open.queued && open.read_ms > 0.0 {
            let served_ms = (observed_ms - open.rtt_ms).max(0.0);
            model.ratio.record((served_ms / open.read_ms).min(100.0));
        }
        model
            .calibration
            .record(open.predicted_ms, open.predicted_p99_ms, observed_ms);
        self.heard(&name, now);
        self.refresh(&name);
    }

    /// A stream ended, however it ended; `tokens` it wrote if it came to its
    /// end, and then it teaches how long answers take.
    pub fn closed(&mut self, stream: StreamId, tokens: Option<u32>, now: Time) {
        let Some(open) = self.streams.remove(&stream) else {
            return;
        };
        let name = open.node;
        let Some(node) = self.nodes.get_mut(&name) else {
            return;
        };
        node.open = node.open.saturating_sub(1);
        if open.first_token.is_none() {
            node.waiting = node.waiting.saturating_sub(1);
            node.waiting_ms = (node.waiting_ms - open.hold_ms).max(0.0);
        }
        if node.waiting == 0 {
            // Sums of what was added and taken away drift; an empty queue has
            // no length.
            node.waiting_ms = 0.0;
        }
        if let (Some(first), Some(tokens)) = (open.first_token, tokens) {
            let took_ms = now.since(first).as_secs_f64() * 1e3;
            let model = &mut node.models[open.model];
            model.answering.record(took_ms);
            if tokens > 1 {
                model.per_token.record(took_ms / f64::from(tokens - 1));
            }
        }
        self.heard(&name, now);
        self.refresh(&name);
    }

    /// Writes what is open on a node into its candidates.
    fn refresh(&mut self, name: &NodeId) {
        let Some(node) = self.nodes.get(name) else {
            return;
        };
        let outlook = node.outlook();
        for model in &node.models {
            let outlook = model.outlook(outlook, node.slots, None);
            let free = node.credits.saturating_sub(node.open);
            let load = node.share(node.load);
            self.snapshot.candidates.update(model.index, |candidate| {
                let old = candidate.outlook;
                candidate.credits_free = free;
                candidate.load = load;
                candidate.outlook = Outlook {
                    reported_at: old.reported_at,
                    ready_at: old.ready_at,
                    ..outlook
                };
            });
        }
        self.snapshot.sequence += 1;
    }
}

impl Node {
    /// Busy share: what is open where the slots are known, else as reported.
    fn share(&self, reported: f32) -> f32 {
        if self.slots == 0 {
            return reported;
        }
        (self.open as f32 / self.slots as f32).min(1.0)
    }

    /// What is the same for all of its models.
    fn outlook(&self) -> Outlook {
        Outlook {
            slots: self.slots,
            open: self.open,
            waiting: self.waiting.min(self.open),
            // Those that are being read are not waiting, but hold their slot
            // as long as if they just began.
            waiting_ms: self.queued_ms() as f32,
            base_ms: self.base_ms,
            ..Outlook::default()
        }
    }

    /// Slot time of those that wait for a slot. Streams without a first token
    /// are waiting or being read; as many as there are slots without a running
    /// stream are being read.
    fn queued_ms(&self) -> f64 {
        let running = self.open.saturating_sub(self.waiting);
        let reading = self.slots.saturating_sub(running).min(self.waiting);
        let queued = self.waiting - reading;
        if self.waiting == 0 {
            return 0.0;
        }
        self.waiting_ms * f64::from(queued) / f64::from(self.waiting)
    }
}

impl Model {
    fn outlook(&self, of_node: Outlook, slots: u32, reported_at: Option<Time>) -> Outlook {
        let spread = self.answering.spread_or(ENOUGH, 1.0).clamp(0.05, 25.0);
        // One stream met at any moment has this much of its mean left; many
        // streams end one after another as if each moment were the first.
        let alone = 0.5 * (1.0 + spread);
        let share = 1.0 / f64::from(slots.max(1));
        let rest =
            self.answering.mean_or(ENOUGH, UNKNOWN_ANSWER_MS) * (share * alone + (1.0 - share));
        let waiting_each = match of_node.waiting {
            0 => 0.0,
            _ => of_node.waiting_ms,
        };
        Outlook {
            reported_at,
            waiting_ms: waiting_each,
            running_ms: rest as f32,
            spread: spread as f32,
            ratio: self.ratio.mean_or(ENOUGH, 1.0) as f32,
            ratio_sd: if self.ratio.samples() >= ENOUGH {
                self.ratio.deviation() as f32
            } else {
                0.25
            },
            samples: self.answering.samples().min(1e6) as f32,
            ..of_node
        }
    }
}
