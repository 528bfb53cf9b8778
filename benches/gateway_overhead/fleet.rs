//! What the paced node's own door can choose between: itself.

use crate::node::{CAPACITY, STATE, Script};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tiermesh_core::{
    BreakerState, CandidateState, ErrorClass, Fleet, Infer, InferError, ModelOffer, NodeId,
    Outlook, Snapshot,
};
use tiermesh_frontdoor::{Catalog, CatalogModel, Locate, Located, NodeStatus};

/// A fleet of one.
pub(crate) struct Alone {
    script: Arc<Script>,
    sequence: AtomicU64,
}

impl Alone {
    pub(crate) fn new(script: Arc<Script>) -> Self {
        Self {
            script,
            sequence: AtomicU64::new(1),
        }
    }
}

impl Fleet for Alone {
    fn snapshot(&self) -> Snapshot {
        let own = &self.script.own;
        let active = self.script.active();
        let candidate = |model: &Arc<ModelOffer>| CandidateState {
            node: own.node.clone(),
            tier: own.tier,
            region: None,
            owner: None,
            transit: None,
            model: model.clone(),
            state: STATE,
            rtt_ms: 0.0,
            credits_free: CAPACITY.saturating_sub(active),
            load: (active as f32 / CAPACITY as f32).min(1.0),
            battery_percent: None,
            report_age: Duration::ZERO,
            breaker: BreakerState::Closed,
            outlook: Outlook::default(),
        };
        Snapshot {
            epoch: 1,
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
            candidates: self.script.offers.iter().map(candidate).collect(),
        }
    }

    fn node(&self, node: &NodeId) -> Option<Arc<dyn Infer>> {
        (node == &self.script.own.node).then(|| self.script.clone() as Arc<dyn Infer>)
    }
}

impl Catalog for Alone {
    fn models(&self) -> Vec<CatalogModel> {
        tiermesh_frontdoor::models_of(&self.snapshot())
    }

    fn nodes(&self) -> Vec<NodeStatus> {
        Vec::new()
    }

    fn locate(&self, _: &Locate) -> Result<Vec<Located>, InferError> {
        let message = "a benchmark's node locates nobody";
        Err(InferError::new(
            ErrorClass::NotFound,
            "NO_ENDPOINT",
            message,
        ))
    }
}
