//! The HTTP side: health, explanations, and what no route answers.

use crate::entry::Entry;
use crate::openai::reply::failure;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde_json::json;
use std::sync::Arc;
use tiermesh_core::{ErrorClass, InferError};
use tonic::Status;

mod explain;

/// The largest HTTP request body, in bytes.
pub(crate) const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Every HTTP route of the door.
pub(crate) fn routes(entry: &Arc<Entry>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/route/explain", post(explain::explain))
        .merge(crate::openai::routes())
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::clone(entry))
}

async fn health(State(entry): State<Arc<Entry>>) -> Response {
    let options = &entry.door.options;
    let draining = entry.is_draining();
    let body = json!({
        "status": if draining { "draining" } else { "ok" },
        "node": options.node,
        "tier": options.tier,
        "region": options.region,
        "version": env!("CARGO_PKG_VERSION"),
        "streams_active": entry.slots.active(),
        "streams_max": entry.slots.total(),
    });
    let status = if draining {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    (status, Json(body)).into_response()
}

/// What no route answers: gRPC clients get their status, others JSON.
pub(crate) async fn not_found(request: Request) -> Response {
    if is_grpc(request.headers()) {
        let status = Status::unimplemented(format!("no method `{}`", request.uri().path()));
        return status.into_http::<axum::body::Body>().into_response();
    }
    failure(&InferError::new(
        ErrorClass::NotFound,
        "UNKNOWN_URL",
        format!("no route `{} {}`", request.method(), request.uri().path()),
    ))
}

async fn method_not_allowed(request: Request) -> Response {
    failure(&InferError::new(
        ErrorClass::InvalidArgument,
        "METHOD_NOT_ALLOWED",
        format!(
            "`{}` does not take {}",
            request.uri().path(),
            request.method()
        ),
    ))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// A JSON request body: bounded in size and time. Only `application/json` is
/// taken, so that a web page cannot post here without the browser asking.
pub(crate) async fn json_body(entry: &Entry, request: Request) -> Result<Bytes, InferError> {
    let invalid = |reason, message| InferError::new(ErrorClass::InvalidArgument, reason, message);
    let kind = crate::call::text(request.headers(), "content-type").unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let message = format!("the content type is `{kind}`: application/json is taken");
        return Err(invalid("NOT_JSON", message));
    }
    let limit = entry.door.options.read_timeout;
    let body = axum::body::to_bytes(request.into_body(), MAX_BODY_BYTES);
    match tokio::time::timeout(limit, body).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(unread(&error)),
        Err(_) => Err(InferError::new(
            ErrorClass::DeadlineExceeded,
            "BODY_TOO_SLOW",
            format!("the body did not arrive within {limit:?}"),
        )),
    }
}

fn unread(error: &axum::Error) -> InferError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(link) = cause {
        if link.is::<http_body_util::LengthLimitError>() {
            return InferError::new(
                ErrorClass::InvalidArgument,
                "BODY_TOO_LARGE",
                format!("the body is over {MAX_BODY_BYTES} bytes"),
            );
        }
        cause = link.source();
    }
    InferError::new(
        ErrorClass::Cancelled,
        "BODY_CUT_OFF",
        "the body ended before it was complete",
    )
}
