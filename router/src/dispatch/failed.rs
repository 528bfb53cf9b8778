//! How an attempt failed, and whose fault it was.

use crate::breaker::Outcome;
use tiermesh_core::{AttemptOutcome, ErrorClass, InferError};

/// An attempt that did not come to an answer, and who is to blame.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: InferError,
    pub(crate) outcome: Outcome,
}

impl Failed {
    /// How the list of attempts calls it.
    pub(crate) fn outcome_for_client(&self) -> AttemptOutcome {
        match self.error.class {
            ErrorClass::InvalidArgument
            | ErrorClass::NotFound
            | ErrorClass::Forbidden
            | ErrorClass::Exhausted => AttemptOutcome::Refused,
            _ if self.error.reason == "NO_CANDIDATE" => AttemptOutcome::Refused,
            _ => AttemptOutcome::Failed,
        }
    }

    /// A failure that is judged by its class alone.
    pub(crate) fn by_class(error: InferError) -> Self {
        // `NO_CANDIDATE` from a node that dispatches itself is its admission
        // saying no, not its death.
        let blamed = error.class.blames_the_node() && error.reason != "NO_CANDIDATE";
        let outcome = if blamed {
            Outcome::Failure
        } else {
            Outcome::Neutral
        };
        Self { error, outcome }
    }
}
