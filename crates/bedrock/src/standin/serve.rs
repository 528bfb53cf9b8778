//! One request at the stand-in.

use super::StandinOptions;
use super::faults::{Fault, Script, spoil};
use super::seen::{Running, Seen, SeenRequest};
use crate::VIA_HEADER;
use crate::wire::errors::plain;
use crate::wire::{Asked, answer, error_response, read, request};
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tiermesh_core::{
    Content, Context, Continuation, EventStream, Infer, InferError, ModelId, RawRequest, Role,
    Sealed,
};

/// Everything a request meets.
pub(super) struct Desk {
    brain: Arc<dyn Infer>,
    options: StandinOptions,
    numbers: AtomicU64,
    pub(super) script: Script,
    pub(super) seen: Arc<Seen>,
}

impl Desk {
    pub(super) fn new(brain: Arc<dyn Infer>, options: StandinOptions) -> Self {
        Self {
            brain,
            options,
            numbers: AtomicU64::new(1),
            script: Script::default(),
            seen: Arc::default(),
        }
    }

    async fn ask(
        &self,
        mut raw: RawRequest,
        model: &ModelId,
        request_id: &str,
    ) -> Result<EventStream, InferError> {
        raw.request_id = request_id.to_owned();
        // Bedrock knows nothing of the mesh's fields and ignores metadata.
        raw.user_id = "bedrock-standin".into();
        raw.policy = "bedrock-standin".into();
        raw.model = model.to_string();
        raw.privacy = None;
        raw.residency = String::new();
        (raw.first_token_ms, raw.total_ms, raw.max_cost_usd) = (None, None, None);
        let text = begun(&mut raw);
        let sealed = Arc::new(Sealed::new(raw.validate()?));
        let context = Context {
            model: Some(model.clone()),
            continuation: Continuation {
                text,
                ..Continuation::default()
            },
            ..Context::default()
        };
        self.brain.infer(sealed, context).await
    }
}

/// The assistant's own last turn, which the model is to continue.
fn begun(raw: &mut RawRequest) -> String {
    match &mut raw.content {
        Some(Content::Messages(messages)) if messages.len() > 1 => messages
            .pop_if(|last| last.role == Role::Assistant)
            .map_or_else(String::new, |last| last.text),
        _ => String::new(),
    }
}

pub(super) async fn converse(
    State(desk): State<Arc<Desk>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let number = desk.numbers.fetch_add(1, Ordering::Relaxed);
    let request_id = format!("standin-{number}");
    let mut response = respond(&desk, &request_id, path, &headers, body).await;
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

async fn respond(
    desk: &Arc<Desk>,
    request_id: &str,
    path: Result<Path<String>, PathRejection>,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    let asked = match read(path, body).await {
        Ok(asked) => asked,
        Err(refusal) => return refusal,
    };
    remember(desk, &asked, headers);
    if let Err(refusal) = check_signature(headers) {
        return *refusal;
    }
    let fault = desk.script.next();
    if let Some(refusal) = fault.and_then(Fault::refusal) {
        return refusal;
    }
    if fault == Some(Fault::Silence) {
        futures::future::pending::<()>().await;
    }
    let Some(model) = desk.options.models.get(&asked.model) else {
        let message = "The provided model identifier is invalid.";
        return plain(StatusCode::BAD_REQUEST, "ValidationException", message);
    };
    let events = match request::parse(&asked.model, &asked.body) {
        Ok(raw) => desk.ask(raw, model, request_id).await,
        Err(error) => Err(error),
    };
    match events {
        Ok(events) => {
            let running = Running::new(Arc::clone(&desk.seen));
            answer(events, asked.is_streaming, |frames| {
                Body::from_stream(spoil(frames, fault, running))
            })
            .await
        }
        Err(error) => error_response(&error),
    }
}

fn remember(desk: &Desk, asked: &Asked, headers: &HeaderMap) {
    let via = headers.get(VIA_HEADER).and_then(|via| via.to_str().ok());
    let request = SeenRequest {
        model_id: asked.model.clone(),
        via: via.map(str::to_owned),
        is_streaming: asked.is_streaming,
    };
    let body = desk.options.keep_bodies.then(|| asked.body.clone());
    desk.seen.record(request, body);
}

/// A signature must be there and be whole. Whose it is does not matter: there
/// is no account behind this.
fn check_signature(headers: &HeaderMap) -> Result<(), Box<Response>> {
    let refuse = |kind, message| {
        let status = StatusCode::FORBIDDEN;
        Err(Box::new(plain(status, kind, message)))
    };
    let Some(signed) = headers.get(header::AUTHORIZATION) else {
        let message = "Missing Authentication Token";
        return refuse("MissingAuthenticationTokenException", message);
    };
    let signed = signed.to_str().unwrap_or_default();
    let parts = ["Credential=", "SignedHeaders=", "Signature="];
    if !signed.starts_with("AWS4-HMAC-SHA256 ") || !parts.iter().all(|p| signed.contains(p)) {
        let message = "The security token included in the request is invalid.";
        return refuse("UnrecognizedClientException", message);
    }
    Ok(())
}
