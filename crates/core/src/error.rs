//! Why a request got no answer, or lost it half-way.

use std::time::Duration;

/// The closed set of ways a request can fail. One place (the front door) maps
/// it to gRPC and HTTP status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// A field of the request is wrong.
    InvalidArgument,
    /// It names something that does not exist.
    NotFound,
    /// Privacy, residency, ownership or scope forbid what was asked.
    Forbidden,
    /// The credentials are missing or wrong.
    Unauthenticated,
    /// A queue, a credit, a quota or a budget is used up.
    Exhausted,
    /// The deadline passed.
    DeadlineExceeded,
    /// The client went away.
    Cancelled,
    /// A node or service cannot be reached, died, or stalled.
    Unavailable,
    /// An answer broke its protocol or the model failed.
    Internal,
}

impl ErrorClass {
    /// The spelling on the link's wire and in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::Forbidden => "forbidden",
            Self::Unauthenticated => "unauthenticated",
            Self::Exhausted => "exhausted",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// Whether whoever answered is to blame. Client errors, cancels and
    /// refusals at admission are neutral for breakers; a missed deadline is
    /// judged by the dispatcher, which knows what was promised.
    #[must_use]
    pub const fn blames_the_node(self) -> bool {
        matches!(
            self,
            Self::Unavailable | Self::Internal | Self::Unauthenticated
        )
    }

    /// Whether asking somebody else can help.
    #[must_use]
    pub const fn another_may_answer(self) -> bool {
        !matches!(
            self,
            Self::InvalidArgument | Self::Cancelled | Self::DeadlineExceeded
        )
    }
}

/// A failure as it travels between everything that can answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InferError {
    /// What kind of failure it is.
    pub class: ErrorClass,
    /// A stable `UPPER_SNAKE_CASE` code for programs.
    pub reason: &'static str,
    /// The cause and the fix, for people. Never content, never secrets.
    pub message: String,
    /// Values programs may want (`field`, `endpoint`, `allowed`).
    pub metadata: Vec<(&'static str, String)>,
    /// When trying again can help, computed and not guessed.
    pub retry_after: Option<Duration>,
}

/// A failure before the stream began: nothing was sent, nothing is owed.
pub type Refusal = InferError;

impl InferError {
    /// A failure with its code and message.
    #[must_use]
    pub fn new(class: ErrorClass, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            class,
            reason,
            message: message.into(),
            metadata: Vec::new(),
            retry_after: None,
        }
    }

    /// Adds a value for programs.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.metadata.push((key, value.into()));
        self
    }

    /// Says when to try again.
    #[must_use]
    pub const fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The client's deadline passed.
    #[must_use]
    pub fn deadline_exceeded() -> Self {
        Self::new(
            ErrorClass::DeadlineExceeded,
            "DEADLINE_EXCEEDED",
            "the deadline passed before the answer was complete",
        )
    }

    /// Whoever answered is gone.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Unavailable, "UNAVAILABLE", message)
    }
}

impl From<crate::privacy::PermitError> for InferError {
    fn from(error: crate::privacy::PermitError) -> Self {
        Self::new(ErrorClass::Forbidden, "PERMIT_REFUSED", error.to_string())
    }
}

impl From<crate::request::FieldError> for InferError {
    fn from(error: crate::request::FieldError) -> Self {
        Self::new(
            ErrorClass::InvalidArgument,
            "INVALID_FIELD",
            error.to_string(),
        )
        .with("field", error.field)
        .with("allowed", error.allowed)
    }
}

/// An error with its causes behind it, as a log shows it.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Failed(&'static str, #[source] Option<Box<Failed>>);

    #[test]
    fn an_error_is_told_with_every_cause_outermost_first() {
        let alone = Failed("no such file", None);
        assert_eq!(with_causes(&alone), "no such file");
        let caused = Failed("the model is not here", Some(Box::new(alone)));
        let error = Failed("it cannot be loaded", Some(Box::new(caused)));
        assert_eq!(
            with_causes(&error),
            "it cannot be loaded: the model is not here: no such file"
        );
    }
}
