//! What a node's door can say of models, nodes and endpoints.

use crate::fleet::NodeFleet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tiermesh_core::{Calibrated, ErrorClass, Fleet as _, InferError, ModelId, NodeId, Speaker};
use tiermesh_frontdoor::{Catalog, CatalogModel, Locate, Located, NodeStatus};
use tiermesh_router::Dispatcher;

/// The node's own view: itself, and what its gateway offers it.
pub(crate) struct NodeCatalog {
    pub(crate) fleet: Arc<NodeFleet>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    /// Known once the door is bound.
    pub(crate) endpoint: Arc<OnceLock<String>>,
    /// Whether callers may have models loaded: nobody asks them who they are.
    pub(crate) takes_hints: bool,
}

impl Catalog for NodeCatalog {
    fn models(&self) -> Vec<CatalogModel> {
        tiermesh_frontdoor::models_of(&self.fleet.snapshot())
    }

    fn speaker(&self, node: &NodeId, model: &ModelId) -> Option<Speaker> {
        tiermesh_frontdoor::speaker_of(&self.fleet.snapshot(), node, model)
    }

    fn nodes(&self) -> Vec<NodeStatus> {
        let load = self.fleet.local.engine().load();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut nodes = tiermesh_frontdoor::nodes_of(&self.fleet.snapshot(), |node| {
            self.dispatcher.breaker_state(node)
        });
        for node in &mut nodes {
            let models = node.models.iter();
            let known = |model| self.fleet.memory.calibrated(&node.node, model);
            node.calibration = models.map(known).collect();
            if node.node == self.fleet.own.node {
                node.active = count(load.active);
                node.queued = count(load.queued);
                node.slots = crate::capacity::slots(&load);
                node.engine = crate::capacity::engine(&load);
                node.endpoint = self.endpoint.get().cloned();
            }
        }
        nodes
    }

    fn calibrated(&self, node: &NodeId, model: &ModelId) -> Option<Calibrated> {
        self.fleet.memory.calibrated(node, model)
    }

    fn preload(&self, node: &NodeId, model: &ModelId) -> Result<(), InferError> {
        let own = &self.fleet.own.node;
        if node != own {
            let message = format!("this is `{own}`: ask the gateway to tell `{node}`");
            let error = InferError::new(ErrorClass::NotFound, "NODE_NOT_FOUND", message);
            return Err(error.with("allowed", own.to_string()));
        }
        if !self.takes_hints {
            let message =
                format!("`{own}` takes hints from its gateway, and at a loopback door alone");
            return Err(InferError::new(
                ErrorClass::Forbidden,
                "WRONG_DOOR",
                message,
            ));
        }
        let engine = self.fleet.local.engine();
        if !engine.models().any(|info| info.id == *model) {
            let models = engine.models().map(|info| info.id.as_str());
            let allowed = models.collect::<Vec<_>>().join(", ");
            let message = format!("`{own}` has no model `{model}`; it has: {allowed}");
            let error = InferError::new(ErrorClass::NotFound, "MODEL_NOT_FOUND", message);
            return Err(error.with("allowed", allowed));
        }
        match crate::capacity::preload(engine, model) {
            true => Ok(()),
            false => Err(InferError::new(
                ErrorClass::Exhausted,
                "MODEL_DOES_NOT_FIT",
                format!(
                    "`{model}` does not fit beside the models in memory: raise engine.models_mib"
                ),
            )),
        }
    }

    fn locate(&self, ask: &Locate) -> Result<Vec<Located>, InferError> {
        let own = &self.fleet.own;
        let here = ask.privacy.allows(own.tier)
            && own.owner.as_ref().is_none_or(|owner| owner == &ask.user)
            && self
                .fleet
                .local
                .offers()
                .iter()
                .any(|offer| ask.model.matches(&offer.id, &offer.family));
        match self.endpoint.get() {
            Some(endpoint) if here => Ok(vec![Located {
                node: own.node.clone(),
                tier: own.tier,
                endpoint: endpoint.clone(),
                // Tickets are the gateway's to sign.
                ticket: String::new(),
                ttl: Duration::ZERO,
            }]),
            _ => Err(InferError::new(
                ErrorClass::NotFound,
                "NO_ENDPOINT",
                format!(
                    "`{}` is not the place for it: ask the gateway's Locate",
                    own.node
                ),
            )),
        }
    }
}
