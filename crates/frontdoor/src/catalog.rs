//! What a door can say of models, nodes and edge endpoints.

use std::time::Duration;
use tiermesh_core::{
    BreakerState, Calibrated, DecisionSummary, EngineCapacity, ErrorClass, InferError, ModelId,
    ModelOffer, ModelSelector, ModelState, NodeId, Privacy, Reason, Region, Speaker, Tier, UserId,
};
use tiermesh_proto::v1;

/// Knows what can be had here and where.
pub trait Catalog: Send + Sync + 'static {
    /// Every model that can be asked for, once each.
    fn models(&self) -> Vec<CatalogModel>;

    /// Every node this daemon knows, itself included.
    fn nodes(&self) -> Vec<NodeStatus>;

    /// How a node computes a model, where that is known: it goes into resume
    /// tokens.
    fn speaker(&self, _node: &NodeId, _model: &ModelId) -> Option<Speaker> {
        None
    }

    /// How well a node's model was predicted; none before its first answer.
    fn calibrated(&self, _node: &NodeId, _model: &ModelId) -> Option<Calibrated> {
        None
    }

    /// Tells a node that requests for a model are expected.
    ///
    /// # Errors
    /// When there is no such node or model here, or the model does not fit.
    fn preload(&self, node: &NodeId, _model: &ModelId) -> Result<(), InferError> {
        let message = format!("no node `{node}` takes hints from here");
        let error = InferError::new(ErrorClass::NotFound, "NODE_NOT_FOUND", message);
        Err(error)
    }

    /// The nearest edge endpoints for content that must not pass a region,
    /// nearest first.
    ///
    /// # Errors
    /// When there is none, or this daemon does not know.
    fn locate(&self, ask: &Locate) -> Result<Vec<Located>, InferError>;
}

/// A model and where it can be had from here.
#[derive(Debug, Clone, PartialEq)]
pub struct CatalogModel {
    /// The model.
    pub offer: ModelOffer,
    /// The tiers that have it.
    pub tiers: Vec<Tier>,
}

/// How a node is doing, for operators.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeId,
    /// Its tier.
    pub tier: Tier,
    /// Its region, where told.
    pub region: Option<Region>,
    /// Its owner, for a device.
    pub owner: Option<UserId>,
    /// The models it offers.
    pub models: Vec<ModelId>,
    /// Streams that may still be opened on it.
    pub credits_free: u32,
    /// Streams being answered.
    pub active: u32,
    /// Streams waiting.
    pub queued: u32,
    /// Streams it works on at once; 0 where it is not known.
    pub slots: u32,
    /// The breaker in front of it.
    pub breaker: BreakerState,
    /// Round trip to it, in milliseconds.
    pub rtt_ms: f32,
    /// Expected milliseconds to the first token of a short prompt.
    pub first_token_ms: f32,
    /// Answer tokens a second of one stream.
    pub decode_tok_s: f32,
    /// Age of its last capacity report.
    pub report_age: Duration,
    /// Busy share, 0 to 1.
    pub load: f32,
    /// Where clients reach its own door.
    pub endpoint: Option<String>,
    /// How each of [`Self::models`] is doing, in that order.
    pub states: Vec<ModelState>,
    /// What its engine has left.
    pub engine: EngineCapacity,
    /// How well this door's router predicts each of [`Self::models`], in that
    /// order; what is missing or none was not learnt yet.
    pub calibration: Vec<Option<Calibrated>>,
}

/// A search for an edge endpoint. It carries no content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locate {
    /// Who asks.
    pub user: UserId,
    /// How far the content may travel.
    pub privacy: Privacy,
    /// The model it is for.
    pub model: ModelSelector,
    /// Prefer an edge of this region or zone.
    pub region: Option<Region>,
}

/// An edge endpoint and the ticket that opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The node.
    pub node: NodeId,
    /// Its tier.
    pub tier: Tier,
    /// Where to send the request, for example `http://127.0.0.1:8081`.
    pub endpoint: String,
    /// Signed; sent as the metadata `tiermesh-ticket`.
    pub ticket: String,
    /// How long the ticket is good for.
    pub ttl: Duration,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn text<T: ToString>(name: Option<T>) -> String {
    name.map_or_else(String::new, |name| name.to_string())
}

impl From<CatalogModel> for v1::Model {
    fn from(model: CatalogModel) -> Self {
        let CatalogModel { offer, tiers } = model;
        Self {
            id: offer.id.to_string(),
            family: offer.family,
            digest: text(offer.digest),
            tasks: offer
                .tasks
                .into_iter()
                .map(|task| v1::Task::from(task) as i32)
                .collect(),
            context_tokens: offer.context_tokens,
            quality: offer.quality,
            input_usd_per_million: offer.input_per_million.as_dollars(),
            output_usd_per_million: offer.output_per_million.as_dollars(),
            tiers: tiers
                .into_iter()
                .map(|tier| v1::Tier::from(tier) as i32)
                .collect(),
        }
    }
}

fn calibration(known: Calibrated) -> v1::Calibration {
    v1::Calibration {
        answers: known.answers as u64,
        ratio: known.ratio,
        within_p99: known.within_p99 as f32,
        error_ms: known.error_ms,
        first_token_p50_ms: known.first_token_p50_ms,
        first_token_p99_ms: known.first_token_p99_ms,
        failed_share: known.failed_share as f32,
    }
}

fn model_state(state: ModelState, known: Option<Calibrated>) -> v1::NodeModel {
    v1::NodeModel {
        calibration: known.map(calibration),
        residency: state.residency.as_str().to_owned(),
        load_ms: state.load_ms,
        prefill_tokens_per_s: f64::from(state.prefill_tok_s),
        decode_tokens_per_s: f64::from(state.decode_tok_s),
        first_token_ms: f64::from(state.first_token_ms),
        calibration_error: state.calibration_error,
        kv_tokens_free: state.kv_tokens_free,
    }
}

/// How well those that a decision gives a chance were predicted so far, where
/// that is known.
pub(crate) fn calibrations(
    catalog: &dyn Catalog,
    decision: &DecisionSummary,
) -> Vec<v1::Calibrated> {
    let chances = decision.reasons.iter();
    let chances = chances.filter(|record| matches!(record.reason, Reason::Chance { .. }));
    let pairs = chances.filter_map(|record| Some((record.node.as_ref()?, record.model.as_ref()?)));
    let known = pairs.filter_map(|(node, model)| {
        Some(v1::Calibrated {
            node: node.to_string(),
            model: model.to_string(),
            calibration: Some(calibration(catalog.calibrated(node, model)?)),
        })
    });
    known.collect()
}

impl From<NodeStatus> for v1::Node {
    fn from(node: NodeStatus) -> Self {
        Self {
            node: node.node.to_string(),
            tier: v1::Tier::from(node.tier) as i32,
            region: text(node.region),
            owner: text(node.owner),
            models: node.models.iter().map(ToString::to_string).collect(),
            credits_free: node.credits_free,
            streams_active: node.active,
            streams_queued: node.queued,
            breaker: match node.breaker {
                BreakerState::Closed => "closed",
                BreakerState::HalfOpen => "half_open",
                BreakerState::Open { .. } => "open",
            }
            .to_owned(),
            rtt_ms: f64::from(node.rtt_ms),
            first_token_ms: f64::from(node.first_token_ms),
            decode_tokens_per_s: f64::from(node.decode_tok_s),
            report_age_ms: millis(node.report_age),
            load: node.load,
            endpoint: node.endpoint.unwrap_or_default(),
            model_states: {
                let known = node.calibration.into_iter();
                let known = known.chain(std::iter::repeat_with(|| None));
                let states = node.states.into_iter().zip(known);
                states
                    .map(|(state, known)| model_state(state, known))
                    .collect()
            },
            streams_queued_by_class: node.engine.queued_by_class.to_vec(),
            kv_used_bytes: u64::from(node.engine.kv_used_kib) << 10,
            kv_budget_bytes: u64::from(node.engine.kv_budget_kib) << 10,
            weights_bytes: u64::from(node.engine.weights_kib) << 10,
            prefix_hit_share: node.engine.prefix_hit_share,
            temperature_c: node.engine.temperature_c,
            slots: node.slots,
        }
    }
}

impl From<Located> for v1::locate_response::Endpoint {
    fn from(located: Located) -> Self {
        Self {
            node: located.node.to_string(),
            tier: v1::Tier::from(located.tier) as i32,
            endpoint: located.endpoint,
            ticket: located.ticket,
            ticket_ttl_ms: millis(located.ttl),
        }
    }
}
