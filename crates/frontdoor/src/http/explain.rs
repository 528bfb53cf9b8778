//! `POST /route/explain`: the gRPC API's `Explain` as JSON, field by field.
//! Enum values are spelled as in the `.proto` file, or in lower case without
//! their prefix; `messages` is a list, or an object with `items`.

use crate::catalog::calibrations;
use crate::entry::Entry;
use crate::http::json_body;
use crate::openai::headers;
use crate::openai::reply::failure;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tiermesh_core::{
    Content, DecisionSummary, DeviceInfo, ErrorClass, FieldError, InferError, Message, NetworkKind,
    RawRequest, Role, Task, Thermal,
};
use tiermesh_proto::v1;

pub(super) async fn explain(State(entry): State<Arc<Entry>>, request: Request) -> Response {
    match decide(&entry, request).await {
        Ok(decision) => {
            let known = calibrations(&*entry.door.catalog, &decision);
            Json(decision_json(&decision, known)).into_response()
        }
        Err(error) => failure(&error),
    }
}

async fn decide(entry: &Entry, request: Request) -> Result<DecisionSummary, InferError> {
    let call = entry.call(request.headers())?;
    let body = json_body(entry, request).await?;
    let ask: Ask = serde_json::from_slice(&body).map_err(|error| {
        let message = format!("the body is not an InferRequest: {error}");
        InferError::new(ErrorClass::InvalidArgument, "INVALID_JSON", message)
    })?;
    let seed = ask.seed;
    entry.explain(ask.raw()?, seed, call)
}

// No `Debug`: there is content in it.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Ask {
    request_id: String,
    user_id: String,
    task: Option<String>,
    prompt: Option<String>,
    messages: Option<Messages>,
    model: String,
    policy: String,
    deadline_ms: DeadlineMs,
    max_cost_usd: Option<f64>,
    privacy: Option<String>,
    residency: String,
    continuity: Option<String>,
    seed: Option<u64>,
    sampling: Sampling,
    device_info: Device,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Messages {
    List(Vec<Said>),
    Object { items: Vec<Said> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    role: Role,
    text: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DeadlineMs {
    first_token: Option<u64>,
    total: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Sampling {
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    logit_bias: BTreeMap<u32, f32>,
    logprobs: Option<u32>,
    max_tokens: Option<u32>,
    stop: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Device {
    battery_percent: Option<u8>,
    thermal: Option<String>,
    network: Option<String>,
    free_memory_mib: Option<u32>,
}

impl Ask {
    fn raw(self) -> Result<RawRequest, FieldError> {
        let privacy = self.privacy.as_deref().map(|name| plain("privacy_", name));
        let continuity = self.continuity.as_deref();
        let continuity = continuity.map(|name| plain("continuity_", name));
        Ok(RawRequest {
            request_id: self.request_id,
            user_id: self.user_id,
            task: self.task.as_deref().map(task).transpose()?,
            content: match (self.prompt, self.messages) {
                (Some(prompt), None) => Some(Content::Prompt(prompt)),
                (None, Some(Messages::List(items) | Messages::Object { items })) => {
                    Some(Content::Messages(items.into_iter().map(said).collect()))
                }
                (None, None) => None,
                (Some(_), Some(_)) => {
                    let allowed = "either `prompt` or `messages`";
                    return Err(FieldError::new("content", "given twice", allowed));
                }
            },
            model: self.model,
            policy: self.policy,
            first_token_ms: self.deadline_ms.first_token,
            total_ms: self.deadline_ms.total,
            max_cost_usd: self.max_cost_usd,
            privacy: privacy
                .map(|name| headers::privacy("privacy", &name))
                .transpose()?,
            residency: self.residency,
            continuity: continuity
                .map(|name| headers::continuity("continuity", &name))
                .transpose()?,
            seed: 0,
            temperature: self.sampling.temperature,
            top_p: self.sampling.top_p,
            top_k: self.sampling.top_k,
            min_p: self.sampling.min_p,
            repetition_penalty: self.sampling.repetition_penalty,
            presence_penalty: self.sampling.presence_penalty,
            frequency_penalty: self.sampling.frequency_penalty,
            logit_bias: self.sampling.logit_bias.into_iter().collect(),
            logprobs: self.sampling.logprobs,
            max_tokens: self.sampling.max_tokens,
            stop: self.sampling.stop,
            constraint: None,
            device: self.device_info.checked()?,
        })
    }
}

fn said(said: Said) -> Message {
    Message {
        role: said.role,
        text: said.text,
    }
}

/// `PRIVACY_EDGE` and `edge` alike.
fn plain(prefix: &str, name: &str) -> String {
    let name = name.to_ascii_lowercase();
    name.strip_prefix(prefix).unwrap_or(&name).to_owned()
}

fn one_of<T>(
    field: &'static str,
    name: &str,
    values: impl IntoIterator<Item = (&'static str, T)>,
    allowed: &'static str,
) -> Result<T, FieldError> {
    values
        .into_iter()
        .find(|(value, _)| value.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .ok_or_else(|| FieldError::new(field, format!("`{name}`"), allowed))
}

fn task(name: &str) -> Result<Task, FieldError> {
    let tasks = [Task::Generate, Task::Chat, Task::Embed, Task::Tag];
    let named = tasks.map(|task| (task.as_str(), task));
    one_of("task", name, named, "GENERATE, CHAT, EMBED or TAG")
}

impl Device {
    fn checked(self) -> Result<DeviceInfo, FieldError> {
        let thermal = |name: String| {
            let values = [
                ("nominal", Thermal::Nominal),
                ("serious", Thermal::Serious),
                ("critical", Thermal::Critical),
            ];
            let allowed = "NOMINAL, SERIOUS or CRITICAL";
            one_of("device_info.thermal", &name, values, allowed)
        };
        let network = |name: String| {
            let values = [
                ("offline", NetworkKind::Offline),
                ("metered", NetworkKind::Metered),
                ("unmetered", NetworkKind::Unmetered),
            ];
            let allowed = "OFFLINE, METERED or UNMETERED";
            one_of("device_info.network", &name, values, allowed)
        };
        Ok(DeviceInfo {
            battery_percent: self.battery_percent,
            thermal: self.thermal.map(thermal).transpose()?,
            network: self.network.map(network).transpose()?,
            free_memory_mib: self.free_memory_mib,
        })
    }
}

fn decision_json(decision: &DecisionSummary, known: Vec<v1::Calibrated>) -> Value {
    let known = known.into_iter().map(|of| {
        let known = of.calibration.unwrap_or_default();
        json!({
            "node": of.node,
            "model": of.model,
            "answers": known.answers,
            "ratio": known.ratio,
            "within_p99": known.within_p99,
            "error_ms": known.error_ms,
            "first_token_p50_ms": known.first_token_p50_ms,
            "first_token_p99_ms": known.first_token_p99_ms,
            "failed_share": known.failed_share,
        })
    });
    let known: Vec<Value> = known.collect();
    let scores = decision.scores.iter();
    let scores: Vec<Value> = scores
        .map(|score| json!({ "tier": score.tier, "score": score.score }))
        .collect();
    let fallbacks = decision.fallbacks.iter();
    let fallbacks: Vec<Value> = fallbacks
        .map(|f| json!({ "tier": f.tier, "node": f.node, "model": f.model }))
        .collect();
    // The wire's conversion fills value and limit in; people read this too.
    let reasons = decision.reasons.iter().map(|record| {
        let wire = tiermesh_proto::v1::Reason::from(record.clone());
        json!({
            "code": wire.code,
            "node": record.node,
            "model": record.model,
            "tier": record.reason.tier(),
            "value": wire.value,
            "limit": wire.limit,
            "removes": wire.removes,
        })
    });
    let reasons: Vec<Value> = reasons.collect();
    json!({
        "policy": decision.policy,
        "tier": decision.tier,
        "node": decision.node,
        "model": decision.model,
        "scores": scores,
        "confidence": decision.confidence,
        "reasons": reasons,
        "fallbacks": fallbacks,
        "first_token_ms": decision.first_token_ms,
        "total_ms": decision.total_ms,
        "cost_usd": decision.cost.as_dollars(),
        "epoch": decision.epoch,
        "sequence": decision.sequence,
        "calibrations": known,
    })
}
