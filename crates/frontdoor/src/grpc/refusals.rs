//! Refusals of the gRPC library itself, said in our words.
//!
//! Our own failures carry details. A status without any, before the first
//! message, comes from the library, which blames a message it cannot read on
//! the server (`INTERNAL`). It is the client's, and clients are told so.

use crate::status::to_status;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use tiermesh_core::{ErrorClass, InferError};
use tonic::{Code, Status};

/// Refuses what is not gRPC, so that no web page's form reaches a service.
pub(super) async fn only_grpc(request: Request, next: Next) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        next.run(request).await
    } else {
        StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response()
    }
}

/// Rewrites the library's refusal of a request message.
pub(super) async fn explain(response: Response) -> Response {
    let Some(status) = response.extensions().get::<Status>() else {
        return response;
    };
    if !status.details().is_empty() {
        return response;
    }
    let (reason, class) = match status.code() {
        Code::Internal => ("MALFORMED_REQUEST", ErrorClass::InvalidArgument),
        Code::OutOfRange => ("MESSAGE_TOO_LARGE", ErrorClass::InvalidArgument),
        _ => return response,
    };
    let mut error = InferError::new(class, reason, status.message());
    if let Some(field) = field(status.message()) {
        error = error.with("field", field);
    }
    to_status(error)
        .into_http::<axum::body::Body>()
        .into_response()
}

/// The field a decode error names: prost says
/// `failed to decode Protobuf message: InferRequest.model: invalid string …`,
/// with one `Message.field` for every level, innermost first.
fn field(message: &str) -> Option<String> {
    let path = message.strip_prefix("failed to decode Protobuf message: ")?;
    let mut names: Vec<&str> = path
        .split(": ")
        .map_while(|level| {
            let (kind, name) = level.split_once('.')?;
            let good = |text: &str| {
                !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            };
            (good(kind) && good(name)).then_some(name)
        })
        .collect();
    names.reverse();
    (!names.is_empty()).then(|| names.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use tiermesh_proto::v1;

    #[test]
    fn the_field_of_a_decode_error_is_found() {
        let mut bytes = v1::InferRequest {
            model: "abc".into(),
            ..v1::InferRequest::default()
        }
        .encode_to_vec();
        *bytes.last_mut().unwrap() = 0xff;
        let error = v1::InferRequest::decode(bytes.as_slice()).unwrap_err();
        assert_eq!(field(&error.to_string()).as_deref(), Some("model"));
        assert_eq!(field("Missing request message."), None);
    }

    #[test]
    fn the_field_of_a_nested_message_is_a_path() {
        let messages = v1::Messages {
            items: vec![v1::Message {
                role: "user".into(),
                text: "abc".into(),
            }],
        };
        let mut bytes = v1::InferRequest {
            content: Some(v1::infer_request::Content::Messages(messages)),
            ..v1::InferRequest::default()
        }
        .encode_to_vec();
        *bytes.last_mut().unwrap() = 0xff;
        let error = v1::InferRequest::decode(bytes.as_slice()).unwrap_err();
        let field = field(&error.to_string());
        assert_eq!(field.as_deref(), Some("content.items.text"), "{error}");
    }
}
