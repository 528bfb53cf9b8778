//! What a door lists, derived from a dispatcher's snapshot.

use crate::catalog::{CatalogModel, NodeStatus};
use tiermesh_core::{
    BreakerState, CandidateState, EngineCapacity, ModelId, NodeId, Snapshot, Speaker,
};

/// Every model once, with the tiers it can be had on.
#[must_use]
pub fn models_of(snapshot: &Snapshot) -> Vec<CatalogModel> {
    let mut models: Vec<CatalogModel> = Vec::new();
    for candidate in &snapshot.candidates {
        match models.iter_mut().find(|m| m.offer.id == candidate.model.id) {
            None => models.push(CatalogModel {
                offer: (*candidate.model).clone(),
                tiers: vec![candidate.tier],
            }),
            Some(model) if !model.tiers.contains(&candidate.tier) => {
                model.tiers.push(candidate.tier);
                model.tiers.sort_unstable();
            }
            Some(_) => {}
        }
    }
    models
}

/// Every node once. What a snapshot does not hold (streams, endpoints) is
/// left at nothing, for the caller to fill in.
pub fn nodes_of(snapshot: &Snapshot, breaker: impl Fn(&NodeId) -> BreakerState) -> Vec<NodeStatus> {
    let mut nodes: Vec<NodeStatus> = Vec::new();
    for candidate in &snapshot.candidates {
        match nodes.iter_mut().find(|node| node.node == candidate.node) {
            Some(node) => {
                node.models.push(candidate.model.id.clone());
                node.states.push(candidate.state);
            }
            None => nodes.push(node_of(candidate, breaker(&candidate.node))),
        }
    }
    nodes
}

fn node_of(candidate: &CandidateState, breaker: BreakerState) -> NodeStatus {
    NodeStatus {
        node: candidate.node.clone(),
        tier: candidate.tier,
        region: candidate.region.clone(),
        owner: candidate.owner.clone(),
        models: vec![candidate.model.id.clone()],
        credits_free: candidate.credits_free,
        active: 0,
        queued: 0,
        slots: 0,
        breaker,
        rtt_ms: candidate.rtt_ms,
        first_token_ms: candidate.state.first_token_ms,
        decode_tok_s: candidate.state.decode_tok_s,
        report_age: candidate.report_age,
        load: candidate.load,
        endpoint: None,
        states: vec![candidate.state],
        engine: EngineCapacity::default(),
        calibration: Vec::new(),
    }
}

/// How a node of a snapshot computes a model.
#[must_use]
pub fn speaker_of(snapshot: &Snapshot, node: &NodeId, model: &ModelId) -> Option<Speaker> {
    let mut candidates = snapshot.candidates.iter();
    let found = candidates.find(|c| c.node == *node && c.model.id == *model)?;
    Some(Speaker {
        model: Some(model.clone()),
        digest: found.model.digest.clone(),
        numerics_id: found.model.numerics_id.clone(),
    })
}
