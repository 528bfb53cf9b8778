//! One try at an answer: whom, with what context, and how it is judged.

use super::Shared;
use super::decided::Decided;
use crate::breaker::{Outcome, Ticket};
use futures::StreamExt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tiermesh_core::privacy::permit;
use tiermesh_core::{
    AttemptOutcome, CandidateState, Context, DecisionSummary, ErrorClass, Event, EventStream,
    InferError, NodeId, PermitScope, Request, Sealed, Tier, Time,
};
use tokio::time::Sleep;

/// An attempt whose stream is open.
pub(crate) struct Attempt {
    /// Its place in the plan.
    pub(crate) position: usize,
    pub(crate) stream: EventStream,
    /// Our `Accepted`, held back while a transit may name the real node.
    pub(crate) held: Option<Box<DecisionSummary>>,
    /// The receiver handed the request on, and told to whom.
    pub(crate) deeper: bool,
    /// The tiers the receiver may hand it on to.
    pub(crate) scope: PermitScope,
    ticket: Ticket,
    patience: Patience,
}

/// How long an attempt may take to its first token, and what was said of it.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    bound: Duration,
    predicted_p99: Duration,
    /// Time spent waiting for this node alone: what a slow client takes
    /// between two polls is not the node's.
    waited: Duration,
    /// The client's first-token deadline, where the node had said before the
    /// attempt that it would keep it.
    promised: Option<Time>,
}

/// An attempt that did not come to an answer, and who is to blame.
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

impl Attempt {
    /// Asks the choice at `position`.
    pub(crate) async fn open(
        shared: &Arc<Shared>,
        request: &Arc<Sealed<Request>>,
        decided: &Decided,
        position: usize,
    ) -> Result<Self, Failed> {
        let candidate = decided.candidate(position);
        permit(request, &candidate.destination()).map_err(|e| Failed::by_class(e.into()))?;
        if let Some(transit) = &candidate.transit {
            permit(request, transit).map_err(|e| Failed::by_class(e.into()))?;
        }
        let context = context_for(decided, position, &shared.own.node).map_err(Failed::by_class)?;
        let started = shared.clock.now();
        let node = shared.fleet.node(&candidate.node).ok_or_else(|| Failed {
            error: lost(&candidate.node, "is gone"),
            outcome: Outcome::Neutral,
        })?;
        let ticket = shared
            .breakers
            .admit(candidate, started)
            .map_err(|retry_in| Failed::by_class(breaker_is_open(&candidate.node, retry_in)))?;
        let mut patience = Patience::of(shared, request, decided, position, started);
        let wait = patience.left(&context, started);
        let scope = context.scope;
        let opened = tokio::time::timeout(wait, node.infer(Arc::clone(request), context)).await;
        let now = shared.clock.now();
        patience.waited += now.since(started);
        let failed = match opened {
            Ok(Ok(stream)) => {
                return Ok(Self {
                    position,
                    stream,
                    held: None,
                    deeper: false,
                    scope,
                    ticket,
                    patience,
                });
            }
            Ok(Err(refusal)) => patience.judge(refusal, false),
            Err(_) => patience.timed_out(decided, &candidate.node, now),
        };
        ticket.settle(failed.outcome, now);
        Err(failed)
    }

    /// The next event; an error also when the node ends or stalls instead.
    pub(crate) async fn next(
        &mut self,
        shared: &Shared,
        decided: &Decided,
        timer: &mut Pin<Box<Sleep>>,
        begun: bool,
    ) -> Result<Event, Failed> {
        loop {
            if let Some(event) = self.wait(shared, decided, timer, begun).await? {
                return Ok(event);
            }
        }
    }

    /// One wait for the next event; `None` when it is worth another.
    async fn wait(
        &mut self,
        shared: &Shared,
        decided: &Decided,
        timer: &mut Pin<Box<Sleep>>,
        begun: bool,
    ) -> Result<Option<Event>, Failed> {
        let started = shared.clock.now();
        let node = || decided.candidate(self.position).node.clone();
        if decided.context.deadline.is_over(started) {
            return Err(self.patience.deadline_over(begun));
        }
        let wait = if begun {
            let left = decided.context.deadline.remaining(started);
            left.map_or(shared.options.stall, |left| left.min(shared.options.stall))
        } else {
            self.patience.left(&decided.context, started)
        };
        let event = next_within(&mut self.stream, timer, wait).await;
        let now = shared.clock.now();
        if !begun {
            self.patience.waited += now.since(started);
        }
        match event {
            Some(Some(Ok(event))) => Ok(Some(event)),
            Some(Some(Err(error))) => Err(self.patience.judge(error, begun)),
            Some(None) => Err(Failed::by_class(lost(
                &node(),
                "ended its stream before its answer was complete",
            ))),
            None if decided.context.deadline.is_over(now) => {
                Err(self.patience.deadline_over(begun))
            }
            None if begun => Err(Failed::by_class(stalled(&node(), shared.options.stall))),
            None if self
                .patience
                .extend(shared, decided.candidate(self.position)) =>
            {
                Ok(None)
            }
            None => Err(self.patience.timed_out(decided, &node(), now)),
        }
    }

    /// How an answer that came to its end is judged: a first token later than
    /// promised is a failure all the same.
    pub(crate) fn verdict(&self, first_token: Option<Time>) -> Outcome {
        let (promised, waited) = (self.patience.promised, self.patience.waited);
        match (promised, first_token) {
            (Some(due), Some(at)) if at > due && waited > self.patience.predicted_p99 => {
                Outcome::Failure
            }
            _ => Outcome::Success,
        }
    }

    /// Ends the attempt: the stream goes first, then the breaker hears.
    pub(crate) fn settle(self, outcome: Outcome, now: Time) {
        drop(self.stream);
        self.ticket.settle(outcome, now);
    }
}

impl Patience {
    fn of(
        shared: &Shared,
        request: &Sealed<Request>,
        decided: &Decided,
        position: usize,
        started: Time,
    ) -> Self {
        let estimate = &decided.plan.choices[position].estimate;
        let predicted_p99 = Duration::from_secs_f64(estimate.first_token_p99_ms / 1e3);
        let options = &shared.options;
        let mut bound = predicted_p99
            .saturating_mul(options.first_token_factor)
            .max(options.first_token_floor);
        if decided.choice(position + 1).is_none() {
            bound = bound.max(options.last_first_token);
        }
        // Only the client's own deadline is a promise to anybody.
        let asked = request.meta().first_token.is_some();
        let due = decided.context.deadline.first_token.filter(|_| asked);
        Self {
            bound,
            predicted_p99,
            waited: Duration::ZERO,
            promised: due.filter(|due| due.since(started) > predicted_p99),
        }
    }

    /// A node that is there and busy is not one that stalls: as long as its
    /// present queue explains the wait, it keeps its place in that queue. Time
    /// and again it must explain more than it has been waited for, and never
    /// more than a last choice gets.
    fn extend(&mut self, shared: &Shared, asked: &CandidateState) -> bool {
        let snapshot = shared.fleet.snapshot();
        let present = snapshot
            .candidates
            .iter()
            .find(|c| c.node == asked.node && c.model.id == asked.model.id);
        let Some(present) = present.filter(|c| c.load > 0.0) else {
            return false;
        };
        let p99_s = f64::from(present.state.first_token_p99_ms) / 1e3;
        let options = &shared.options;
        let bound = Duration::try_from_secs_f64(p99_s)
            .unwrap_or_default()
            .saturating_mul(options.first_token_factor)
            .min(options.last_first_token);
        let explains = bound > self.bound;
        self.bound = self.bound.max(bound);
        explains
    }

    fn left(&self, context: &Context, now: Time) -> Duration {
        let left = self.bound.saturating_sub(self.waited);
        let total = context.deadline.remaining(now);
        total.map_or(left, |total| left.min(total))
    }

    /// An error that the node told.
    fn judge(&self, error: InferError, begun: bool) -> Failed {
        match error.class {
            ErrorClass::DeadlineExceeded => self.deadline_over(begun),
            _ => Failed::by_class(error),
        }
    }

    /// The first token did not come in the time there was.
    fn timed_out(&self, decided: &Decided, node: &NodeId, now: Time) -> Failed {
        if decided.context.deadline.is_over(now) {
            return self.deadline_over(false);
        }
        Failed::by_class(stalled(node, self.bound))
    }

    /// The whole request's time is over. Before the first token that is the
    /// node's fault if it was waited for longer than it had predicted; after
    /// it, long answers are nobody's.
    fn deadline_over(&self, begun: bool) -> Failed {
        let blamed = !begun && self.waited > self.predicted_p99;
        Failed {
            error: InferError::deadline_exceeded(),
            outcome: if blamed {
                Outcome::Failure
            } else {
                Outcome::Neutral
            },
        }
    }
}

/// The context a choice is asked with.
fn context_for(decided: &Decided, position: usize, own: &NodeId) -> Result<Context, InferError> {
    let candidate = decided.candidate(position);
    let mut context = decided.context.clone();
    context.model = Some(candidate.model.id.clone());
    context.scope = scope_for(decided, candidate);
    if &candidate.node != own {
        context.via = context.via.then(own.clone())?;
    }
    Ok(context)
}

/// What the receiver may do: answer itself; behind a transit, the transit
/// chooses within the plan's tiers that lie behind it; a cloud node hands on
/// to the cloud. Never more than the sender was allowed.
fn scope_for(decided: &Decided, candidate: &CandidateState) -> PermitScope {
    let wider = match (&candidate.transit, candidate.tier) {
        (Some(transit), tier) => decided
            .plan
            .choices
            .iter()
            .map(|choice| choice.candidate(&decided.snapshot))
            .filter(|other| {
                other
                    .transit
                    .as_ref()
                    .is_some_and(|t| t.node == transit.node)
            })
            .fold(PermitScope::only(tier), |scope, other| {
                scope.with(other.tier)
            }),
        (None, Tier::Cloud) => PermitScope::only(Tier::Cloud),
        (None, Tier::Device | Tier::Mec) => PermitScope::NONE,
    };
    wider.and(decided.context.scope)
}

/// The stream's next item, or `None` after `wait`. A ready item wins, and
/// then the timer is not touched.
async fn next_within(
    stream: &mut EventStream,
    timer: &mut Pin<Box<Sleep>>,
    wait: Duration,
) -> Option<Option<Result<Event, InferError>>> {
    let mut armed = false;
    poll_fn(|cx| {
        if let Poll::Ready(item) = stream.poll_next_unpin(cx) {
            return Poll::Ready(Some(item));
        }
        if !armed {
            timer.as_mut().reset(tokio::time::Instant::now() + wait);
            armed = true;
        }
        timer.as_mut().poll(cx).map(|()| None)
    })
    .await
}

fn lost(node: &NodeId, what: &str) -> InferError {
    InferError::new(
        ErrorClass::Unavailable,
        "NODE_LOST",
        format!("node `{node}` {what}"),
    )
}

fn stalled(node: &NodeId, after: Duration) -> InferError {
    InferError::new(
        ErrorClass::Unavailable,
        "STREAM_STALLED",
        format!("node `{node}` said nothing for {} ms", after.as_millis()),
    )
}

fn breaker_is_open(node: &NodeId, retry_in: Duration) -> InferError {
    InferError::new(
        ErrorClass::Exhausted,
        "NO_CANDIDATE",
        format!("node `{node}` failed lately and is left alone for now"),
    )
    .with("removed_by", "breaker_open")
    .retry_after(retry_in)
}
