//! What a node can choose between: its own engine, and what its gateway can
//! reach for it.

use crate::capacity::{busy_share, capacity};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tiermesh_core::{
    BreakerState, CandidateState, Destination, Fleet, Infer, NodeId, Outlook, Snapshot,
};
use tiermesh_engine::LocalInfer;
use tiermesh_link::Upstream;

/// The local engine and the way up.
pub(crate) struct NodeFleet {
    pub(crate) own: Destination,
    pub(crate) local: Arc<LocalInfer>,
    pub(crate) upstream: Option<Arc<Upstream>>,
    pub(crate) battery_percent: Option<u8>,
    pub(crate) epoch: u64,
    pub(crate) sequence: AtomicU64,
}

impl NodeFleet {
    fn local(&self) -> impl Iterator<Item = CandidateState> + '_ {
        let load = self.local.engine().load();
        let used = u32::try_from(load.active + load.queued).unwrap_or(u32::MAX);
        let credits_free = capacity(&load).saturating_sub(used);
        let share = busy_share(&load);
        let models = self.local.offers().iter().zip(load.models);
        models.map(move |(offer, state)| CandidateState {
            node: self.own.node.clone(),
            tier: self.own.tier,
            region: self.own.region.clone(),
            owner: self.own.owner.clone(),
            transit: None,
            model: offer.clone(),
            state,
            rtt_ms: 0.0,
            credits_free,
            load: share,
            battery_percent: self.battery_percent,
            report_age: Duration::ZERO,
            breaker: BreakerState::Closed,
            outlook: Outlook::default(),
        })
    }

    fn above(&self) -> Vec<CandidateState> {
        let Some(status) = self
            .upstream
            .as_ref()
            .and_then(|upstream| upstream.status())
        else {
            return Vec::new();
        };
        let up_ms = status.rtt.as_secs_f32() * 1e3;
        let candidate = |offer: tiermesh_link::node::UpstreamOffer| CandidateState {
            node: offer.node,
            tier: offer.tier,
            region: offer.region,
            owner: None,
            transit: Some(status.destination.clone()),
            model: offer.model,
            state: offer.state,
            rtt_ms: up_ms + offer.rtt_ms,
            credits_free: offer.credits_free.min(status.credits_free),
            load: offer.load,
            battery_percent: None,
            report_age: Duration::ZERO,
            breaker: BreakerState::Closed,
            outlook: Outlook::default(),
        };
        status.offers.into_iter().map(candidate).collect()
    }
}

impl Fleet for NodeFleet {
    fn snapshot(&self) -> Snapshot {
        let mut candidates: Vec<_> = self.local().collect();
        candidates.extend(self.above());
        Snapshot {
            epoch: self.epoch,
            // The local engine's state is read, not reported: every snapshot
            // is a point of its own.
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
            candidates: candidates.into(),
        }
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
