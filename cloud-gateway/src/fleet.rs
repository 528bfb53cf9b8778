//! What the gateway can choose between: linked nodes, and Bedrock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tiermesh_bedrock::BedrockCloud;
use tiermesh_core::{
    CandidateState, CapacityReport, Clock, Destination, Fleet, Infer, ModelId, NodeId, Snapshot,
    Tier, Time,
};
use tiermesh_link::session::NodeHello;
use tiermesh_link::{LinkedNode, NodeTable, NodeWatch, OfferSource};
use tiermesh_proto::{link, v1};
use tiermesh_router::{Joined, Memory, Tracker};

/// The most offers one node hears.
const MAX_OFFERS: usize = 16;
/// The cloud's own figures are read no more often than this.
const CLOUD_EVERY: Duration = Duration::from_millis(100);

/// Every linked node and the cloud tier. The candidates lie in the memory and
/// change as nodes report; a request's snapshot is one reference to them.
pub(crate) struct GatewayFleet {
    pub(crate) table: Arc<NodeTable>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) clock: Arc<dyn Clock>,
    cloud: Option<Cloud>,
}

struct Cloud {
    bedrock: Arc<BedrockCloud>,
    /// Microseconds when its figures were read last.
    read_us: AtomicU64,
    reads: AtomicU64,
}

/// Puts into the memory what the table of links hears.
pub(crate) struct Listener {
    pub(crate) memory: Arc<Memory>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl NodeWatch for Listener {
    /// A node is a candidate from its first report on.
    fn changed(&self, node: &LinkedNode) {
        let Some(report) = &node.report else {
            return;
        };
        let (hello, now) = (&node.hello, self.clock.now());
        let credits = if node.draining { 0 } else { node.credits };
        let rtt_ms = node.rtt.as_secs_f32() * 1e3;
        self.memory.nodes(|tracker| {
            if !tracker.has(&hello.node) {
                tracker.join(joined(hello, report), now);
            }
            tracker.report(&hello.node, report, rtt_ms, node.reported_at);
            tracker.credits(&hello.node, credits, now);
        });
    }

    fn left(&self, node: &NodeId) {
        self.memory.nodes(|tracker| tracker.leave(node));
    }
}

/// A node with its first report, which tells what its idle cache holds.
fn joined(hello: &NodeHello, report: &CapacityReport) -> Joined {
    let room = report.models.iter().map(|model| model.kv_tokens_free).max();
    Joined {
        place: Destination {
            tier: hello.tier,
            region: hello.region.clone(),
            node: hello.node.clone(),
            owner: hello.owner.clone(),
        },
        transit: None,
        models: hello.models.clone(),
        // Its own report, which knows everybody's streams, predicts.
        slots: None,
        cache_tokens: u64::from(room.unwrap_or(0)),
        base_ms: 0.0,
    }
}

impl GatewayFleet {
    pub(crate) fn new(
        table: Arc<NodeTable>,
        memory: Arc<Memory>,
        cloud: Option<Arc<BedrockCloud>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let cloud = cloud.map(|bedrock| {
            let joined = Joined {
                place: bedrock.destination().clone(),
                transit: None,
                models: bedrock.offers(),
                slots: None,
                cache_tokens: 0,
                base_ms: 0.0,
            };
            memory.nodes(|tracker| tracker.join(joined, clock.now()));
            Cloud {
                bedrock,
                read_us: AtomicU64::new(0),
                reads: AtomicU64::new(0),
            }
        });
        Self {
            table,
            memory,
            clock,
            cloud,
        }
    }
}

impl Cloud {
    /// Reads the client's figures, now and then: it measures itself and sends
    /// no reports.
    fn look(&self, tracker: &mut Tracker, now: Time) {
        let reads = self.reads.fetch_add(1, Ordering::Relaxed);
        let mut report = self.bedrock.report(reads + 1, Duration::ZERO);
        // What is open is counted where it was opened.
        report.credits += report.active;
        tracker.report(&self.bedrock.destination().node, &report, 0.0, now);
        self.read_us.store(now.as_us().max(1), Ordering::Relaxed);
    }

    fn is_due(&self, now: Time) -> bool {
        let last = self.read_us.load(Ordering::Relaxed);
        let every = u64::try_from(CLOUD_EVERY.as_micros()).unwrap_or(u64::MAX);
        // It is told only once it was read, under the memory's lock: whoever
        // comes meanwhile reads too, and waits for the lock.
        last == 0 || now.as_us().saturating_sub(last) >= every
    }
}

impl Fleet for GatewayFleet {
    fn snapshot(&self) -> Snapshot {
        let now = self.clock.now();
        if let Some(cloud) = self.cloud.as_ref().filter(|cloud| cloud.is_due(now)) {
            self.memory.nodes(|tracker| cloud.look(tracker, now));
        }
        self.memory.snapshot()
    }

    fn hint(&self, node: &NodeId, model: &ModelId) {
        // Nodes that know no hints are told nothing.
        let _ = self.table.preload(node, model);
    }

    fn node(&self, node: &NodeId) -> Option<Arc<dyn Infer>> {
        match &self.cloud {
            Some(cloud) if &cloud.bedrock.destination().node == node => Some(cloud.bedrock.clone()),
            _ => self.table.infer(node),
        }
    }
}

impl OfferSource for GatewayFleet {
    /// Edges and the cloud, best first; never the asking node itself, and
    /// never a device: those are their owners' alone.
    fn offers_for(&self, asking: &NodeHello) -> Vec<link::Offer> {
        let mut offered: Vec<_> = self
            .snapshot()
            .candidates
            .iter()
            .filter(|candidate| candidate.tier != Tier::Device && candidate.node != asking.node)
            .cloned()
            .collect();
        offered.sort_by(|a, b| {
            let key = |c: &CandidateState| c.rtt_ms + c.state.first_token_ms;
            a.tier.cmp(&b.tier).then(key(a).total_cmp(&key(b)))
        });
        offered.truncate(MAX_OFFERS);
        offered.iter().map(offer).collect()
    }
}

fn offer(candidate: &CandidateState) -> link::Offer {
    link::Offer {
        tier: v1::Tier::from(candidate.tier) as i32,
        node: candidate.node.to_string(),
        region: candidate
            .region
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        model: Some((&*candidate.model).into()),
        state: Some(candidate.state.into()),
        load: candidate.load,
        credits_free: candidate.credits_free,
        rtt_ms: candidate.rtt_ms,
    }
}
