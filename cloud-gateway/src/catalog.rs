//! What the gateway can say of models, nodes and edge endpoints.

use crate::fleet::GatewayFleet;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    Calibrated, ErrorClass, Fleet as _, InferError, ModelId, NodeId, Speaker, Tier,
};
use tiermesh_frontdoor::{Catalog, CatalogModel, Locate, Located, NodeStatus};
use tiermesh_identity::TicketSigner;
use tiermesh_link::{LinkedNode, NodeTable};
use tiermesh_router::Dispatcher;

/// The most endpoints `Locate` names.
const MAX_ENDPOINTS: usize = 8;

/// The whole mesh as this gateway sees it.
pub(crate) struct GatewayCatalog {
    pub(crate) fleet: Arc<GatewayFleet>,
    pub(crate) table: Arc<NodeTable>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) tickets: Arc<TicketSigner>,
    pub(crate) ticket_ttl: Duration,
}

impl Catalog for GatewayCatalog {
    fn models(&self) -> Vec<CatalogModel> {
        tiermesh_frontdoor::models_of(&self.fleet.snapshot())
    }

    fn speaker(&self, node: &NodeId, model: &ModelId) -> Option<Speaker> {
        tiermesh_frontdoor::speaker_of(&self.fleet.snapshot(), node, model)
    }

    fn nodes(&self) -> Vec<NodeStatus> {
        let linked = self.table.list();
        let mut nodes = tiermesh_frontdoor::nodes_of(&self.fleet.snapshot(), |node| {
            self.dispatcher.breaker_state(node)
        });
        let now = self.fleet.clock.now();
        for status in &mut nodes {
            let models = status.models.iter();
            let known = |model| self.fleet.memory.calibrated(&status.node, model);
            status.calibration = models.map(known).collect();
            let Some(node) = linked.iter().find(|node| node.hello.node == status.node) else {
                continue;
            };
            status.report_age = now.since(node.reported_at);
            status.endpoint.clone_from(&node.hello.endpoint);
            if let Some(report) = &node.report {
                status.active = report.active;
                status.queued = report.queued;
                status.slots = report.slots;
                status.engine = report.engine;
            }
        }
        nodes
    }

    fn calibrated(&self, node: &NodeId, model: &ModelId) -> Option<Calibrated> {
        self.fleet.memory.calibrated(node, model)
    }

    fn preload(&self, node: &NodeId, model: &ModelId) -> Result<(), InferError> {
        self.table.preload(node, model)
    }

    fn locate(&self, ask: &Locate) -> Result<Vec<Located>, InferError> {
        let mut nodes = self.table.list();
        nodes.retain(|node| suits(node, ask));
        nodes.sort_by_key(|node| {
            let elsewhere = ask.region.is_some() && node.hello.region != ask.region;
            (elsewhere, node.hello.tier, node.rtt)
        });
        let located: Vec<_> = nodes
            .into_iter()
            .take(MAX_ENDPOINTS)
            .filter_map(|node| {
                let name = node.hello.node.clone();
                let ticket = self
                    .tickets
                    .sign(name.clone(), ask.user.clone(), self.ticket_ttl);
                Some(Located {
                    node: name,
                    tier: node.hello.tier,
                    endpoint: node.hello.endpoint.clone()?,
                    ticket,
                    ttl: self.ticket_ttl,
                })
            })
            .collect();
        if located.is_empty() {
            let message = format!(
                "no linked node may see content marked `{}` of this user and has model `{}` and a door of its own",
                ask.privacy.as_str(),
                ask.model.as_str()
            );
            return Err(InferError::new(
                ErrorClass::NotFound,
                "NO_ENDPOINT",
                message,
            ));
        }
        Ok(located)
    }
}

/// Whether a node may see what is to be located, and can answer it.
fn suits(node: &LinkedNode, ask: &Locate) -> bool {
    let hello = &node.hello;
    let owned = hello.tier != Tier::Device || hello.owner.as_ref() == Some(&ask.user);
    let has_model = hello
        .models
        .iter()
        .any(|model| ask.model.matches(&model.id, &model.family));
    ask.privacy.allows(hello.tier)
        && owned
        && has_model
        && !node.draining
        && hello.endpoint.is_some()
}
