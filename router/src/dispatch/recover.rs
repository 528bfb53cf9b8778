//! What happens when the current node fails: somebody else takes the request
//! before its first token, and goes on with it after.

use super::attempt::{Attempt, Failed};
use super::elsewhere::{Place, Search};
use super::relay;
use super::run::Run;
use crate::breaker::Outcome;
use std::sync::Arc;
use tiermesh_core::{Attempt as AttemptRecord, AttemptOutcome, Continuity, ErrorClass, InferError};

impl Run {
    /// Asks the first choice of the plan.
    pub(super) async fn begin(&mut self) -> Result<(), InferError> {
        let context = &self.first.context;
        if context.continuation.speaker.is_some() {
            // It comes from somewhere else, and who can go on is ours to find.
            let none = InferError::unavailable("nobody can go on with the answer");
            return self.go_on(none).await;
        }
        let place = self.choice_of_the_plan();
        let place = place.expect("a plan has at least one choice");
        match self.ask(&place) {
            Ok(attempt) => {
                self.current = Some(attempt);
                Ok(())
            }
            Err(failed) => {
                self.note(&place, &failed);
                self.go_on(failed.error).await
            }
        }
    }

    /// The next choice of the plan the request came in with.
    fn choice_of_the_plan(&mut self) -> Option<Place> {
        loop {
            let position = self.next_position;
            self.first.choice(position)?;
            self.next_position += 1;
            let now = self.shared.clock.now();
            if self
                .excluded
                .leaves(self.first.candidate(position), None, now)
            {
                return Some(Place {
                    decided: Arc::clone(&self.first),
                    position,
                    kind: None,
                });
            }
        }
    }

    /// The current attempt failed.
    pub(super) async fn recover(&mut self, failed: Failed) -> Result<(), InferError> {
        let attempt = self
            .current
            .take()
            .expect("only an attempt under way fails");
        self.clear_outbox();
        if attempt.speaks && !self.said.is_empty() {
            self.broke = Some(failed.error.clone());
        }
        let failed = self.fell(attempt, failed);
        if failed.error.class.another_may_answer() && self.rival.is_some() {
            // Somebody is on the way already.
            self.promote();
            return Ok(());
        }
        if failed.outcome == Outcome::Failure && self.said.is_empty() {
            self.may_retry(&failed)?;
        }
        self.go_on(failed.error).await
    }

    /// Books an attempt that failed, and keeps its node out.
    pub(super) fn fell(&mut self, attempt: Attempt, failed: Failed) -> Failed {
        self.book(&attempt);
        let place = Place {
            decided: Arc::clone(&attempt.decided),
            position: attempt.position,
            kind: attempt.kind,
        };
        attempt.settle(&self.shared, failed.outcome);
        self.note(&place, &failed);
        failed
    }

    /// Retries are a share of the traffic, so that trouble does not multiply.
    fn may_retry(&self, failed: &Failed) -> Result<(), InferError> {
        let now = self.shared.clock.now();
        let Err(wait) = self.shared.retries.take(now) else {
            return Ok(());
        };
        let mut error = self.with_history(failed.error.clone());
        error.message = format!(
            "{}; it is not tried elsewhere, for too much is being retried already",
            error.message
        );
        error.retry_after = Some(error.retry_after.map_or(wait, |told| told.max(wait)));
        Err(error)
    }

    /// Finds somebody who takes the request from here.
    pub(super) async fn go_on(&mut self, mut error: InferError) -> Result<(), InferError> {
        let mut round = 0;
        loop {
            if !self.may_go_on(&error) {
                return Err(self.with_history(error));
            }
            let place = match self.elsewhere() {
                Ok(place) => place,
                Err(none) => {
                    let wait = self.search().wait(&none, round, self.waited);
                    let Some(wait) = wait else {
                        if self.earlier.is_empty() {
                            return Err(none);
                        }
                        error.retry_after = error.retry_after.or(none.retry_after);
                        return Err(self.with_history(error));
                    };
                    round += 1;
                    self.waited += wait;
                    tokio::time::sleep(wait).await;
                    continue;
                }
            };
            match self.ask(&place) {
                Ok(attempt) => {
                    self.current = Some(attempt);
                    return Ok(());
                }
                Err(failed) => {
                    self.note(&place, &failed);
                    error = failed.error;
                }
            }
        }
    }

    fn may_go_on(&self, error: &InferError) -> bool {
        let options = &self.shared.options;
        let over = self.first.context.deadline.is_over(self.shared.clock.now());
        let broken = !self.said.is_empty();
        // What one cannot go on from, another may.
        let another = match error.class {
            ErrorClass::InvalidArgument => broken,
            class => class.another_may_answer(),
        };
        let goes_on = another && !over;
        let accepted = !broken
            || (self.request.meta().continuity != Continuity::Fail
                && self.seams < options.max_seams);
        goes_on && accepted && self.tries < options.max_attempts
    }

    fn elsewhere(&mut self) -> Result<Place, InferError> {
        if self.said.is_empty()
            && !self.said.is_pinned()
            && let Some(place) = self.choice_of_the_plan()
        {
            return Ok(place);
        }
        self.search().now()
    }

    pub(super) fn search(&self) -> Search<'_> {
        Search {
            shared: &self.shared,
            meta: self.request.meta(),
            decided: &self.first,
            excluded: &self.excluded,
            said: &self.said,
        }
    }

    /// An attempt that lost a race, or was too slow.
    pub(super) fn cancelled(&mut self, attempt: Attempt, outcome: Outcome, why: &str) {
        self.book(&attempt);
        let line = relay::attempt(attempt.asked(), AttemptOutcome::Cancelled, Some(why));
        self.remember(line);
        attempt.settle(&self.shared, outcome);
    }

    pub(super) fn note(&mut self, place: &Place, failed: &Failed) {
        let asked = place.decided.candidate(place.position);
        tracing::info!(
            request_id = %self.request.meta().request_id,
            node = %asked.node,
            tier = %asked.tier,
            reason = failed.error.reason,
            error = %failed.error,
            said = self.said.tokens(),
            "an attempt did not answer"
        );
        self.excluded.add(asked, failed, self.shared.clock.now());
        let outcome = failed.outcome_for_client();
        let line = relay::attempt(asked, outcome, Some(failed.error.reason));
        self.remember(line);
    }

    fn remember(&mut self, line: AttemptRecord) {
        // Attempts are bounded; this holds it even if that ever changes.
        if self.earlier.len() < 64 {
            self.earlier.push(line);
        }
    }

    /// The last error, and in few words what came before it. Where an answer
    /// had begun, the error that broke it says more than why nobody goes on.
    fn with_history(&self, error: InferError) -> InferError {
        let refused = !matches!(
            error.class,
            ErrorClass::DeadlineExceeded | ErrorClass::Cancelled
        );
        let mut error = match &self.broke {
            Some(broke) if refused => broke.clone(),
            _ => error,
        };
        // To whoever chooses a node this is a refusal like others; to the
        // client, whom nobody could serve in time, it is its deadline.
        if error.reason == "DEADLINE_TOO_SHORT" {
            error.class = ErrorClass::DeadlineExceeded;
        }
        let Some((_, before)) = self.earlier.split_last().filter(|(_, b)| !b.is_empty()) else {
            return error;
        };
        let tried: Vec<_> = before
            .iter()
            .map(|a| format!("`{}` {}", a.node, a.reason.as_deref().unwrap_or("")))
            .collect();
        error.message = format!("{}; tried before: {}", error.message, tried.join(", "));
        error
    }
}
