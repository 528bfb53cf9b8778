//! What a tracker tells.

use super::{Learnt, Tracker};
use crate::state::calibration::Calibration;
use std::sync::Arc;
use tiermesh_core::{ModelId, ModelOffer, NodeId};

impl Tracker {
    /// How well each node's models were predicted, in order.
    pub fn calibration(&self) -> impl Iterator<Item = (&NodeId, &ModelId, &Calibration)> {
        self.nodes.iter().flat_map(|(node, known)| {
            let models = known.models.iter();
            models.map(move |model| (node, &model.id, &model.learnt.calibration))
        })
    }

    /// What was learnt of a node's model.
    #[must_use]
    pub fn learnt(&self, node: &NodeId, model: &ModelId) -> Option<&Learnt> {
        let mut models = self.nodes.get(node)?.models.iter();
        models.find(|known| &known.id == model).map(|m| &m.learnt)
    }

    /// The place of a node's model in the next snapshot.
    #[must_use]
    pub fn place_of(&self, node: &NodeId, model: &ModelId) -> Option<usize> {
        let mut models = self.nodes.get(node)?.models.iter();
        models.find(|known| &known.id == model).map(|m| m.index)
    }

    /// The offers of a node that is in, in its order.
    pub fn offers<'a>(&'a self, node: &NodeId) -> impl Iterator<Item = &'a Arc<ModelOffer>> {
        let models = self.nodes.get(node).into_iter().flat_map(|n| &n.models);
        models.filter_map(|model| Some(&self.snapshot.candidates.get(model.index)?.model))
    }

    /// Whether a node is in.
    #[must_use]
    pub fn has(&self, node: &NodeId) -> bool {
        self.nodes.contains_key(node)
    }

    /// Streams that are followed on a node.
    #[must_use]
    pub fn open_on(&self, node: &NodeId) -> u32 {
        self.nodes.get(node).map_or(0, |known| known.open)
    }

    /// Every node that is in, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.keys()
    }

    /// The time to a model's first token that a share of its answers kept,
    /// lately, in milliseconds.
    #[must_use]
    pub fn first_token_quantile(&self, node: &NodeId, model: &ModelId, share: f64) -> Option<f64> {
        self.learnt(node, model)?.first_token.quantile(share)
    }
}
