//! When nobody is left: what removed the last candidates, and what would have
//! to change.

use crate::constraint::Constraint;
use crate::decide::Question;
use crate::limits::Limits;
use crate::plan::Tally;
use std::collections::BTreeSet;
use std::time::Duration;
use tiermesh_core::{ErrorClass, InferError, Privacy, ReasonRecord, Snapshot};

/// The most model names an error lists.
const MAX_MODELS: usize = 32;
/// A node with streams in flight refreshes its credits this often.
const CREDIT_REFRESH: Duration = Duration::from_millis(250);

/// No candidate is left.
#[derive(Debug, Clone, PartialEq)]
pub struct NoCandidate {
    /// What removed the candidates that got furthest; none when there were no
    /// candidates at all.
    pub constraint: Option<Constraint>,
    /// How many candidates there were.
    pub considered: usize,
    /// How many candidates each constraint removed, in its order.
    pub counts: [u32; Constraint::COUNT],
    /// Some of the removed candidates.
    pub removed: Vec<ReasonRecord>,
    /// When trying again can help.
    pub retry_after: Option<Duration>,
    wanted_model: String,
    models: Vec<String>,
    privacy: Privacy,
}

impl NoCandidate {
    #[cold]
    pub(crate) fn new(
        question: &Question<'_>,
        limits: &Limits,
        snapshot: &Snapshot,
        tally: &Tally,
    ) -> Self {
        let constraint = Constraint::ALL
            .into_iter()
            .rev()
            .find(|constraint| tally.counts[*constraint as usize] > 0);
        let out_of_credit = tally.counts[Constraint::Credit as usize] > 0;
        let retry_after = match constraint {
            Some(Constraint::Breaker | Constraint::Credit) => {
                let credit = out_of_credit.then_some(CREDIT_REFRESH);
                credit.into_iter().chain(tally.retry_in).min()
            }
            _ => None,
        };
        let models: BTreeSet<_> = snapshot
            .candidates
            .iter()
            .filter(|c| c.model.tasks.contains(&question.meta.task))
            .map(|c| c.model.id.as_str())
            .collect();
        let wanted = question.context.model.as_ref();
        Self {
            constraint,
            considered: snapshot.candidates.len(),
            counts: tally.counts,
            removed: tally.removed.iter().map(|r| r.record(snapshot)).collect(),
            retry_after,
            wanted_model: wanted
                .map_or(question.meta.model.as_str(), |model| model.as_str())
                .to_owned(),
            models: models
                .into_iter()
                .take(MAX_MODELS)
                .map(ToOwned::to_owned)
                .collect(),
            privacy: limits.privacy,
        }
    }

    /// The deadline was over before anything was decided.
    #[cold]
    pub(crate) fn expired(snapshot: &Snapshot) -> Self {
        Self {
            constraint: Some(Constraint::Deadline),
            considered: snapshot.candidates.len(),
            counts: [0; Constraint::COUNT],
            removed: Vec::new(),
            retry_after: None,
            wanted_model: String::new(),
            models: Vec::new(),
            privacy: Privacy::Any,
        }
    }

    fn class(&self) -> (ErrorClass, &'static str) {
        match self.constraint {
            Some(Constraint::Model | Constraint::Task) => (ErrorClass::NotFound, "MODEL_NOT_FOUND"),
            Some(Constraint::Context) => (ErrorClass::InvalidArgument, "INVALID_FIELD"),
            Some(
                Constraint::Privacy
                | Constraint::Residency
                | Constraint::Owner
                | Constraint::Scope
                | Constraint::Visited,
            ) => (ErrorClass::Forbidden, "PERMIT_REFUSED"),
            Some(Constraint::Budget | Constraint::Breaker | Constraint::Credit) => {
                (ErrorClass::Exhausted, "NO_CANDIDATE")
            }
            Some(Constraint::Deadline) => (ErrorClass::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            Some(
                Constraint::Report | Constraint::Stale | Constraint::Quality | Constraint::Metered,
            )
            | None => (ErrorClass::Unavailable, "NO_CANDIDATE"),
        }
    }

    fn advice(&self) -> String {
        let models = || match self.models.is_empty() {
            true => "no model here does that task".to_owned(),
            false => format!("the models for that task are {}", self.models.join(", ")),
        };
        match self.constraint {
            None => "no node is connected: start one, or name another endpoint".to_owned(),
            Some(Constraint::Model) => {
                format!("model `{}` is not offered: {}", self.wanted_model, models())
            }
            Some(Constraint::Task) => models(),
            Some(Constraint::Context) => {
                "shorten the content or `max_tokens`, or name a model with a longer context"
                    .to_owned()
            }
            Some(Constraint::Privacy) => format!(
                "privacy `{}` lets no connected node with that model see the content: connect a \
                 node of a nearer tier, or loosen `privacy` (a policy's own cannot be loosened)",
                self.privacy.as_str()
            ),
            Some(Constraint::Residency) => {
                "no node of that region is connected: check `residency`".to_owned()
            }
            Some(Constraint::Owner) => {
                "only devices of another owner are left: connect your own, or an edge node"
                    .to_owned()
            }
            Some(Constraint::Scope | Constraint::Visited) => {
                "the sender lets this node answer itself or not at all, or the request has taken \
                 its three hops"
                    .to_owned()
            }
            Some(Constraint::Report | Constraint::Stale) => {
                "the nodes' reports cannot be used: look at them with `tiermesh nodes`".to_owned()
            }
            Some(Constraint::Quality) => "no model reaches the policy's `least_quality`".to_owned(),
            Some(Constraint::Metered) => {
                "the policy sends nothing to a device on a metered network: ask at the device's \
                 own door, connect an edge node, or name another policy"
                    .to_owned()
            }
            Some(Constraint::Budget) => "raise `max_cost_usd` or lower `max_tokens`".to_owned(),
            Some(Constraint::Breaker) => "the nodes failed lately: try again later".to_owned(),
            Some(Constraint::Credit) => "the nodes are full: try again shortly".to_owned(),
            Some(Constraint::Deadline) => "give it more time: raise `deadline_ms`".to_owned(),
        }
    }

    fn removed_by(&self) -> String {
        let parts: Vec<_> = Constraint::ALL
            .into_iter()
            .zip(self.counts)
            .filter(|(_, count)| *count > 0)
            .map(|(constraint, count)| format!("{} {count}", constraint.code()))
            .collect();
        parts.join(", ")
    }
}

impl std::fmt::Display for NoCandidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let removed_by = self.removed_by();
        write!(f, "no candidate is left of {}", self.considered)?;
        if !removed_by.is_empty() {
            write!(f, " (removed by {removed_by})")?;
        }
        write!(f, ": {}", self.advice())
    }
}

impl std::error::Error for NoCandidate {}

impl From<NoCandidate> for InferError {
    fn from(none: NoCandidate) -> Self {
        let (class, code) = none.class();
        let mut error = Self::new(class, code, none.to_string());
        if let Some(constraint) = none.constraint {
            error = error.with("removed_by", constraint.code());
        }
        match none.constraint {
            Some(Constraint::Model) => {
                error = error
                    .with("model", none.wanted_model.as_str())
                    .with("allowed", none.models.join(", "));
            }
            Some(Constraint::Context) => error = error.with("field", "content"),
            _ => {}
        }
        error.retry_after = none.retry_after;
        error
    }
}

impl From<Box<NoCandidate>> for InferError {
    fn from(none: Box<NoCandidate>) -> Self {
        Self::from(*none)
    }
}
