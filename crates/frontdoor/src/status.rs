//! The one place that maps failures to gRPC status and HTTP.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::collections::HashMap;
use std::time::Duration;
use tiermesh_core::{ErrorClass, InferError};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Who defines the reasons in `ErrorInfo`.
const DOMAIN: &str = "tiermesh";
/// The reason of a refusal that names another endpoint.
const WRONG_DOOR: &str = "WRONG_DOOR";

/// The gRPC code of a failure.
fn code(error: &InferError) -> Code {
    match error.class {
        ErrorClass::InvalidArgument => Code::InvalidArgument,
        ErrorClass::NotFound => Code::NotFound,
        ErrorClass::Forbidden if error.reason == WRONG_DOOR => Code::FailedPrecondition,
        ErrorClass::Forbidden => Code::PermissionDenied,
        ErrorClass::Unauthenticated => Code::Unauthenticated,
        ErrorClass::Exhausted => Code::ResourceExhausted,
        ErrorClass::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorClass::Cancelled => Code::Cancelled,
        ErrorClass::Unavailable => Code::Unavailable,
        ErrorClass::Internal => Code::Internal,
    }
}

/// The HTTP status of a failure. The wrong door is a misdirected request.
pub(crate) fn http_status(error: &InferError) -> StatusCode {
    match error.class {
        ErrorClass::InvalidArgument => match error.reason {
            "BODY_TOO_LARGE" => StatusCode::PAYLOAD_TOO_LARGE,
            "NOT_JSON" => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "METHOD_NOT_ALLOWED" => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::BAD_REQUEST,
        },
        ErrorClass::NotFound => StatusCode::NOT_FOUND,
        ErrorClass::Forbidden if error.reason == WRONG_DOOR => StatusCode::MISDIRECTED_REQUEST,
        ErrorClass::Forbidden => StatusCode::FORBIDDEN,
        ErrorClass::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorClass::Exhausted => StatusCode::TOO_MANY_REQUESTS,
        ErrorClass::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        // Nobody is left to read it; 499 is what proxies log.
        ErrorClass::Cancelled => {
            StatusCode::from_u16(499).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
        }
        ErrorClass::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorClass::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A failure as gRPC status with `ErrorInfo`, and `BadRequest` and `RetryInfo`
/// where they say something.
pub(crate) fn to_status(error: InferError) -> Status {
    log(&error);
    let code = code(&error);
    let mut details = ErrorDetails::new();
    if let Some(field) = field(&error) {
        details.add_bad_request_violation(field, &error.message);
    }
    if let Some(after) = error.retry_after {
        details.set_retry_info(Some(after));
    }
    let metadata: HashMap<String, String> = error
        .metadata
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    details.set_error_info(error.reason, DOMAIN, metadata);
    Status::with_error_details(code, error.message, details)
}

/// The field a client got wrong.
pub(crate) fn field(error: &InferError) -> Option<&str> {
    if error.class != ErrorClass::InvalidArgument {
        return None;
    }
    metadata(error, "field")
}

fn metadata<'a>(error: &'a InferError, name: &str) -> Option<&'a str> {
    let pair = error.metadata.iter().find(|(key, _)| *key == name);
    pair.map(|(_, value)| value.as_str())
}

/// The headers an HTTP failure carries: when to try again, where to go.
pub(crate) fn http_headers(error: &InferError) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if error.class == ErrorClass::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(after) = error.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
    }
    if let Some(endpoint) = metadata(error, "endpoint")
        && let Ok(value) = HeaderValue::from_str(endpoint)
    {
        headers.insert("x-tiermesh-endpoint", value);
    }
    headers
}

/// `Retry-After` counts in seconds: rounded up, at least one.
fn whole_seconds(after: Duration) -> u64 {
    (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1)
}

/// Logged once, here, where it is handled. Only what is our own fault.
pub(crate) fn log(error: &InferError) {
    if error.class == ErrorClass::Internal {
        tracing::warn!(reason = error.reason, error = %error, "an answer failed");
    }
}
