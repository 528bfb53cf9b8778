//! The two routes, over whatever answers behind a door.

use super::errors::{error_response, plain};
use super::frames::{Frame, frames};
use super::{EVENT_STREAM, MAX_BODY_BYTES, VIA_HEADER, reply, request};
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tiermesh_core::{
    DecisionSummary, ErrorClass, Event, EventStream, InferError, RawRequest, Refusal,
};

/// The future of an answer's beginning behind a door.
pub type DoorFuture<'a> = Pin<Box<dyn Future<Output = Result<EventStream, Refusal>> + Send + 'a>>;

/// What stands behind the routes. The door authenticates by the headers, fills
/// its defaults in, validates, seals, sets the deadline and asks the mesh.
pub trait ConverseDoor: Send + Sync + 'static {
    /// Starts an answer, or refuses.
    fn infer(&self, raw: RawRequest, headers: HeaderMap) -> DoorFuture<'_>;
}

/// `POST /model/{id}/converse` and `/model/{id}/converse-stream`.
///
/// The id may hold `:` and, as ARNs do, `/`, encoded or not. A body over 1 MiB
/// is refused, and so is a request that carries [`VIA_HEADER`]: it comes from
/// the mesh's own client, whose endpoint then points at the mesh.
pub fn routes(door: Arc<dyn ConverseDoor>) -> Router {
    Router::new()
        .route("/model/{*path}", post(serve))
        .with_state(door)
}

async fn serve(
    State(door): State<Arc<dyn ConverseDoor>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if headers.contains_key(VIA_HEADER) {
        return error_response(&InferError::new(
            ErrorClass::Forbidden,
            "MESH_CALLS_ITSELF",
            format!(
                "the request carries `{VIA_HEADER}`, so it comes from the mesh: set the cloud tier's `endpoint_url` to Bedrock"
            ),
        ));
    }
    let asked = match read(path, body).await {
        Ok(asked) => asked,
        Err(refusal) => return refusal,
    };
    let raw = match request::parse(&asked.model, &asked.body) {
        Ok(raw) => raw,
        Err(error) => return error_response(&error),
    };
    match door.infer(raw, headers).await {
        Ok(events) => {
            answer(events, asked.is_streaming, |frames| {
                Body::from_stream(
                    frames.map(|frame| Ok::<Bytes, std::convert::Infallible>(frame.bytes)),
                )
            })
            .await
        }
        Err(error) => error_response(&error),
    }
}

/// A request as far as path and body tell.
pub(crate) struct Asked {
    /// The model's id, decoded.
    pub(crate) model: String,
    /// Whether frames are wanted.
    pub(crate) is_streaming: bool,
    /// The body, within its bound.
    pub(crate) body: Bytes,
}

/// Reads path and body, or says in Bedrock's spelling what is wrong with them.
pub(crate) async fn read(
    path: Result<Path<String>, PathRejection>,
    body: Body,
) -> Result<Asked, Response> {
    let Ok(Path(path)) = path else {
        let message = "the path is not percent-encoded UTF-8";
        return Err(plain(
            StatusCode::BAD_REQUEST,
            "ValidationException",
            message,
        ));
    };
    let stripped = match path.strip_suffix("/converse-stream") {
        Some(model) => Some((model, true)),
        None => path.strip_suffix("/converse").map(|model| (model, false)),
    };
    let Some((model, is_streaming)) = stripped.filter(|(model, _)| !model.is_empty()) else {
        let message = "use POST /model/{id}/converse or /model/{id}/converse-stream";
        return Err(plain(
            StatusCode::NOT_FOUND,
            "UnknownOperationException",
            message,
        ));
    };
    match axum::body::to_bytes(body, MAX_BODY_BYTES).await {
        Ok(body) => Ok(Asked {
            model: model.to_owned(),
            is_streaming,
            body,
        }),
        Err(error) => Err(unread(error)),
    }
}

fn unread(error: axum::Error) -> Response {
    if error.into_inner().is::<http_body_util::LengthLimitError>() {
        let message = format!("the body is over {MAX_BODY_BYTES} bytes");
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        return plain(status, "ValidationException", &message);
    }
    plain(
        StatusCode::BAD_REQUEST,
        "ValidationException",
        "the body broke off",
    )
}

/// Answers with frames through `as_body`, or with one JSON body. The first
/// event is awaited, so that a failure before it still gets its HTTP status.
pub(crate) async fn answer(
    mut events: EventStream,
    is_streaming: bool,
    as_body: impl FnOnce(Pin<Box<dyn Stream<Item = Frame> + Send>>) -> Body,
) -> Response {
    let first = match events.next().await {
        Some(Ok(first)) => first,
        Some(Err(error)) => return error_response(&error),
        None => return error_response(&super::frames::incomplete()),
    };
    let decision = match &first {
        Event::Accepted(decision) => Some(decision.clone()),
        _ => None,
    };
    let (body, media) = if is_streaming {
        (as_body(Box::pin(frames(first, events))), EVENT_STREAM)
    } else {
        match reply::collect(first, events).await {
            Ok(body) => (Body::from(body.to_string()), "application/json"),
            Err(error) => return error_response(&error),
        }
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    if let Some(decision) = decision {
        show(&decision, headers);
    }
    response
}

/// Where the mesh sent the request, for whoever looks at headers.
fn show(decision: &DecisionSummary, headers: &mut HeaderMap) {
    let shown = [
        ("x-tiermesh-tier", decision.tier.as_str()),
        ("x-tiermesh-node", decision.node.as_str()),
        ("x-tiermesh-model", decision.model.as_str()),
    ];
    for (name, value) in shown {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}
