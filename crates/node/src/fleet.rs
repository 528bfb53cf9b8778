//! What a node can choose between: its own engine, and what its gateway can
//! reach for it.

use crate::capacity::{busy_share, capacity};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tiermesh_core::{
    CapacityReport, Clock, Destination, Fleet, Infer, ModelOffer, NodeId, Snapshot, Time,
};
use tiermesh_engine::LocalInfer;
use tiermesh_link::Upstream;
use tiermesh_link::node::{UpstreamOffer, UpstreamStatus};
use tiermesh_router::{Joined, Memory, Tracker};

/// The engine and the gateway's offers are looked at no more often than this.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The local engine and the way up. The candidates lie in the memory; they are
/// looked at anew when a request comes and the last look was a while ago.
pub(crate) struct NodeFleet {
    pub(crate) own: Destination,
    pub(crate) local: Arc<LocalInfer>,
    pub(crate) upstream: Option<Arc<Upstream>>,
    pub(crate) battery_percent: Option<u8>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Microseconds of the last look, and how many there were.
    looked_us: AtomicU64,
    looks: AtomicU64,
}

impl NodeFleet {
    pub(crate) fn new(
        own: Destination,
        (local, upstream): (Arc<LocalInfer>, Option<Arc<Upstream>>),
        battery_percent: Option<u8>,
        memory: Arc<Memory>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            own,
            local,
            upstream,
            battery_percent,
            memory,
            clock,
            looked_us: AtomicU64::new(0),
            looks: AtomicU64::new(0),
        }
    }

    fn look(&self, tracker: &mut Tracker, now: Time) {
        let look = self.looks.fetch_add(1, Ordering::Relaxed) + 1;
        self.look_here(tracker, look, now);
        let upstream = self.upstream.as_ref();
        let status = upstream.and_then(|upstream| upstream.status());
        let mut offered: Vec<NodeId> = Vec::new();
        if let Some(status) = &status {
            for offer in &status.offers {
                if !offered.contains(&offer.node) {
                    look_above(tracker, status, &offer.node, (look, now));
                    offered.push(offer.node.clone());
                }
            }
        }
        let gone = tracker.nodes();
        let gone = gone.filter(|node| **node != self.own.node && !offered.contains(node));
        for node in gone.cloned().collect::<Vec<_>>() {
            tracker.leave(&node);
        }
    }

    fn look_here(&self, tracker: &mut Tracker, look: u64, now: Time) {
        let node = &self.own.node;
        if !tracker.has(node) {
            let models = self.local.offers().to_vec();
            tracker.join(joined(self.own.clone(), None, models), now);
        }
        let load = self.local.engine().load();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let used = count(load.active + load.queued);
        let report = CapacityReport {
            sequence: look,
            // Ours are among those in use, and are counted apart.
            credits: capacity(&load).saturating_sub(used) + tracker.open_on(node),
            // Its engine has a queue of its own, where whoever waits is passed a
            // slot at once.
            slots: 0,
            lease: Duration::ZERO,
            active: count(load.active),
            queued: count(load.queued),
            load: busy_share(&load),
            battery_percent: self.battery_percent,
            engine: Default::default(),
            models: load.models,
        };
        tracker.report(node, &report, 0.0, now);
    }
}

/// What the gateway offers of one node.
fn look_above(
    tracker: &mut Tracker,
    status: &UpstreamStatus,
    node: &NodeId,
    (look, now): (u64, Time),
) {
    // By name: the gateway's order changes with its figures.
    let mut offers: Vec<_> = status.offers.iter().filter(|o| o.node == *node).collect();
    offers.sort_by(|a, b| a.model.id.cmp(&b.model.id));
    let offers = || offers.iter().copied();
    let known = tracker.offers(node);
    if !known.eq(offers().map(|offer| &offer.model)) {
        let models: Vec<_> = offers().map(|offer| offer.model.clone()).collect();
        let Some(place) = offers().next().map(destination) else {
            return;
        };
        let transit = Some(status.destination.clone());
        tracker.join(joined(place, transit, models), now);
    }
    let Some(first) = offers().next() else { return };
    let report = CapacityReport {
        sequence: look,
        credits: first.credits_free.min(status.credits_free) + tracker.open_on(node),
        // An offer does not tell.
        slots: 0,
        lease: Duration::ZERO,
        active: 0,
        queued: 0,
        load: first.load,
        battery_percent: None,
        engine: Default::default(),
        models: offers().map(|offer| offer.state).collect(),
    };
    let rtt_ms = status.rtt.as_secs_f32() * 1e3 + first.rtt_ms;
    tracker.report(node, &report, rtt_ms, now);
}

fn destination(offer: &UpstreamOffer) -> Destination {
    Destination {
        tier: offer.tier,
        region: offer.region.clone(),
        node: offer.node.clone(),
        owner: None,
    }
}

fn joined(
    place: Destination,
    transit: Option<Destination>,
    models: Vec<Arc<ModelOffer>>,
) -> Joined {
    Joined {
        place,
        transit,
        models,
        // The reports, which know everybody's streams, predict.
        slots: None,
        cache_tokens: 0,
        base_ms: 0.0,
    }
}

impl Fleet for NodeFleet {
    fn snapshot(&self) -> Snapshot {
        let now = self.clock.now();
        let last = self.looked_us.load(Ordering::Relaxed);
        let every = u64::try_from(LOOK_EVERY.as_micros()).unwrap_or(u64::MAX);
        let due = last == 0 || now.as_us().saturating_sub(last) >= every;
        // The look is told only once it was taken, under the memory's lock: a
        // snapshot before the first would be empty.
        if due {
            self.memory.nodes(|tracker| self.look(tracker, now));
            self.looked_us.store(now.as_us().max(1), Ordering::Relaxed);
        }
        self.memory.snapshot()
    }

    fn node(&self, node: &NodeId) -> Option<Arc<dyn Infer>> {
        if node == &self.own.node {
            return Some(self.local.clone());
        }
        let upstream = self.upstream.clone()?;
        let offered = upstream
            .status()?
            .offers
            .iter()
            .any(|offer| &offer.node == node);
        offered.then_some(upstream as Arc<dyn Infer>)
    }
}
