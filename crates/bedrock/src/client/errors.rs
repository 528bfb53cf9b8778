//! Bedrock's failures as the mesh's.
//!
//! Only a validation error passes the service's own words on, because they
//! tell the client what to change. Access errors name accounts and roles, so
//! those go to the log and the client reads what an operator must fix.

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_bedrockruntime::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_bedrockruntime::operation::RequestId;
use aws_sdk_bedrockruntime::operation::converse_stream::ConverseStreamError;
use aws_sdk_bedrockruntime::types::error::ConverseStreamOutputError;
use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tiermesh_core::{ErrorClass, InferError};

/// The gateway's AWS credentials are missing, expired or refused.
pub const CREDENTIALS_REASON: &str = "BEDROCK_CREDENTIALS";
/// The gateway's AWS identity may not use the model.
pub const ACCESS_DENIED_REASON: &str = "BEDROCK_ACCESS_DENIED";

/// The first wait after a throttle; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// Doublings after which the wait stays: 32 s.
const MOST_DOUBLINGS: u32 = 6;
/// The longest wait a `retry-after` header may ask for.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(600);
/// Characters kept of what the service says.
const MOST_WORDS: usize = 300;

/// Maps errors, and counts throttles so that waits grow.
#[derive(Debug)]
pub(super) struct Mapper {
    place: String,
    throttled: AtomicU32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Throttled,
    AccessDenied,
    Credentials,
    Validation,
    NotFound,
    ModelError,
    ModelTimeout,
    Unavailable,
    Internal,
    Unknown,
}

impl Mapper {
    pub(super) const fn new(place: String) -> Self {
        Self {
            place,
            throttled: AtomicU32::new(0),
        }
    }

    /// An answer came through: throttling is over.
    pub(super) fn answered(&self) {
        self.throttled.store(0, Ordering::Relaxed);
    }

    /// An error before the stream began.
    pub(super) fn refusal(&self, error: SdkError<ConverseStreamError>, model: &str) -> InferError {
        let after = error
            .raw_response()
            .and_then(|r| r.headers().get("retry-after"))
            .and_then(|text| text.trim().parse().ok())
            .map(|s| Duration::from_secs(s).min(MOST_RETRY_AFTER));
        let request_id = error.request_id().map(str::to_owned);
        let mapped = match &error {
            SdkError::ServiceError(service) => {
                let status = service.raw().status().as_u16();
                let kind = by_code(service.err().code()).unwrap_or_else(|| by_status(status));
                self.spoken(kind, model, service.err().message(), after)
            }
            _ => self.transport(&error),
        };
        match request_id {
            Some(id) => mapped.with("aws_request_id", id),
            None => mapped,
        }
    }

    /// An error in the middle of the stream. The SDK gives those no code.
    pub(super) fn broken<R: std::fmt::Debug + Send + Sync + 'static>(
        &self,
        error: SdkError<ConverseStreamOutputError, R>,
        model: &str,
    ) -> InferError {
        let Some(said) = error.as_service_error() else {
            return match &error {
                SdkError::ResponseError(_) => self.says(
                    ErrorClass::Internal,
                    "BEDROCK_PROTOCOL",
                    "sent an answer that cannot be read",
                ),
                _ => self.says(
                    ErrorClass::Unavailable,
                    "STREAM_BROKEN",
                    "broke the connection in the middle of the answer",
                ),
            };
        };
        let kind = if said.is_throttling_exception() {
            Kind::Throttled
        } else if said.is_model_stream_error_exception() {
            Kind::ModelError
        } else if said.is_validation_exception() {
            Kind::Validation
        } else if said.is_service_unavailable_exception() {
            Kind::Unavailable
        } else if said.is_internal_server_exception() {
            Kind::Internal
        } else {
            by_code(said.code()).unwrap_or(Kind::Unknown)
        };
        self.spoken(kind, model, said.message(), None)
    }

    /// No headers came in time.
    pub(super) fn silent(&self, waited: Duration) -> InferError {
        let text = format!("did not begin an answer within {} ms", waited.as_millis());
        self.says(ErrorClass::Unavailable, "BEDROCK_TIMEOUT", &text)
    }

    fn says(&self, class: ErrorClass, reason: &'static str, what: &str) -> InferError {
        InferError::new(class, reason, format!("{} {what}", self.place))
    }

    fn spoken(
        &self,
        kind: Kind,
        model: &str,
        words: Option<&str>,
        after: Option<Duration>,
    ) -> InferError {
        use ErrorClass::{Exhausted, Internal, InvalidArgument, NotFound, Unavailable};
        match kind {
            Kind::Throttled => self
                .says(
                    Exhausted,
                    "BEDROCK_THROTTLED",
                    &format!("throttled the request: the account's quota for `{model}` is used up"),
                )
                .retry_after(after.unwrap_or_else(|| self.backoff())),
            Kind::AccessDenied => self.denied(model, words),
            Kind::Credentials => self.unsigned(words.unwrap_or_default()),
            Kind::Validation => {
                let words = shown(words.unwrap_or("no reason given"));
                let text = format!("refused the request for `{model}`: {words}");
                self.says(InvalidArgument, "BEDROCK_VALIDATION", &text)
            }
            Kind::NotFound => {
                let text = format!(
                    "does not know `{model}`: check the cloud tier's `model_id` and its region"
                );
                self.says(NotFound, "BEDROCK_MODEL_NOT_FOUND", &text)
            }
            Kind::ModelError => {
                let text = format!("reports that model `{model}` failed");
                self.says(Internal, "BEDROCK_MODEL_ERROR", &text)
            }
            Kind::ModelTimeout => {
                let text = format!("reports that model `{model}` took too long");
                self.says(Unavailable, "BEDROCK_MODEL_TIMEOUT", &text)
            }
            Kind::Unavailable => {
                let error = self.says(Unavailable, "BEDROCK_UNAVAILABLE", "is not available");
                after.map_or(error.clone(), |after| error.retry_after(after))
            }
            Kind::Internal => self.says(
                Unavailable,
                "BEDROCK_INTERNAL",
                "reports an internal failure",
            ),
            Kind::Unknown => self.says(
                Internal,
                "BEDROCK_UNKNOWN_ERROR",
                "failed in a way it did not name",
            ),
        }
    }

    fn denied(&self, model: &str, words: Option<&str>) -> InferError {
        tracing::error!(
            place = self.place,
            model,
            cause = shown(words.unwrap_or_default()),
            "the cloud tier denies access to a model"
        );
        let text = format!(
            "denies access to `{model}`: check the IAM permission bedrock:InvokeModelWithResponseStream for it, and that the account has access to the model"
        );
        self.says(ErrorClass::Unavailable, ACCESS_DENIED_REASON, &text)
    }

    fn unsigned(&self, cause: &str) -> InferError {
        tracing::error!(
            place = self.place,
            cause = shown(cause),
            "the gateway's AWS credentials do not work"
        );
        let text = "does not accept the gateway's AWS credentials: they are missing, expired or wrong; the usual chain is AWS_ACCESS_KEY_ID, AWS_PROFILE with ~/.aws, web identity, container, instance metadata";
        self.says(ErrorClass::Unavailable, CREDENTIALS_REASON, text)
    }

    fn transport(&self, error: &SdkError<ConverseStreamError>) -> InferError {
        use ErrorClass::{Internal, Unavailable};
        if let Some(cause) = credentials_error(error) {
            return self.unsigned(&cause.to_string());
        }
        let timed_out = match error {
            SdkError::TimeoutError(_) => true,
            SdkError::DispatchFailure(failure) => failure.is_timeout(),
            _ => false,
        };
        match error {
            _ if timed_out => self.says(
                Unavailable,
                "BEDROCK_UNREACHABLE",
                "cannot be reached: the connection timed out",
            ),
            SdkError::DispatchFailure(_) => self.says(
                Unavailable,
                "BEDROCK_UNREACHABLE",
                "cannot be reached: check the network and the endpoint",
            ),
            SdkError::ResponseError(_) => self.says(
                Internal,
                "BEDROCK_PROTOCOL",
                "sent an answer that cannot be read",
            ),
            _ => self.says(
                Internal,
                "BEDROCK_REQUEST",
                "could not be asked: the request cannot be built",
            ),
        }
    }

    fn backoff(&self) -> Duration {
        let before = self
            .throttled
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                Some(n.saturating_add(1))
            })
            .unwrap_or_default();
        FIRST_BACKOFF * (1 << before.min(MOST_DOUBLINGS))
    }
}

fn by_code(code: Option<&str>) -> Option<Kind> {
    Some(match code? {
        "ThrottlingException" | "TooManyRequestsException" | "ServiceQuotaExceededException" => {
            Kind::Throttled
        }
        "AccessDeniedException" => Kind::AccessDenied,
        "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignatureException"
        | "ExpiredTokenException"
        | "ExpiredToken"
        | "InvalidClientTokenId"
        | "MissingAuthenticationTokenException" => Kind::Credentials,
        "ValidationException" => Kind::Validation,
        "ResourceNotFoundException" => Kind::NotFound,
        "ModelErrorException" | "ModelStreamErrorException" => Kind::ModelError,
        "ModelTimeoutException" => Kind::ModelTimeout,
        "ServiceUnavailableException" | "ModelNotReadyException" => Kind::Unavailable,
        "InternalServerException" | "InternalFailure" => Kind::Internal,
        _ => return None,
    })
}

/// For answers without Bedrock's own code: a proxy's, for one.
const fn by_status(status: u16) -> Kind {
    match status {
        429 => Kind::Throttled,
        401 | 403 => Kind::AccessDenied,
        400 | 413 => Kind::Validation,
        404 => Kind::NotFound,
        408 | 504 => Kind::ModelTimeout,
        502 | 503 => Kind::Unavailable,
        500 => Kind::Internal,
        _ => Kind::Unknown,
    }
}

fn credentials_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CredentialsError> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        next = cause.source();
    }
    None
}

/// What a service said, short and on one line.
fn shown(words: &str) -> String {
    let short: String = words.chars().take(MOST_WORDS).collect();
    short.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_while_throttled_and_start_over_after_an_answer() {
        let mapper = Mapper::new("Bedrock".into());
        let waits = |n| {
            (0..n)
                .map(|_| mapper.backoff().as_millis())
                .collect::<Vec<_>>()
        };
        assert_eq!(waits(4), [500, 1_000, 2_000, 4_000]);
        assert_eq!(waits(8).last(), Some(&32_000));
        mapper.answered();
        assert_eq!(waits(1), [500]);
    }

    #[test]
    fn the_services_words_on_access_stay_out_of_the_message() {
        let mapper = Mapper::new("Bedrock".into());
        let words = Some("User: arn:aws:iam::123456789012:user/ann is not authorized");
        let error = mapper.spoken(Kind::AccessDenied, "m", words, None);
        assert_eq!(error.class, ErrorClass::Unavailable);
        assert!(!error.message.contains("arn:aws:iam"), "{}", error.message);
        assert!(error.message.contains("InvokeModelWithResponseStream"));
    }
}
