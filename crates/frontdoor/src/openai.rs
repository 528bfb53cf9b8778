//! OpenAI's API: chat completions and the list of models.

use crate::answer::Answer;
use crate::call::text;
use crate::entry::Entry;
use crate::http::json_body;
use crate::resume::Brought;
use ask::Ask;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use http::HeaderMap;
use reply::{Head, failure};
use serde_json::{Value, json};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use tiermesh_core::{ErrorClass, Event, FieldError, InferError};

mod ask;
mod constraint;
pub(crate) mod headers;
pub(crate) mod reply;
mod sse;
mod whole;

pub(crate) fn routes() -> Router<Arc<Entry>> {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
}

async fn chat(State(entry): State<Arc<Entry>>, request: Request) -> Response {
    match answer(&entry, request).await {
        Ok(response) => response,
        Err(error) => failure(&error),
    }
}

async fn answer(entry: &Entry, request: Request) -> Result<Response, InferError> {
    let headers = request.headers().clone();
    let call = entry.call(&headers)?;
    let body = json_body(entry, request).await?;
    let mut ask = Ask::parse(&body)?;
    headers::apply(&headers, &mut ask)?;
    let Ask {
        raw,
        seed,
        stream,
        include_usage,
        ..
    } = ask;
    let logprobs = raw.logprobs.is_some();
    let resumable = call.resumable;
    let answer = match brought(&headers)? {
        Some(brought) => entry.resume(raw, brought, call).await,
        None => entry.infer(raw, seed, call).await,
    };
    let answer = answer.map_err(our_names)?;
    let opened = Opened::wait(answer).await?;
    if stream {
        Ok(sse::respond(opened, include_usage, resumable))
    } else {
        whole::respond(opened, logprobs).await
    }
}

/// What a client brings that goes on after its last event: the token it was
/// told in a header, and the id of the last event it has, which is the number
/// of the next token.
fn brought(headers: &HeaderMap) -> Result<Option<Brought>, FieldError> {
    const LAST: &str = "last-event-id";
    let Some(last) = text(headers, LAST) else {
        return Ok(None);
    };
    let next_seq = last.parse().map_err(|_| {
        FieldError::new(
            LAST,
            format!("`{last}`"),
            "the id of an event of this answer",
        )
    })?;
    let token = text(headers, reply::RESUME).unwrap_or_default();
    Ok(Some(Brought {
        token: token.to_owned(),
        next_seq,
        ..Brought::default()
    }))
}

/// An answer whose first words, or end, are there. Until then the client may
/// still be told of a failure with an HTTP status, and a failover is invisible.
struct Opened {
    head: Head,
    first: Event,
    rest: Answer,
}

impl Opened {
    async fn wait(mut rest: Answer) -> Result<Self, InferError> {
        let mut head = Head::new(&rest);
        loop {
            match next(&mut rest).await {
                Some(Ok(Event::Accepted(decision))) => {
                    head.accept(&decision);
                    let issuer = rest.issuer.as_mut();
                    head.resume = issuer.map(|i| i.token(&decision.node, &decision.model));
                }
                Some(Ok(first)) => return Ok(Self { head, first, rest }),
                Some(Err(error)) => return Err(error),
                None => return Err(no_chat()),
            }
        }
    }
}

async fn next(answer: &mut Answer) -> Option<Result<Event, InferError>> {
    use futures_core::Stream as _;
    poll_fn(|cx| Pin::new(&mut *answer).poll_next(cx)).await
}

/// A task's result where a chat's tokens belong.
fn no_chat() -> InferError {
    InferError::new(
        ErrorClass::Internal,
        "NOT_A_CHAT",
        "the answer is not a chat's",
    )
}

/// Fields by the names this API gives them.
fn our_names(mut error: InferError) -> InferError {
    for (key, value) in &mut error.metadata {
        if *key != "field" {
            continue;
        }
        let ours = match value.as_str() {
            "user_id" => "user",
            "policy" => headers::POLICY,
            "residency" => headers::RESIDENCY,
            "max_cost_usd" => headers::MAX_COST_USD,
            "deadline_ms.total" => headers::DEADLINE_MS,
            "deadline_ms.first_token" => headers::FIRST_TOKEN_MS,
            "request_id" => headers::REQUEST_ID,
            "logprobs" => "top_logprobs",
            field if field.starts_with("content") => "messages",
            _ => continue,
        };
        ours.clone_into(value);
    }
    error
}

async fn models(State(entry): State<Arc<Entry>>, headers: HeaderMap) -> Response {
    if let Err(error) = entry.call(&headers) {
        return failure(&error);
    }
    let models = entry.door.catalog.models();
    let data: Vec<Value> = models
        .iter()
        .map(|model| model_json(model.offer.id.as_str(), entry.opened))
        .collect();
    Json(json!({ "object": "list", "data": data })).into_response()
}

async fn model(
    State(entry): State<Arc<Entry>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    if let Err(error) = entry.call(&headers) {
        return failure(&error);
    }
    let models = entry.door.catalog.models();
    match models.iter().find(|model| model.offer.id.as_str() == id) {
        Some(model) => Json(model_json(model.offer.id.as_str(), entry.opened)).into_response(),
        None => {
            let shown: String = id.chars().take(80).flat_map(char::escape_debug).collect();
            let message = format!("the model `{shown}` does not exist here");
            failure(
                &InferError::new(ErrorClass::NotFound, "MODEL_NOT_FOUND", message)
                    .with("field", "model"),
            )
        }
    }
}

fn model_json(id: &str, created: u64) -> Value {
    json!({ "id": id, "object": "model", "created": created, "owned_by": "tiermesh" })
}
