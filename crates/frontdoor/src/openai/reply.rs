//! What OpenAI's clients read beside the text: who answered, and failures.

use crate::answer::Answer;
use crate::entry::unix_seconds;
use crate::status::{field, http_headers, http_status, log};
use axum::response::{IntoResponse, Json, Response};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tiermesh_core::{DecisionSummary, FinishReason, InferError, Tier, Token, Usage};

/// What is known of an answer before its first word.
pub(super) struct Head {
    /// Unique per answer: `chatcmpl-` and the request's id.
    pub(super) id: String,
    /// Unix seconds.
    pub(super) created: u64,
    /// The model that answers; empty until a place accepted.
    pub(super) model: String,
    request_id: String,
    seed: u64,
    place: Option<(Tier, String)>,
    /// Lets the client go on after a lost connection.
    pub(super) resume: Option<String>,
}

/// The header with the resume token, both ways.
pub(super) const RESUME: &str = "x-tiermesh-resume";

impl Head {
    pub(super) fn new(answer: &Answer) -> Self {
        Self {
            id: format!("chatcmpl-{}", answer.request_id),
            created: unix_seconds(),
            model: String::new(),
            request_id: answer.request_id.to_string(),
            seed: answer.seed,
            place: None,
            resume: None,
        }
    }

    pub(super) fn accept(&mut self, decision: &DecisionSummary) {
        self.model = decision.model.to_string();
        self.place = Some((decision.tier, decision.node.to_string()));
    }

    /// Who answers, for people and for tests.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |name: &'static str, value: &str| {
            // Names are printable ASCII: they are checked where they are made.
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        put("x-request-id", &self.request_id);
        put("x-tiermesh-request-id", &self.request_id);
        put("x-tiermesh-seed", &self.seed.to_string());
        if let Some(token) = &self.resume {
            put(RESUME, token);
        }
        if let Some((tier, node)) = &self.place {
            put("x-tiermesh-tier", tier.as_str());
            put("x-tiermesh-node", node);
            put("x-tiermesh-model", &self.model);
        }
        headers
    }
}

pub(super) fn usage(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    })
}

/// A token's entry in `logprobs.content`; none where nothing is known of it.
pub(super) fn logprob(token: &Token) -> Option<Value> {
    let detail = token.detail.as_ref()?;
    let mut entry = scored(&detail.bytes, token.logprob?);
    let top = detail.top.iter();
    let top: Vec<Value> = top.map(|one| scored(&one.bytes, one.logprob)).collect();
    entry["top_logprobs"] = Value::Array(top);
    Some(entry)
}

/// `token` is text for people; `bytes` are exact where it is not.
fn scored(bytes: &[u8], logprob: f32) -> Value {
    let text = String::from_utf8_lossy(bytes);
    json!({ "token": text, "logprob": logprob, "bytes": bytes })
}

/// Core's spellings are OpenAI's.
pub(super) const fn finish(reason: FinishReason) -> &'static str {
    reason.as_str()
}

/// A failure in place of an answer.
pub(crate) fn failure(error: &InferError) -> Response {
    log(error);
    (http_status(error), http_headers(error), Json(body(error))).into_response()
}

/// `{"error": …}`, as a body or as a stream's event.
pub(super) fn body(error: &InferError) -> Value {
    let kind = match http_status(error) {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    };
    json!({
        "error": {
            "message": error.message,
            "type": kind,
            "code": error.reason.to_ascii_lowercase(),
            "param": field(error),
        }
    })
}
