//! Nodes that are alike to a request, and what their slots are worth.
//!
//! A slot that a request takes is not there for the next one. What that costs
//! is found as a price: demand for a pool, met or not, piles up as seconds of
//! slots, and the pool works it off somewhat faster than it has slots (see
//! [`LUMPS`]). What is left, as a share of what the pool does in [`PRICED_S`],
//! is the share of the usual saving that a second of its slots costs. Where
//! demand stays below that, nothing piles up and slots cost nothing; where it
//! does not, the price rises until whoever saves least goes elsewhere; at once,
//! where more of them wait than can be served in time. It is the subgradient
//! method on the dual of the assignment, a request at a time.

use super::{Node, Tracker};
use crate::plan::Wanted;
use std::collections::BTreeMap;
use tiermesh_core::{CandidateState, ModelId, NodeId, Outlook, Region, Tier, Time, Usd};

#[cfg(test)]
mod check;

/// With so many seconds of a pool's work left over, a second of its slots
/// costs what a second of them usually saves.
const PRICED_S: f64 = 30.0;
/// Demand comes in lumps: with just as much of it as a pool can do, slots are
/// idle between them while others cannot wait. What it takes to keep them busy
/// grows with the root of the slots, as in the staffing of telephone lines.
const LUMPS: f64 = 1.4;
/// Who waits is served in time while the line is short for how long those in
/// it can wait. Beyond this share of that they show a want of slots at once,
/// each as much as so many seconds of demand that is left over.
const SERVED_IN_TIME: f64 = 0.75;
const WAITING_S: f64 = 100.0;
/// No more is left over than this many seconds of work.
const MOST_LEFT_S: f64 = 20.0 * PRICED_S;
/// No request is taken to want a slot for longer: what its client allows may
/// be far beyond what it will take.
const MOST_WANTED_S: f64 = 4.0 * PRICED_S;
/// More than anybody pays for a second of a slot, in dollars.
const MOST_USD_S: f64 = 1.0;
/// Weight of the newest request in what is usual.
const NEWEST: f64 = 0.01;
/// With this share of its slots to spare, a pool's are not scarce.
const SPARE: f64 = 0.1;
/// In a pool of so few nodes, everybody is told of every slot that is taken.
const TOLD_ALWAYS: usize = 8;
/// Nodes of one pool that are told at once when its slots run out or come
/// free; the others are with their next report.
const TOLD_AT_ONCE: usize = 64;

/// What nodes of one pool have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    tier: Tier,
    region: Option<Region>,
    /// A device is a pool of its own, and so is whoever is behind a transit.
    alone: Option<NodeId>,
    models: Vec<(ModelId, u32, Usd, Usd)>,
}

/// Nodes that are alike.
#[derive(Debug, Default)]
struct Pool {
    members: Vec<NodeId>,
    counts: Counts,
    held: u32,
    worth: Worth,
}

/// What a pool's slots are worth, and what that is made of.
#[derive(Debug, Clone, Copy, Default)]
struct Worth {
    /// Slot seconds that were wanted and not worked off yet, at this time.
    left_s: f64,
    at: Time,
    /// Dollars that a second of a slot usually saves, for how many seconds
    /// one is usually wanted, and for how many whoever is held back can
    /// usually wait; 0 is not known.
    saves: f64,
    wanted_s: f64,
    patience_s: f64,
}

/// Every pool, by number and by kind. A number is never used again.
#[derive(Debug, Default)]
pub(super) struct Pools {
    by_kind: BTreeMap<Kind, u32>,
    pools: BTreeMap<u32, Pool>,
    last: u32,
}

/// A node's part in its pool.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Part {
    /// Its pool; 0 for none.
    pub(super) pool: u32,
    counts: Counts,
}

/// Slots of a node, or of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    /// Those there are, whoever may use them.
    slots: u32,
    /// Those of them that streams have.
    busy: u32,
    /// Those that a stream may be sent to now.
    free: u32,
}

impl Counts {
    fn add(&mut self, of_node: Self) {
        self.slots += of_node.slots;
        self.busy += of_node.busy;
        self.free += of_node.free;
    }

    fn take_away(&mut self, of_node: Self) {
        self.slots -= of_node.slots;
        self.busy -= of_node.busy;
        self.free -= of_node.free;
    }
}

impl Pool {
    /// Slots for those that are held back, and one more for whoever comes
    /// new: when that changes, all nodes of a pool are told at once.
    fn for_the_line(&self) -> u32 {
        self.counts.free.min(self.held.saturating_add(1))
    }

    fn work(&mut self, now: Time) {
        self.worth.left_s = self.left_s(now);
        self.worth.at = self.worth.at.max(now);
    }

    /// What is left of the demand.
    fn left_s(&self, now: Time) -> f64 {
        let passed = now.since(self.worth.at).as_secs_f64();
        let slots = f64::from(self.counts.slots);
        (self.worth.left_s - passed * (slots + LUMPS * slots.sqrt())).max(0.0)
    }

    fn price(&self, now: Time) -> f64 {
        let Worth {
            saves,
            wanted_s,
            patience_s,
            ..
        } = self.worth;
        let slots = f64::from(self.counts.slots.max(1));
        let in_time = SERVED_IN_TIME * patience_s * slots / wanted_s.max(1e-3);
        let too_many = f64::from(self.held) - in_time.max(LUMPS * slots.sqrt());
        let left_s = (self.left_s(now) + WAITING_S * too_many.max(0.0)) / slots;
        (saves * left_s.min(MOST_LEFT_S) / PRICED_S).min(MOST_USD_S)
    }

    fn scarcity(&self) -> f64 {
        // What is left to spare once one more is taken.
        let Counts { slots, free, .. } = self.counts;
        let spare = f64::from(free.saturating_sub(self.held.saturating_add(1)));
        let to_spare = (SPARE * f64::from(slots)).max(1.0);
        (1.0 - spare / to_spare).max(0.0)
    }
}

impl Pools {
    /// What a node's pool says of it.
    pub(super) fn outlook(&self, of_node: Outlook, part: Part, now: Time) -> Outlook {
        let Some(pool) = self.pools.get(&part.pool) else {
            return of_node;
        };
        Outlook {
            pool: part.pool,
            pool_nodes: u32::try_from(pool.members.len()).unwrap_or(u32::MAX),
            pool_busy: pool.counts.busy,
            pool_free: pool.counts.free,
            held: pool.held,
            slot_usd_s: pool.price(now) as f32,
            scarcity: pool.scarcity() as f32,
            ..of_node
        }
    }

    fn join(&mut self, kind: Kind, node: &NodeId, worth: Worth) -> u32 {
        let number = *self.by_kind.entry(kind).or_insert_with(|| {
            self.last = self.last.wrapping_add(1).max(1);
            let pool = Pool {
                worth,
                ..Pool::default()
            };
            self.pools.insert(self.last, pool);
            self.last
        });
        if let Some(pool) = self.pools.get_mut(&number) {
            pool.members.push(node.clone());
        }
        number
    }

    pub(super) fn leave(&mut self, node: &NodeId, part: Part) {
        let Some(pool) = self.pools.get_mut(&part.pool) else {
            return;
        };
        pool.counts.take_away(part.counts);
        pool.members.retain(|member| member != node);
        if pool.members.is_empty() {
            self.pools.remove(&part.pool);
            self.by_kind.retain(|_, number| *number != part.pool);
        }
    }
}

impl Node {
    /// Streams that fill it: as many as it has slots, and those that are on
    /// their way while others end.
    pub(super) fn takes(&self) -> u32 {
        if self.slots == 0 || self.hold_ms <= 0.0 {
            return self.slots;
        }
        let meanwhile = f64::from(self.slots) * f64::from(self.rtt_ms.max(0.0)) / self.hold_ms;
        // No more than twice its slots, whatever was measured.
        self.slots
            .saturating_add((meanwhile + 0.5).min(f64::from(self.slots)) as u32)
    }

    /// Its slots. Nobody is sent where nobody is served yet, or beyond what
    /// it lends.
    fn counts(&self, now: Time) -> Counts {
        let slots = self.takes();
        let busy = self.streams().min(slots);
        let ready = self.ready_at.is_none_or(|at| at <= now);
        let lent = self.credits.saturating_sub(self.open);
        Counts {
            slots,
            busy,
            free: if ready { (slots - busy).min(lent) } else { 0 },
        }
    }

    /// Streams there, ours and others'.
    pub(super) const fn streams(&self) -> u32 {
        self.open.saturating_add(self.others)
    }
}

fn kind(candidates: &[&CandidateState]) -> Option<Kind> {
    let first = candidates.first()?;
    let alone = first.owner.is_some() || first.transit.is_some();
    let mut models: Vec<_> = candidates
        .iter()
        .map(|c| {
            let model = &c.model;
            (
                model.id.clone(),
                model.context_tokens,
                model.input_per_million,
                model.output_per_million,
            )
        })
        .collect();
    models.sort();
    Some(Kind {
        tier: first.tier,
        region: first.region.clone(),
        alone: alone.then(|| first.node.clone()),
        models,
    })
}

impl Tracker {
    /// Puts a node with known slots into the pool of those like it.
    pub(super) fn pool(&mut self, name: &NodeId, now: Time) {
        let Some(node) = self.nodes.get_mut(name) else {
            return;
        };
        let was = std::mem::take(&mut node.part);
        // A node that changes its prices takes along what its pool's slots
        // were worth.
        let known = self.pools.pools.get(&was.pool);
        let worth = known.map_or_else(Worth::default, |pool| pool.worth);
        self.pools.leave(name, was);
        if node.slots > 0 {
            let candidates = node.models.iter();
            let candidates: Vec<_> = candidates
                .filter_map(|model| self.snapshot.candidates.get(model.index))
                .collect();
            if let Some(kind) = kind(&candidates) {
                node.part.pool = self.pools.join(kind, name, worth);
            }
        }
        self.count(name, now);
    }

    /// A node's streams changed: in a large pool whoever is like it is told
    /// while slots are few.
    pub(super) fn count(&mut self, name: &NodeId, now: Time) {
        let Some(node) = self.nodes.get_mut(name) else {
            return;
        };
        let counts = node.counts(now);
        let Some(pool) = self.pools.pools.get_mut(&node.part.pool) else {
            return;
        };
        let was = pool.for_the_line();
        pool.counts.take_away(node.part.counts);
        pool.counts.add(counts);
        node.part.counts = counts;
        if pool.for_the_line() != was || pool.members.len() <= TOLD_ALWAYS {
            let number = node.part.pool;
            self.tell_pool(number, now);
        }
    }

    /// A node of the pool is gone, and its slots with it.
    pub(super) fn tell_left(&mut self, number: u32) {
        let Some(pool) = self.pools.pools.get(&number) else {
            return;
        };
        let Counts { busy, free, .. } = pool.counts;
        for member in pool.members.iter().take(TOLD_AT_ONCE) {
            for model in self.nodes.get(member).into_iter().flat_map(|n| &n.models) {
                self.snapshot.candidates.update(model.index, |candidate| {
                    let outlook = &mut candidate.outlook;
                    (outlook.pool_busy, outlook.pool_free) = (busy, free);
                });
            }
        }
    }

    fn tell_pool(&mut self, number: u32, now: Time) {
        let members = self.pools.pools.get(&number).map(|pool| &pool.members);
        let some = members.into_iter().flatten().take(TOLD_AT_ONCE);
        for member in some.cloned().collect::<Vec<_>>() {
            self.refresh(&member, now);
        }
    }

    /// A request that is decided for the first time would have this if slots
    /// were free.
    pub fn wanted(&mut self, wanted: &Wanted, now: Time) {
        let candidate = self.snapshot.candidates.get(wanted.index);
        let Some(number) = candidate.map(|candidate| candidate.outlook.pool) else {
            return;
        };
        let Some(pool) = self.pools.pools.get_mut(&number) else {
            return;
        };
        let hold_s = (wanted.hold_ms / 1e3).clamp(1e-3, MOST_WANTED_S);
        let saves = wanted.saves.as_dollars() / hold_s;
        pool.work(now);
        let worth = &mut pool.worth;
        if saves > 0.0 && worth.saves <= 0.0 {
            worth.saves = saves;
        } else if saves > 0.0 {
            worth.saves *= libm::pow(saves / worth.saves, NEWEST);
        }
        usual(&mut worth.wanted_s, hold_s);
        let most = MOST_LEFT_S * f64::from(pool.counts.slots.max(1));
        worth.left_s = (worth.left_s + hold_s).min(most);
    }

    /// A request is held back for this pool, and can wait until then.
    pub fn hold(&mut self, pool: u32, until: Time, now: Time) {
        if let Some(known) = self.pools.pools.get_mut(&pool) {
            known.held += 1;
            let patience_s = until.since(now).as_secs_f64();
            usual(&mut known.worth.patience_s, patience_s.min(MOST_WANTED_S));
            self.tell_pool(pool, now);
        }
    }

    /// It is no more.
    pub fn unhold(&mut self, pool: u32, now: Time) {
        if let Some(known) = self.pools.pools.get_mut(&pool) {
            known.held = known.held.saturating_sub(1);
            self.tell_pool(pool, now);
        }
    }
}

/// Brings what is usual a little nearer to the newest.
fn usual(known: &mut f64, newest: f64) {
    *known = match *known > 0.0 {
        true => *known + NEWEST * (newest - *known),
        false => newest,
    };
}
