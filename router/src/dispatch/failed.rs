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
            _ if says_no(&self.error) => AttemptOutcome::Refused,
            _ => AttemptOutcome::Failed,
        }
    }

    /// A failure that is judged by its class alone.
    pub(crate) fn by_class(error: InferError) -> Self {
        let blamed = error.class.blames_the_node() && !says_no(&error);
        let outcome = if blamed {
            Outcome::Failure
        } else {
            Outcome::Neutral
        };
        Self { error, outcome }
    }
}

/// A node's admission said no, which is not its death: one that dispatches
/// itself found nobody, or has the model fetched first.
pub(crate) fn says_no(error: &InferError) -> bool {
    ["NO_CANDIDATE", MODEL_COLD].contains(&error.reason)
}

/// The refusal of a model that is not on its node yet.
pub(crate) const MODEL_COLD: &str = "MODEL_COLD";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admission_that_says_no_is_nobodys_failure() {
        for (reason, expected) in [
            ("NO_CANDIDATE", Outcome::Neutral),
            (MODEL_COLD, Outcome::Neutral),
            ("MODEL_NOT_LOADED", Outcome::Failure),
        ] {
            let error = InferError::new(ErrorClass::Unavailable, reason, "");
            let failed = Failed::by_class(error);
            assert_eq!(failed.outcome, expected, "{reason}");
            let refused = failed.outcome_for_client() == AttemptOutcome::Refused;
            assert_eq!(refused, expected == Outcome::Neutral, "{reason}");
        }
    }
}
