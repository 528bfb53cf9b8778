//! `tiermesh.link.v1` from and to core types.

use crate::convert::{WireError, error_class, request, request_to_wire};
use crate::{link, v1};
use continuation::continuation;
use std::time::Duration;
use tiermesh_core::{
    Account, Content, Context, Deadline, InferError, ModelDigest, ModelId, ModelOffer, NodeId,
    NumericsId, PermitScope, Request, RequestMeta, Speaker, Task, Time, Usd, Via,
};

mod capacity;
mod continuation;

/// The longest tenant's name, in bytes.
const MAX_TENANT: usize = 200;

/// A Start frame in core types.
#[derive(Debug)]
pub struct StartParts {
    /// The request, valid and yet to be sealed.
    pub request: Request,
    /// What travels beside it. Its deadline is on the receiver's clock.
    pub context: Context,
}

/// The Start frame for opened content.
#[must_use]
pub fn start_to_wire(
    meta: &RequestMeta,
    content: &Content,
    context: &Context,
    now: Time,
) -> link::Start {
    let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    let speaker = context.continuation.speaker.as_ref();
    let spoken = |of: fn(&Speaker) -> Option<String>| speaker.and_then(of).unwrap_or_default();
    link::Start {
        request: Some(request_to_wire(meta, content)),
        seed: meta.seed,
        emitted_ids: context.continuation.emitted_ids.clone(),
        first_token_remaining_us: context.deadline.first_token.map(|at| us(at.since(now))),
        total_remaining_us: context.deadline.total.map(|at| us(at.since(now))),
        trace_parent: context.trace_parent.clone().unwrap_or_default(),
        tenant: context.account.tenant.clone().unwrap_or_default(),
        owner: meta.user_id.to_string(),
        via: context.via.hops().iter().map(ToString::to_string).collect(),
        priority: u32::from(context.priority),
        permit_scope: u32::from(context.scope.bits()),
        model: context
            .model
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        emitted_text: context.continuation.text.clone(),
        emitted_tokens: context.continuation.said(),
        emitted_model: spoken(|speaker| speaker.model.as_ref().map(ToString::to_string)),
        emitted_digest: spoken(|speaker| speaker.digest.as_ref().map(ToString::to_string)),
        emitted_numerics_id: spoken(|by| by.numerics_id.as_ref().map(ToString::to_string)),
    }
}

/// A Start frame that arrived at `now`.
///
/// # Errors
/// The field that does not fit.
pub fn start_from_wire(mut wire: link::Start, now: Time) -> Result<StartParts, WireError> {
    let mut request = request(
        wire.request
            .take()
            .ok_or(WireError::Missing("start.request"))?,
    )?;
    request.meta.seed = wire.seed;
    let continuation = continuation(&mut wire)?;
    let hops: Result<Vec<_>, _> = wire.via.iter().map(NodeId::new).collect();
    let via = Via::from_hops(hops?).map_err(|error| WireError::Unknown {
        field: "start.via",
        value: error.message,
    })?;
    let at = |us: Option<u64>| us.map(|us| now + Duration::from_micros(us));
    let context = Context {
        deadline: Deadline {
            first_token: at(wire.first_token_remaining_us),
            total: at(wire.total_remaining_us),
        },
        via,
        scope: PermitScope::from_bits(u8::try_from(wire.permit_scope).unwrap_or(0)),
        model: (!wire.model.is_empty())
            .then(|| ModelId::new(&wire.model))
            .transpose()?,
        priority: u8::try_from(wire.priority).unwrap_or(u8::MAX),
        trace_parent: (!wire.trace_parent.is_empty() && wire.trace_parent.len() <= 64)
            .then_some(wire.trace_parent),
        continuation,
        account: Account {
            key: None,
            tenant: (!wire.tenant.is_empty() && wire.tenant.len() <= MAX_TENANT)
                .then_some(wire.tenant),
        },
    };
    Ok(StartParts { request, context })
}

/// A failure as the last frame of a stream.
#[must_use]
pub fn failure_to_wire(error: &InferError) -> link::Failure {
    link::Failure {
        class: error.class.as_str().to_owned(),
        reason: error.reason.to_owned(),
        message: error.message.clone(),
        retry_after_ms: error
            .retry_after
            .map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        metadata: error
            .metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect(),
    }
}

/// Codes and keys that cross the link. Others become `REMOTE_FAILURE` or are
/// dropped: a peer cannot make us hold strings of its own as static ones.
const CODES: &[&str] = &[
    "ATTEMPTS_EXHAUSTED",
    "BEDROCK_ACCESS_DENIED",
    "BEDROCK_BUSY",
    "BEDROCK_CREDENTIALS",
    "BEDROCK_INTERNAL",
    "BEDROCK_MODEL_ERROR",
    "BEDROCK_MODEL_NOT_FOUND",
    "BEDROCK_MODEL_TIMEOUT",
    "BEDROCK_PROTOCOL",
    "BEDROCK_REQUEST",
    "BEDROCK_THROTTLED",
    "BEDROCK_TIMEOUT",
    "BEDROCK_UNAVAILABLE",
    "BEDROCK_UNKNOWN_ERROR",
    "BEDROCK_UNREACHABLE",
    "BEDROCK_VALIDATION",
    "BUDGET_EXHAUSTED",
    "CANCELLED",
    "CHAT_TEMPLATE_REFUSED",
    "CONSTRAINT_BROKEN",
    "CONTINUATION_NOT_SERVED",
    "DEADLINE_EXCEEDED",
    "DEADLINE_TOO_SHORT",
    "EMPTY_PROMPT",
    "ENGINE_FAILED",
    "INVALID_FIELD",
    "MODEL_FAILED",
    "MODEL_NOT_FOUND",
    "MODEL_NOT_LOADED",
    "NODE_LOST",
    "NOT_A_CHAT",
    "NOT_ENCODABLE",
    "NOT_USABLE",
    "NO_CANDIDATE",
    "OUT_OF_SCOPE",
    "PARAMETER_NOT_SUPPORTED",
    "PERMIT_REFUSED",
    "POLICY_NOT_ALLOWED",
    "POLICY_NOT_FOUND",
    "PROMPT_TOO_LONG",
    "PROTOCOL_VIOLATION",
    "QUEUE_FULL",
    "RESTART_NOT_SERVED",
    "RETRY_BUDGET_EXHAUSTED",
    "SHED",
    "STOPPING",
    "STREAM_BROKEN",
    "STREAM_CUT",
    "STREAM_STALLED",
    "TASK_NOT_SERVED",
    "TASK_NOT_SUPPORTED",
    "TOO_LARGE",
    "TOO_MANY_HOPS",
    "TOO_MANY_STREAMS",
    "UNAVAILABLE",
    "UNKNOWN_TOKEN",
    "WRONG_DOOR",
];
const KEYS: &[&str] = &[
    "allowed",
    "budget",
    "endpoint",
    "field",
    "model",
    "policy",
    "removed_by",
];

/// A failure that arrived on a link.
#[must_use]
pub fn failure_from_wire(wire: link::Failure) -> InferError {
    let known = |set: &'static [&'static str], text: &str| set.iter().copied().find(|c| *c == text);
    let reason = known(CODES, &wire.reason).unwrap_or("REMOTE_FAILURE");
    let mut error = InferError::new(error_class(&wire.class), reason, wire.message);
    error.retry_after = wire.retry_after_ms.map(Duration::from_millis);
    let mut metadata: Vec<_> = wire.metadata.into_iter().collect();
    metadata.sort();
    for (key, value) in metadata {
        if let Some(key) = known(KEYS, &key) {
            error = error.with(key, value);
        }
    }
    error
}

impl From<&ModelOffer> for link::ModelOffer {
    fn from(offer: &ModelOffer) -> Self {
        Self {
            id: offer.id.to_string(),
            family: offer.family.clone(),
            digest: offer
                .digest
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            numerics_id: offer
                .numerics_id
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            tasks: offer
                .tasks
                .iter()
                .map(|task| v1::Task::from(*task) as i32)
                .collect(),
            context_tokens: offer.context_tokens,
            quality: offer.quality,
            input_nano_usd_per_million: offer.input_per_million.as_nanos(),
            output_nano_usd_per_million: offer.output_per_million.as_nanos(),
        }
    }
}

impl TryFrom<link::ModelOffer> for ModelOffer {
    type Error = WireError;

    fn try_from(wire: link::ModelOffer) -> Result<Self, WireError> {
        if !(0.0..=1.0).contains(&wire.quality) {
            return Err(WireError::Number {
                field: "model.quality",
                value: wire.quality.to_string(),
            });
        }
        let tasks: Result<Vec<Option<Task>>, _> =
            wire.tasks.into_iter().map(crate::convert::task).collect();
        let optional = |text: String| (!text.is_empty()).then_some(text);
        Ok(Self {
            id: ModelId::new(&wire.id)?,
            family: wire.family.chars().take(64).collect(),
            digest: optional(wire.digest).map(ModelDigest::new).transpose()?,
            numerics_id: optional(wire.numerics_id)
                .map(NumericsId::new)
                .transpose()?,
            tasks: tasks?.into_iter().flatten().collect(),
            context_tokens: wire.context_tokens,
            quality: wire.quality,
            input_per_million: Usd::from_nanos(wire.input_nano_usd_per_million),
            output_per_million: Usd::from_nanos(wire.output_nano_usd_per_million),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiermesh_core::{ErrorClass, RawRequest};

    #[test]
    fn a_start_keeps_remaining_time_and_scope() {
        let request = RawRequest {
            request_id: "r".into(),
            user_id: "u".into(),
            policy: "iot".into(),
            seed: 9,
            content: Some(Content::Prompt("title".into())),
            ..RawRequest::default()
        }
        .validate()
        .unwrap();
        let sent_at = Time::from_us(5_000_000);
        let context = Context {
            deadline: Deadline {
                first_token: Some(sent_at + Duration::from_millis(50)),
                total: Some(sent_at + Duration::from_secs(1)),
            },
            scope: PermitScope::only(tiermesh_core::Tier::Mec),
            model: Some(ModelId::new("brand-extractor").unwrap()),
            continuation: tiermesh_core::Continuation::of_ids(vec![1, 2, 3]),
            ..Context::default()
        };
        let wire = start_to_wire(&request.meta, &request.content, &context, sent_at);
        let arrived_at = Time::from_us(77);
        let parts = start_from_wire(wire, arrived_at).unwrap();
        assert_eq!(parts.request, request);
        assert_eq!(parts.context.scope, context.scope);
        assert_eq!(parts.context.continuation, context.continuation);
        assert_eq!(
            parts.context.deadline.total,
            Some(arrived_at + Duration::from_secs(1))
        );
    }

    #[test]
    fn a_failure_keeps_its_known_parts_and_drops_the_rest() {
        let sent = InferError::new(ErrorClass::Exhausted, "QUEUE_FULL", "the queue is full")
            .with("model", "m")
            .retry_after(Duration::from_millis(20));
        assert_eq!(failure_from_wire(failure_to_wire(&sent)), sent);
        let odd = link::Failure {
            class: "nonsense".into(),
            reason: "MADE_UP".into(),
            ..link::Failure::default()
        };
        let error = failure_from_wire(odd);
        assert_eq!(
            (error.class, error.reason),
            (ErrorClass::Internal, "REMOTE_FAILURE")
        );
    }
}
