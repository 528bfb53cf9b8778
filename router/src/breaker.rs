//! Breakers: a node that keeps failing is left alone for a while.
//!
//! There is one for each node, one for each model of a cloud node (a provider
//! throttles and breaks models apart), and one for each of the MEC and CLOUD
//! tiers. A tier's breaker counts the failures of all its nodes and opens
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

mod machine;

pub use machine::Outcome;
use machine::{Admission, Machine};

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

/// Whose breaker it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Node(NodeId),
    Model(NodeId, ModelId),
}

impl Key {
    fn of(candidate: &CandidateState) -> Self {
        let node = candidate.node.clone();
        match candidate.tier {
            Tier::Cloud => Self::Model(node, candidate.model.id.clone()),
            Tier::Device | Tier::Mec => Self::Node(node),
        }
    }

    const fn node(&self) -> &NodeId {
        match self {
            Self::Node(node) | Self::Model(node, _) => node,
        }
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
    /// The keys whose machine is not closed: usually none, so that merging
    /// into a snapshot of a thousand candidates costs nothing.
    tripped: BTreeSet<Key>,
}

#[derive(Debug)]
struct Entry {
    machine: Machine,
    used_at: Time,
}

#[derive(Debug)]
struct TierEntry {
    machine: Machine,
    /// Who failed since the last success, as far as it matters.
    failing: BTreeSet<Key>,
}

impl Breakers {
    /// Closed breakers. The seed draws the jitter.
    #[must_use]
    pub fn new(config: BreakerConfig, seed: u64) -> Arc<Self> {
        let tier = || TierEntry {
            machine: Machine::default(),
            failing: BTreeSet::new(),
        };
        Arc::new(Self {
            inner: Mutex::new(Inner {
                tier_config: config.of_tier(),
                config,
                seed,
                opened: 0,
                machines: BTreeMap::new(),
                tiers: [Tier::Mec, Tier::Cloud].map(|t| (t, tier())).into(),
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
        states.fold(BreakerState::Closed, worst)
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
        if inner.tripped.is_empty() && all_closed {
            return;
        }
        for candidate in &mut snapshot.candidates {
            let own = inner
                .tripped
                .get(&Key::of(candidate))
                .and_then(|key| inner.machines.get(key))
                .map_or(BreakerState::Closed, |entry| {
                    entry.machine.passes(&inner.config, now)
                });
            let both = worst(own, tiers[candidate.tier as usize]);
            candidate.breaker = worst(candidate.breaker, both);
        }
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
        inner.make_room(&key);
        let entry = inner.machines.entry(key.clone()).or_insert_with(|| Entry {
            machine: Machine::default(),
            used_at: now,
        });
        entry.used_at = now;
        match entry.machine.admit(&inner.config, now) {
            Ok(node) => Ok(Ticket {
                breakers: Arc::clone(self),
                key,
                tier: tier.map(|admission| (candidate.tier, admission)),
                node,
                settled: false,
            }),
            Err(retry_in) => {
                // The tier's place was taken for nothing.
                if let (Some(entry), Some(admission)) = (inner.tiers.get_mut(&candidate.tier), tier)
                {
                    entry.machine.settle_neutral(&admission);
                }
                Err(retry_in)
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
        let mut lot = draw(self.seed, self.opened);
        self.opened += 1;
        if let Some(entry) = self.machines.get_mut(&ticket.key) {
            entry
                .machine
                .settle(&self.config, &ticket.node, outcome, now, lot);
            if entry.machine.is_closed() {
                self.tripped.remove(&ticket.key);
            } else {
                self.tripped.insert(ticket.key.clone());
            }
        }
        let Some((tier, admission)) = &ticket.tier else {
            return;
        };
        let Some(entry) = self.tiers.get_mut(tier) else {
            return;
        };
        match outcome {
            Outcome::Success => entry.failing.clear(),
            Outcome::Failure if entry.failing.len() < self.config.tier_nodes => {
                entry.failing.insert(ticket.key.clone());
            }
            Outcome::Failure | Outcome::Neutral => {}
        }
        lot = draw(self.seed, lot);
        let common = entry.failing.len() >= self.config.tier_nodes;
        let mut config = self.tier_config.clone();
        if !common {
            // Not several nodes yet: count, and do not open.
            (config.consecutive, config.rate_percent) = (u32::MAX, u32::MAX);
        }
        entry.machine.settle(&config, admission, outcome, now, lot);
    }
}

/// The right to one attempt. Settle it when the attempt's stream has ended;
/// dropped before that (the client went away), it is neutral.
#[derive(Debug)]
pub struct Ticket {
    breakers: Arc<Breakers>,
    key: Key,
    tier: Option<(Tier, Admission)>,
    node: Admission,
    settled: bool,
}

impl Ticket {
    /// Says how the attempt ended.
    pub fn settle(mut self, outcome: Outcome, now: Time) {
        self.settled = true;
        let breakers = Arc::clone(&self.breakers);
        breakers.lock().settle(&self, outcome, now);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let breakers = Arc::clone(&self.breakers);
        let mut inner = breakers.lock();
        if let Some(entry) = inner.machines.get_mut(&self.key) {
            entry.machine.settle_neutral(&self.node);
        }
        if let Some((tier, admission)) = &self.tier
            && let Some(entry) = inner.tiers.get_mut(tier)
        {
            entry.machine.settle_neutral(admission);
        }
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
