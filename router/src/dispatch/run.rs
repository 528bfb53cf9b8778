//! One request from its decision to its last event.

use super::Shared;
use super::attempt::{Attempt, Failed};
use super::decided::Decided;
use super::relay::{self, Ending, Sequence};
use futures::stream;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    Attempt as AttemptRecord, DecisionSummary, Done, Event, EventStream, InferError, Reason,
    ReasonRecord, Refusal, Request, Sealed, Time,
};
use tokio::time::Sleep;

/// A request that is being answered. It owns the attempt under way: dropping
/// it drops the node's stream at once, and the breaker's ticket is neutral.
pub(crate) struct Run {
    shared: Arc<Shared>,
    request: Arc<Sealed<Request>>,
    decided: Decided,
    next_position: usize,
    current: Option<Attempt>,
    /// Attempts that failed.
    earlier: Vec<AttemptRecord>,
    /// Events for the client, at most two: an `Accepted` and what follows.
    outbox: VecDeque<Event>,
    sequence: Sequence,
    first_token: Option<Time>,
    timer: Pin<Box<Sleep>>,
}

impl Run {
    /// Opens the first choice that takes the request, and returns its events.
    pub(crate) async fn start(
        shared: Arc<Shared>,
        request: Arc<Sealed<Request>>,
        decided: Decided,
    ) -> Result<EventStream, Refusal> {
        let strictest = decided.limits.privacy;
        let request = if strictest == request.meta().privacy {
            request
        } else {
            // From here on, permits follow the policy's privacy too.
            Arc::new(request.tightened(strictest))
        };
        let said = decided.context.continuation.emitted_ids.len();
        let mut run = Self {
            shared,
            request,
            decided,
            next_position: 0,
            current: None,
            earlier: Vec::new(),
            outbox: VecDeque::new(),
            sequence: Sequence::after(said),
            first_token: None,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        };
        run.open_next().await?;
        Ok(Box::pin(stream::unfold(
            Some(Box::new(run)),
            |run| async move {
                let mut run = run?;
                let item = run.next().await;
                let goes_on = matches!(&item, Ok(event) if !matches!(event, Event::Done(_)));
                Some((item, goes_on.then_some(run)))
            },
        )))
    }

    /// The next event for the client.
    async fn next(&mut self) -> Result<Event, InferError> {
        loop {
            if let Some(event) = self.outbox.pop_front() {
                return Ok(event);
            }
            let begun = self.first_token.is_some();
            let attempt = self
                .current
                .as_mut()
                .expect("a run without an attempt has ended or has events");
            let event = attempt
                .next(&self.shared, &self.decided, &mut self.timer, begun)
                .await;
            let relayed = match event {
                Ok(event) => self.relay(event),
                Err(failed) => Err(failed),
            };
            if let Err(failed) = relayed {
                self.recover(failed).await?;
            }
        }
    }

    /// The attempt under way failed. Before the first token the next choice
    /// takes over; after it, the error ends the stream.
    ///
    /// This is where a continuation attaches: with `self.sequence` and the
    /// tokens said so far, another node could go on behind a `Seam`.
    async fn recover(&mut self, failed: Failed) -> Result<(), InferError> {
        let attempt = self
            .current
            .take()
            .expect("only an attempt under way fails");
        let position = attempt.position;
        attempt.settle(failed.outcome, self.shared.clock.now());
        self.outbox.clear();
        let goes_on = self.first_token.is_none() && failed.error.class.another_may_answer();
        self.note(position, &failed);
        if !goes_on || self.decided.choice(self.next_position).is_none() {
            return Err(self.with_history(failed.error));
        }
        self.open_next().await
    }

    /// Opens the next choice that takes the request.
    async fn open_next(&mut self) -> Result<(), InferError> {
        loop {
            let position = self.next_position;
            self.next_position += 1;
            let opened = Attempt::open(&self.shared, &self.request, &self.decided, position).await;
            let failed = match opened {
                Ok(attempt) => {
                    self.accept(attempt);
                    return Ok(());
                }
                Err(failed) => failed,
            };
            self.note(position, &failed);
            let another = failed.error.class.another_may_answer();
            if !another || self.decided.choice(self.next_position).is_none() {
                return Err(self.with_history(failed.error));
            }
        }
    }

    /// Tells the client where the request went; behind a transit not yet, for
    /// the transit may decide once more.
    fn accept(&mut self, mut attempt: Attempt) {
        let summary = Box::new(self.summary(attempt.position));
        if self.decided.candidate(attempt.position).transit.is_some() {
            attempt.held = Some(summary);
        } else {
            self.outbox.push_back(Event::Accepted(summary));
        }
        self.current = Some(attempt);
    }

    fn summary(&self, position: usize) -> DecisionSummary {
        let own = &self.shared.own.node;
        let mut summary = self.decided.summary(self.request.meta(), own, position);
        if !self.earlier.is_empty() {
            summary.reasons.push(ReasonRecord {
                node: Some(summary.node.clone()),
                model: Some(summary.model.clone()),
                reason: Reason::FailedOver,
            });
        }
        summary
    }

    /// Takes one event of the node's, and queues what the client gets of it.
    fn relay(&mut self, event: Event) -> Result<(), Failed> {
        let attempt = self.current.as_mut().expect("it just gave an event");
        let position = attempt.position;
        let asked = self.decided.candidate(position);
        if let Event::Accepted(theirs) = event {
            return self.relay_decision(*theirs);
        }
        match &event {
            Event::Tokens { first_seq, items } => {
                self.sequence.take(&asked.node, *first_seq, items)?;
            }
            Event::Seam(seam) => self.sequence.expect(&asked.node, seam.seq)?,
            Event::Accepted(_) | Event::Result(_) | Event::Done(_) => {}
        }
        if let Some(held) = attempt.held.take() {
            self.outbox.push_back(Event::Accepted(held));
        }
        match event {
            Event::Done(done) => {
                let done = self.finish(*done);
                self.outbox.push_back(Event::Done(Box::new(done)));
            }
            event => {
                if matches!(event, Event::Tokens { .. } | Event::Result(_)) {
                    let now = self.shared.clock.now();
                    self.first_token.get_or_insert(now);
                }
                self.outbox.push_back(event);
            }
        }
        Ok(())
    }

    /// The receiver tells where the request is. Where it is who we asked, the
    /// client knows or is told now; where it handed the request on, the client
    /// hears of the real node.
    fn relay_decision(&mut self, theirs: DecisionSummary) -> Result<(), Failed> {
        let attempt = self.current.as_mut().expect("it just gave an event");
        let position = attempt.position;
        let asked = self.decided.candidate(position);
        let held = attempt.held.take();
        if relay::is_the_same(asked, &theirs) && !attempt.deeper {
            self.outbox.extend(held.map(Event::Accepted));
            return Ok(());
        }
        let privacy = self.decided.limits.privacy;
        relay::may_hand_on(asked, attempt.scope, privacy, &theirs)?;
        attempt.deeper = true;
        let rtt_ms = asked.rtt_ms;
        let ours = self.summary(position);
        let merged = relay::merged(ours, theirs, rtt_ms);
        self.outbox.push_back(Event::Accepted(Box::new(merged)));
        Ok(())
    }

    fn finish(&mut self, done: Done) -> Done {
        let now = self.shared.clock.now();
        let attempt = self.current.take().expect("it just ended");
        let arrived = self.decided.at;
        let ending = Ending {
            asked: self.decided.candidate(attempt.position),
            deeper: attempt.deeper,
            earlier: std::mem::take(&mut self.earlier),
            first_token: self.first_token.map(|at| at.since(arrived)),
            total: now.since(arrived),
        };
        let done = ending.rewrite(done);
        let verdict = attempt.verdict(self.first_token);
        attempt.settle(verdict, now);
        done
    }

    fn note(&mut self, position: usize, failed: &Failed) {
        let asked = self.decided.candidate(position);
        tracing::info!(
            request_id = %self.request.meta().request_id,
            node = %asked.node,
            tier = %asked.tier,
            reason = failed.error.reason,
            error = %failed.error,
            "an attempt did not answer"
        );
        let line = relay::attempt(
            asked,
            failed.outcome_for_client(),
            Some(failed.error.reason),
        );
        self.earlier.push(line);
    }

    /// The last error, and in few words what came before it.
    fn with_history(&self, mut error: InferError) -> InferError {
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
