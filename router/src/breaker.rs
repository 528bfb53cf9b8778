//! Breakers: a node that keeps failing is left alone for a while.
//!
//! There is one for each model on each node (a provider throttles and breaks
//! models apart, and a cloud node is one region), one for each node, and one
//! for each of the MEC and CLOUD tiers. A node's counts the failures of all
//! its models and opens only when two different ones failed since the last
//! success: until then the trouble is the model's. A tier's breaker counts the failures of all its nodes and opens
//! only when several different ones of them failed since the last success:
//! then the trouble is common (a backhaul, a region), and trying the tier's
//! other nodes one by one would cost every request its time. Devices have no
//! tier breaker: two owners' phones share nothing whose failure is one
//! failure, and one owner's trouble must not close the others' devices.
//!
//! The state machine takes the time as an argument and does no I/O.
//! [`Breakers`] keeps them all and hands out a [`Ticket`] per attempt. A
//! ticket always settles: dropped, it counts as neutral and frees its slot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tiermesh_core::{BreakerState, CandidateState, ModelId, NodeId, Snapshot, Tier, Time};

mod closed;
mod machine;
mod ticket;

use closed::{Closed, close_slots, is_open, tell_closed};
pub use machine::Outcome;
use machine::{Admission, Machine};
pub use ticket::Ticket;

/// The most breakers kept. Beyond it, the closed one that was idle longest
/// is forgotten.
const MAX_BREAKERS: usize = 16_384;

/// When breakers open, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerConfig {
    /// This many failures in a row open it.
    pub consecutive: u32,
    /// This share of failures, in percent, over [`Self::window`] opens it.
    pub rate_percent: u32,
    /// But not on fewer outcomes than this.
    pub rate_least: u32,
    /// Failures and successes are counted over this long.
    pub window: Duration,
    /// How long it stays open, give or take [`Self::jitter_percent`].
    pub open: Duration,
    /// So that a fleet's breakers do not half-open at once.
    pub jitter_percent: u32,
    /// Probes at a time while half-open, at least 1. A probe that has not
    /// ended after [`Self::open`] no longer holds its place.
    pub probes: u32,
    /// After a probe succeeded, requests pass a few at a time for so long:
    /// the probes' number at first, twice as many after each tenth.
    pub ramp: Duration,
    /// A tier's breaker needs failures of this many different nodes, and
    /// twice the failures that a node's needs.
    pub tier_nodes: usize,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            consecutive: 5,
            rate_percent: 50,
            rate_least: 10,
            window: Duration::from_secs(30),
            open: Duration::from_secs(60),
            jitter_percent: 10,
            probes: 2,
            ramp: Duration::from_secs(10),
            tier_nodes: 3,
        }
    }
}

impl BreakerConfig {
    fn of_tier(&self) -> Self {
        Self {
            consecutive: self.consecutive.saturating_mul(2),
            rate_least: self.rate_least.saturating_mul(2),
            ..self.clone()
        }
    }
}

/// Models that failed before their node is to blame.
const MODELS_OF_A_NODE: usize = 2;

/// Whose breaker it is: one model's on one node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key(NodeId, ModelId);

impl Key {
    fn of(candidate: &CandidateState) -> Self {
        Self(candidate.node.clone(), candidate.model.id.clone())
    }

    const fn node(&self) -> &NodeId {
        &self.0
    }
}

/// Every breaker of one process.
#[derive(Debug)]
pub struct Breakers {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: BreakerConfig,
    tier_config: BreakerConfig,
    seed: u64,
    opened: u64,
    machines: BTreeMap<Key, Entry>,
    tiers: BTreeMap<Tier, TierEntry>,
    /// Nodes whose models failed lately, and no others: usually none.
    nodes: BTreeMap<NodeId, TierEntry>,
    /// The keys whose machine is not closed: usually none, so that merging
    /// into a snapshot of a thousand candidates costs nothing.
    tripped: BTreeSet<Key>,
}

#[derive(Debug)]
struct Entry {
    machine: Machine,
    used_at: Time,
}

/// A breaker of several things that fail together.
#[derive(Debug, Default)]
struct TierEntry {
    machine: Machine,
    /// Who failed since the last success, as far as it matters.
    failing: BTreeSet<Key>,
}

impl Breakers {
    /// Closed breakers. The seed draws the jitter.
    #[must_use]
    pub fn new(config: BreakerConfig, seed: u64) -> Arc<Self> {
        let tier = TierEntry::default;
        Arc::new(Self {
            inner: Mutex::new(Inner {
                tier_config: config.of_tier(),
                config,
                seed,
                opened: 0,
                machines: BTreeMap::new(),
                tiers: [Tier::Mec, Tier::Cloud].map(|t| (t, tier())).into(),
                nodes: BTreeMap::new(),
                tripped: BTreeSet::new(),
            }),
        })
    }

    /// How a node's breaker treats the next request; the worst of its models'
    /// for a cloud node. For listings.
    #[must_use]
    pub fn state(&self, node: &NodeId, now: Time) -> BreakerState {
        let inner = self.lock();
        let states = inner
            .tripped
            .iter()
            .filter(|key| key.node() == node)
            .filter_map(|key| inner.machines.get(key))
            .map(|entry| entry.machine.state(now));
        let whole = inner.nodes.get(node);
        let whole = whole.map(|entry| entry.machine.state(now));
        states.chain(whole).fold(BreakerState::Closed, worst)
    }

    /// How a tier's breaker treats the next request.
    #[must_use]
    pub fn tier_state(&self, tier: Tier, now: Time) -> BreakerState {
        let inner = self.lock();
        inner
            .tiers
            .get(&tier)
            .map_or(BreakerState::Closed, |entry| entry.machine.state(now))
    }

    /// Writes the breakers into a snapshot's candidates, where they are worse
    /// than what the fleet knows. A half-open breaker whose probes are all out
    /// counts as open.
    pub fn merge(&self, snapshot: &mut Snapshot, now: Time) {
        let inner = self.lock();
        let tiers = Tier::ALL.map(|tier| {
            inner
                .tiers
                .get(&tier)
                .map_or(BreakerState::Closed, |entry| {
                    entry.machine.passes(&inner.tier_config, now)
                })
        });
        let all_closed = tiers.iter().all(|state| *state == BreakerState::Closed);
        if inner.tripped.is_empty() && inner.nodes.is_empty() && all_closed {
            return;
        }
        let chunks = snapshot.candidates.chunks();
        let (mut worse, mut closed) = (Vec::new(), Closed::new());
        for (place, candidate) in chunks.flat_map(|(first, chunk)| (first..).zip(chunk.items())) {
            let own = inner
                .tripped
                .get(&Key::of(candidate))
                .and_then(|key| inner.machines.get(key))
                .map_or(BreakerState::Closed, |entry| {
                    entry.machine.passes(&inner.config, now)
                });
            let whole = inner.nodes.get(&candidate.node);
            let own = whole.map_or(own, |entry| {
                worst(own, entry.machine.passes(&inner.config, now))
            });
            let of_tier = tiers[candidate.tier as usize];
            // With its whole tier open nobody is waited for anyway.
            if is_open(own) && !is_open(of_tier) {
                close_slots(&mut closed, candidate, now);
            }
            let both = worst(own, of_tier);
            let breaker = worst(candidate.breaker, both);
            if breaker != candidate.breaker {
                worse.push((place, breaker));
            }
        }
        drop(inner);
        // The others stay shared with whoever else reads them.
        for (place, breaker) in worse {
            let update = |candidate: &mut CandidateState| candidate.breaker = breaker;
            snapshot.candidates.update(place, update);
        }
        tell_closed(snapshot, &closed);
    }

    /// Lets an attempt at a candidate pass, or says when to come back.
    ///
    /// # Errors
    /// How long the breaker stays open; zero while other probes are out.
    pub fn admit(
        self: &Arc<Self>,
        candidate: &CandidateState,
        now: Time,
    ) -> Result<Ticket, Duration> {
        let key = Key::of(candidate);
        let mut guard = self.lock();
        let inner = &mut *guard;
        let tier = match inner.tiers.get_mut(&candidate.tier) {
            Some(entry) => Some(entry.machine.admit(&inner.tier_config, now)?),
            None => None,
        };
        let whole = match inner.nodes.get_mut(&candidate.node) {
            Some(entry) => entry.machine.admit(&inner.config, now),
            None => Ok(Admission::untouched()),
        };
        inner.make_room(&key);
        let entry = inner.machines.entry(key.clone()).or_insert_with(|| Entry {
            machine: Machine::default(),
            used_at: now,
        });
        entry.used_at = now;
        let model = match &whole {
            Ok(_) => entry.machine.admit(&inner.config, now),
            Err(retry_in) => Err(*retry_in),
        };
        match (whole, model) {
            (Ok(whole), Ok(model)) => Ok(Ticket {
                breakers: Arc::clone(self),
                key,
                tier: tier.map(|admission| (candidate.tier, admission)),
                whole,
                model,
                settled: false,
            }),
            (whole, refused) => {
                // The others' places were taken for nothing.
                if let (Some(entry), Some(admission)) = (inner.tiers.get_mut(&candidate.tier), tier)
                {
                    entry.machine.settle_neutral(&admission);
                }
                if let (Some(entry), Ok(admission)) = (inner.nodes.get_mut(&candidate.node), whole)
                {
                    entry.machine.settle_neutral(&admission);
                }
                Err(refused.err().unwrap_or_default())
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Forgets the closed machine that was idle longest, when there are too
    /// many. The scan is rare: once per new node beyond the bound.
    fn make_room(&mut self, coming: &Key) {
        if self.machines.len() < MAX_BREAKERS || self.machines.contains_key(coming) {
            return;
        }
        let idle = self
            .machines
            .iter()
            .min_by_key(|(key, entry)| (self.tripped.contains(*key), entry.used_at))
            .map(|(key, _)| key.clone());
        if let Some(key) = idle {
            self.tripped.remove(&key);
            self.machines.remove(&key);
        }
    }

    fn settle(&mut self, ticket: &Ticket, outcome: Outcome, now: Time) {
        let lot = draw(self.seed, self.opened);
        self.opened += 1;
        if let Some(entry) = self.machines.get_mut(&ticket.key) {
            entry
                .machine
                .settle(&self.config, &ticket.model, outcome, now, lot);
            if entry.machine.is_closed() {
                self.tripped.remove(&ticket.key);
            } else {
                self.tripped.insert(ticket.key.clone());
            }
        }
        self.settle_node(ticket, outcome, now, draw(self.seed, lot));
        if let Some((tier, admission)) = &ticket.tier
            && let Some(entry) = self.tiers.get_mut(tier)
        {
            let lot = draw(lot, self.seed);
            let of = (&self.tier_config, self.config.tier_nodes);
            entry.settle(of, &ticket.key, admission, (outcome, now, lot));
        }
    }

    fn settle_node(&mut self, ticket: &Ticket, outcome: Outcome, now: Time, lot: u64) {
        let node = ticket.key.node();
        if outcome == Outcome::Failure && self.nodes.len() < MAX_BREAKERS {
            self.nodes.entry(node.clone()).or_default();
        }
        let Some(entry) = self.nodes.get_mut(node) else {
            return;
        };
        let of = (&self.config, MODELS_OF_A_NODE);
        entry.settle(of, &ticket.key, &ticket.whole, (outcome, now, lot));
        if entry.failing.is_empty() && entry.machine.is_closed() {
            self.nodes.remove(node);
        }
    }
}

impl TierEntry {
    /// Counts, and opens only once enough different ones failed.
    fn settle(
        &mut self,
        (config, enough): (&BreakerConfig, usize),
        who: &Key,
        admission: &Admission,
        (outcome, now, lot): (Outcome, Time, u64),
    ) {
        match outcome {
            Outcome::Success => self.failing.clear(),
            Outcome::Failure if self.failing.len() < enough => {
                self.failing.insert(who.clone());
            }
            Outcome::Failure | Outcome::Neutral => {}
        }
        let mut config = config.clone();
        if self.failing.len() < enough {
            (config.consecutive, config.rate_percent) = (u32::MAX, u32::MAX);
        }
        self.machine.settle(&config, admission, outcome, now, lot);
    }
}

fn worst(a: BreakerState, b: BreakerState) -> BreakerState {
    match (a, b) {
        (BreakerState::Open { retry_in: a }, BreakerState::Open { retry_in: b }) => {
            BreakerState::Open { retry_in: a.max(b) }
        }
        (open @ BreakerState::Open { .. }, _) | (_, open @ BreakerState::Open { .. }) => open,
        (BreakerState::HalfOpen, _) | (_, BreakerState::HalfOpen) => BreakerState::HalfOpen,
        (BreakerState::Closed, BreakerState::Closed) => BreakerState::Closed,
    }
}

/// The `position`-th lot of a seed (splitmix64).
const fn draw(seed: u64, position: u64) -> u64 {
    let mut x = seed.wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
