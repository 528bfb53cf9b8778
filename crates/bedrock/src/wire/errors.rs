//! The mesh's failures as Bedrock spells them.

use super::frames::exception;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use tiermesh_core::{ErrorClass, InferError};

/// An error before the stream began: status, `x-amzn-errortype` and
/// `{"message"}`, with the mesh's reason code in `x-tiermesh-reason`.
#[must_use]
pub fn error_response(error: &InferError) -> Response {
    let (status, kind) = spelled(error);
    let mut response = plain(status, kind, &error.message);
    let headers = response.headers_mut();
    headers.insert("x-tiermesh-reason", HeaderValue::from_static(error.reason));
    if let Some(after) = error.retry_after {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// An error by Bedrock's own name.
pub(crate) fn plain(status: StatusCode, kind: &'static str, message: &str) -> Response {
    let mut response = Response::new(Body::from(json!({ "message": message }).to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert("x-amzn-errortype", HeaderValue::from_static(kind));
    response
}

fn spelled(error: &InferError) -> (StatusCode, &'static str) {
    match error.class {
        ErrorClass::InvalidArgument => (StatusCode::BAD_REQUEST, "ValidationException"),
        ErrorClass::NotFound => (StatusCode::NOT_FOUND, "ResourceNotFoundException"),
        ErrorClass::Forbidden => (StatusCode::FORBIDDEN, "AccessDeniedException"),
        ErrorClass::Unauthenticated => (StatusCode::FORBIDDEN, "UnrecognizedClientException"),
        ErrorClass::Exhausted => (StatusCode::TOO_MANY_REQUESTS, "ThrottlingException"),
        ErrorClass::DeadlineExceeded | ErrorClass::Cancelled => {
            (StatusCode::REQUEST_TIMEOUT, "ModelTimeoutException")
        }
        ErrorClass::Unavailable => (
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailableException",
        ),
        ErrorClass::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "InternalServerException"),
    }
}

/// The same in the middle of a stream, where Converse knows five exceptions.
pub(crate) fn exception_frame(error: &InferError) -> Bytes {
    let kind = match error.class {
        ErrorClass::InvalidArgument | ErrorClass::NotFound | ErrorClass::Forbidden => {
            "validationException"
        }
        ErrorClass::Exhausted => "throttlingException",
        ErrorClass::Unavailable | ErrorClass::Unauthenticated => "serviceUnavailableException",
        ErrorClass::DeadlineExceeded | ErrorClass::Cancelled => "modelStreamErrorException",
        ErrorClass::Internal => "internalServerException",
    };
    exception(kind, &error.message)
}
