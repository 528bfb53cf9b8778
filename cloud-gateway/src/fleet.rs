//! What the gateway can choose between: linked nodes, and Bedrock.

use std::sync::Arc;
use std::time::Duration;
use tiermesh_bedrock::BedrockCloud;
use tiermesh_core::{
    BreakerState, CandidateState, Clock, Fleet, Infer, NodeId, Outlook, Snapshot, Tier,
};
use tiermesh_link::session::NodeHello;
use tiermesh_link::{LinkedNode, NodeTable, OfferSource};
use tiermesh_proto::{link, v1};

/// The most offers one node hears.
const MAX_OFFERS: usize = 16;

/// Every linked node and the cloud tier.
pub(crate) struct GatewayFleet {
    pub(crate) table: Arc<NodeTable>,
    pub(crate) cloud: Option<Arc<BedrockCloud>>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Fleet for GatewayFleet {
    fn snapshot(&self) -> Snapshot {
        let now = self.clock.now();
        let (epoch, sequence) = self.table.point();
        let mut candidates = Vec::new();
        for node in self.table.list() {
            let age = now.since(node.reported_at);
            candidates.extend(candidates_of(&node, age));
        }
        if let Some(cloud) = &self.cloud {
            candidates.extend(cloud.candidates());
        }
        Snapshot {
            epoch,
            sequence,
            candidates: candidates.into(),
        }
    }

    fn node(&self, node: &NodeId) -> Option<Arc<dyn Infer>> {
        match &self.cloud {
            Some(cloud) if &cloud.destination().node == node => Some(cloud.clone()),
            _ => self.table.infer(node),
        }
    }
}

/// A linked node's models; none before its first report.
fn candidates_of(node: &LinkedNode, age: Duration) -> Vec<CandidateState> {
    let Some(report) = &node.report else {
        return Vec::new();
    };
    let models = node.hello.models.iter().zip(&report.models);
    models
        .map(|(model, state)| CandidateState {
            node: node.hello.node.clone(),
            tier: node.hello.tier,
            region: node.hello.region.clone(),
            owner: node.hello.owner.clone(),
            transit: None,
            model: model.clone(),
            state: *state,
            rtt_ms: node.rtt.as_secs_f32() * 1e3,
            credits_free: node.credits_free(),
            load: report.load,
            battery_percent: report.battery_percent,
            report_age: age,
            breaker: BreakerState::Closed,
            outlook: Outlook::default(),
        })
        .collect()
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
