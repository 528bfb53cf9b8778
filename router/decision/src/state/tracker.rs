//! Nodes, their models, and the streams open on them.

use super::prefix::PrefixIndex;
use crate::decide::Warm;
use crate::estimate::Estimate;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    BreakerState, CandidateState, Destination, ModelId, ModelOffer, NodeId, Outlook, Snapshot, Time,
};

mod learnt;
mod look;
mod node;
mod pools;
mod reports;
mod streams;

pub use learnt::Learnt;
use pools::{Part, Pools};

/// Streams that are followed; beyond, a stream teaches nothing.
const MAX_OPEN: usize = 1 << 16;
/// With streams running and nothing heard for this long, a node is taken to
/// have gone silent, and to stay so for as long again.
const SILENCE: Duration = Duration::from_millis(750);

/// A node that failed a stream is taken to need this long, if it does not
/// report before: a dead one's lease is over then.
const SUSPECTED: Duration = Duration::from_millis(1_500);

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
    learnt: Learnt,
    /// The most tokens of keys and values that it ever said were free.
    kv_most: u32,
}

struct Node {
    number: u32,
    models: Vec<Model>,
    slots: u32,
    /// It said its slots when it joined: its reports do not change them.
    fixed: bool,
    part: Part,
    /// Streams there that are not ours, by its last report.
    others: u32,
    rtt_ms: f32,
    /// Milliseconds of a slot that a stream took, on average.
    hold_ms: f64,
    /// Tokens of streams that were sent there since its last report, less
    /// those of streams that ended since.
    kv_since: i64,
    credits: u32,
    sequence: Option<u64>,
    open: u32,
    waiting: u32,
    waiting_ms: f64,
    heard_at: Time,
    silent: bool,
    /// A stream failed there, and it has not reported since.
    suspect: bool,
    /// Nobody is served there before.
    ready_at: Option<Time>,
    load: f32,
    /// Streams that its report counted, and its whole capacity by that; and
    /// what was sent there since, in prompts and in milliseconds to read them.
    capacity: f32,
    reported_at: Time,
    unseen: u32,
    unseen_ms: f64,
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
    /// What the node's own report said to expect, where that predicts.
    reported_ms: Option<f64>,
    /// Milliseconds to read its prompt, in a node without known slots.
    unseen_ms: f64,
    kv_tokens: u32,
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
    pools: Pools,
    /// What was learnt of those that left, and how many are kept.
    past: BTreeMap<(NodeId, ModelId), Learnt>,
    past_most: usize,
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
            pools: Pools::default(),
            past: BTreeMap::new(),
            past_most: 0,
        }
    }

    /// Keeps what was learnt of at most so many models whose nodes left, for
    /// when they come back: a link that breaks does not change a node's speed.
    #[must_use]
    pub const fn remembering(mut self, most: usize) -> Self {
        self.past_most = most;
        self
    }

    /// Everything known at this point of the log, for the price of a
    /// reference.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// A node is in. One of the same name is taken over.
    pub fn join(&mut self, joined: Joined, now: Time) {
        self.leave(&joined.place.node);
        // A number that is free again: nodes come and go for years.
        let free = self.by_number.iter().position(Option::is_none);
        let place = free.unwrap_or(self.by_number.len());
        if free.is_none() {
            self.by_number.push(None);
        }
        self.by_number[place] = Some(joined.place.node.clone());
        let number = u32::try_from(place).unwrap_or(u32::MAX);
        self.prefixes.forget(number);
        self.prefixes.set_room(number, joined.cache_tokens);
        let slots = joined.slots.unwrap_or(0);
        let models = joined.models.into_iter().map(|offer| {
            let id = offer.id.clone();
            let was = (joined.place.node.clone(), id.clone());
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
                outlook: Outlook {
                    base_ms: joined.base_ms,
                    ..Outlook::default()
                },
            });
            Model {
                index,
                id,
                learnt: self.past.remove(&was).unwrap_or_default(),
                kv_most: 0,
            }
        });
        let node = Node {
            number,
            models: models.collect(),
            slots,
            fixed: joined.slots.is_some(),
            part: Part::default(),
            others: 0,
            rtt_ms: 0.0,
            hold_ms: 0.0,
            kv_since: 0,
            credits: 0,
            sequence: None,
            open: 0,
            waiting: 0,
            waiting_ms: 0.0,
            heard_at: now,
            silent: false,
            suspect: false,
            ready_at: None,
            load: 0.0,
            capacity: 0.0,
            reported_at: now,
            unseen: 0,
            unseen_ms: 0.0,
        };
        let name = joined.place.node;
        self.nodes.insert(name.clone(), node);
        self.pool(&name, now);
        self.snapshot.sequence += 1;
    }

    /// A node is gone, with what was known of it.
    pub fn leave(&mut self, node: &NodeId) {
        let Some(gone) = self.nodes.remove(node) else {
            return;
        };
        self.pools.leave(node, gone.part);
        if let Some(number) = self.by_number.get_mut(gone.number as usize) {
            *number = None;
        }
        // The last place first: what moves into a hole is never one of its own
        // that is still to be removed.
        let mut models: Vec<_> = gone.models.iter().collect();
        models.sort_by_key(|model| std::cmp::Reverse(model.index));
        for model in models {
            let name = (node.clone(), model.id.clone());
            self.past.insert(name, model.learnt.clone());
            let Some(moved) = self.snapshot.candidates.swap_remove(model.index) else {
                continue;
            };
            // Whoever was last of the chunk is now where the model was.
            let name = self.snapshot.candidates[model.index].node.clone();
            if let Some(other) = self.nodes.get_mut(&name) {
                for theirs in other.models.iter_mut().filter(|m| m.index == moved) {
                    theirs.index = model.index;
                }
            }
        }
        self.streams.retain(|_, open| &open.node != node);
        self.tell_left(gone.part.pool);
        self.forget_some();
        self.snapshot.sequence += 1;
    }

    /// A node's model will not answer before then.
    pub fn ready_at(&mut self, node: &NodeId, at: Option<Time>, now: Time) {
        let Some(known) = self.nodes.get_mut(node) else {
            return;
        };
        known.ready_at = at;
        for model in &known.models {
            self.snapshot
                .candidates
                .update(model.index, |candidate| candidate.outlook.ready_at = at);
        }
        self.count(node, now);
        self.snapshot.sequence += 1;
    }

    /// A node's answers go on: tokens came.
    pub fn heard(&mut self, node: &NodeId, now: Time) {
        if let Some(known) = self.nodes.get_mut(node) {
            known.heard_at = now;
            if std::mem::take(&mut known.silent) {
                self.ready_at(node, None, now);
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
            self.ready_at(&node, Some(at), now);
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
}
