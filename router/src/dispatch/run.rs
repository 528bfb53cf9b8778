//! One request from its decision to its last event.

use super::attempt::{Attempt, Failed, Joined, Step};
use super::decided::Decided;
use super::elsewhere::{Excluded, Place};
use super::race::Hedge;
use super::relay::{self, Ending};
use super::said::Said;
use super::{Shared, bill};
use crate::breaker::Outcome;
use crate::budget::Booking;
use futures::stream;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::Duration;
use tiermesh_core::{
    Attempt as AttemptRecord, DecisionSummary, Done, Event, EventStream, InferError, Reason,
    ReasonRecord, Refusal, Request, Sealed, Seam, SeamKind, Time, Token, Usd,
};

/// A request that is being answered. It owns the attempts under way: dropping
/// it drops their streams at once, and their tickets are neutral.
pub(crate) struct Run {
    pub(super) shared: Arc<Shared>,
    pub(super) request: Arc<Sealed<Request>>,
    /// The decision the request came in with.
    pub(super) first: Arc<Decided>,
    /// Choices of the first plan that were asked.
    pub(super) next_position: usize,
    pub(super) current: Option<Attempt>,
    /// Asked beside the current one: a hedge, or a rescue.
    pub(super) rival: Option<Attempt>,
    pub(super) hedge: Hedge,
    pub(super) said: Said,
    pub(super) excluded: Excluded,
    /// Attempts so far.
    pub(super) tries: u32,
    pub(super) seams: u32,
    /// Waits for a place since the last token: whoever asks each time to come
    /// back in a second must not keep the client for as many as it is tried.
    pub(super) waited: Duration,
    /// Attempts that ended without the answer.
    pub(super) earlier: Vec<AttemptRecord>,
    /// What broke the answer last, once it had begun.
    pub(super) broke: Option<InferError>,
    /// There is no money for another token: the answer ends behind this one.
    overspent: Option<InferError>,
    /// What they cost.
    pub(super) spent: Usd,
    /// The ledger's entry of the whole request.
    pub(super) booking: Booking,
    /// Events for the client, at most a handful: an `Accepted`, a seam and
    /// what follows.
    outbox: VecDeque<Event>,
    pub(super) first_token: Option<Time>,
    pub(super) opened: bool,
    /// The journal has heard what became of it.
    pub(super) told: bool,
}

/// Who was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Current,
    Rival,
}

pub(super) enum Heard {
    Step(Lane, Result<Step, Failed>),
    HedgeIsDue,
}

impl Run {
    /// Opens the first choice that takes the request, and returns its events.
    pub(crate) async fn start(
        shared: Arc<Shared>,
        request: Arc<Sealed<Request>>,
        mut decided: Decided,
    ) -> Result<EventStream, Refusal> {
        let turn = decided.turn.take();
        let strictest = decided.limits.privacy;
        let request = if strictest == request.meta().privacy {
            request
        } else {
            // From here on, permits follow the policy's privacy too.
            Arc::new(request.tightened(strictest))
        };
        shared.retries.earn();
        shared.hedges.earn();
        if let Some(hedge) = &decided.policy.hedge {
            shared.shares.earn(&decided.policy.name, hedge.max_share);
        }
        let now = shared.clock.now();
        let booking = bill::open(&shared, request.meta(), &decided, now)?;
        shared.want(&decided);
        let mut run = Self {
            booking,
            hedge: Hedge::of(&shared, &decided),
            said: Said::before(&decided.context),
            first: Arc::new(decided),
            shared,
            request,
            next_position: 0,
            current: None,
            rival: None,
            excluded: Excluded::default(),
            tries: 0,
            seams: 0,
            waited: Duration::ZERO,
            earlier: Vec::new(),
            broke: None,
            overspent: None,
            spent: Usd::ZERO,
            outbox: VecDeque::new(),
            first_token: None,
            opened: false,
            told: false,
        };
        run.begin().await?;
        drop(turn);
        while !run.opened {
            run.turn().await?;
        }
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
            if let Some(error) = self.overspent.take() {
                return Err(error);
            }
            self.turn().await?;
        }
    }

    /// Waits for whoever speaks next, and does what follows from it.
    async fn turn(&mut self) -> Result<(), InferError> {
        let failed = match poll_fn(|cx| self.poll_lanes(cx)).await {
            Heard::HedgeIsDue => {
                self.open_hedge();
                return Ok(());
            }
            Heard::Step(Lane::Rival, step) => match self.rival_did(step) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            },
            Heard::Step(Lane::Current, Err(failed)) => failed,
            Heard::Step(Lane::Current, Ok(Step::Opened)) => {
                self.opened = true;
                self.announce();
                return Ok(());
            }
            Heard::Step(Lane::Current, Ok(Step::Quiet)) => {
                self.open_rescue();
                return Ok(());
            }
            Heard::Step(Lane::Current, Ok(Step::Event(event))) => match self.relay(event) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            },
        };
        self.recover(failed).await
    }

    fn poll_lanes(&mut self, cx: &mut Poller<'_>) -> Poll<Heard> {
        if let Some(current) = &mut self.current
            && let Poll::Ready(step) = current.poll(cx, &self.shared)
        {
            return Poll::Ready(Heard::Step(Lane::Current, step));
        }
        if let Some(rival) = &mut self.rival
            && let Poll::Ready(step) = rival.poll(cx, &self.shared)
        {
            return Poll::Ready(Heard::Step(Lane::Rival, step));
        }
        self.hedge.poll(cx).map(|()| Heard::HedgeIsDue)
    }

    /// Asks somebody to take the request, or to go on with it.
    pub(super) fn ask(&mut self, place: &Place) -> Result<Attempt, Failed> {
        self.tries += 1;
        let joined = Joined {
            kind: place.kind,
            said: self.said.continuation(place.kind),
        };
        let (decided, position) = (&place.decided, place.position);
        if !Arc::ptr_eq(decided, &self.first) {
            self.shared.record(self.request.meta(), decided);
        }
        Attempt::ask(&self.shared, &self.request, decided, position, joined)
    }

    /// Tells the client where the request went; behind a transit not yet, for
    /// the transit may decide once more. After the first token the seam tells.
    fn announce(&mut self) {
        let Some(current) = &self.current else { return };
        if self.has_spoken() {
            return;
        }
        let summary = Box::new(self.summary(current));
        let transit = current.asked().transit.is_some();
        match &mut self.current {
            Some(current) if transit => current.held = Some(summary),
            _ => self.outbox.push_back(Event::Accepted(summary)),
        }
    }

    /// Whether the client has something of the answer.
    pub(super) fn has_spoken(&self) -> bool {
        self.first_token.is_some()
    }

    pub(super) fn summary(&self, attempt: &Attempt) -> DecisionSummary {
        let own = &self.shared.own;
        let decided = &attempt.decided;
        let mut summary = decided.summary(self.request.meta(), own, attempt.position);
        if !self.earlier.is_empty() {
            summary.reasons.push(ReasonRecord {
                node: Some(summary.node.clone()),
                model: Some(summary.model.clone()),
                reason: Reason::FailedOver,
            });
        }
        summary
    }

    /// Takes one event of the current node's, and queues what the client gets
    /// of it.
    pub(super) fn relay(&mut self, event: Event) -> Result<(), Failed> {
        match event {
            Event::Accepted(theirs) => self.relay_decision(*theirs),
            Event::Tokens { first_seq, items } => self.relay_tokens(first_seq, items),
            Event::Seam(seam) => self.relay_seam(seam),
            Event::Result(result) => {
                self.speak();
                self.drop_hedge();
                self.first_token.get_or_insert(self.shared.clock.now());
                self.outbox.push_back(Event::Result(result));
                Ok(())
            }
            Event::Done(done) => {
                self.speak();
                let done = self.finish(*done);
                self.outbox.push_back(Event::Done(Box::new(done)));
                Ok(())
            }
        }
    }

    fn relay_tokens(&mut self, first_seq: u64, items: Vec<Token>) -> Result<(), Failed> {
        let current = self.current.as_mut().expect("it just gave an event");
        if let Some((first_seq, items)) = current.take(first_seq, items, self.said.tokens())? {
            self.tell(first_seq, items);
        }
        Ok(())
    }

    /// Tokens that the client does not have, from the current node.
    pub(super) fn tell(&mut self, first_seq: u64, items: Vec<Token>) {
        self.speak();
        self.drop_hedge();
        if self.first_token.is_none() {
            self.first_token = Some(self.shared.clock.now());
        }
        self.said.add(&items);
        self.waited = Duration::ZERO;
        self.outbox.push_back(Event::Tokens {
            first_seq: first_seq + self.said.discarded(),
            items,
        });
        // The money for the next token is found before it is asked for.
        self.overspent = self.pay().err();
        self.watch_the_deadline();
    }

    fn relay_seam(&mut self, mut seam: Seam) -> Result<(), Failed> {
        let current = self.current.as_ref().expect("it just gave an event");
        relay::belongs(&current.asked().node, self.said.tokens(), seam.seq)?;
        self.speak();
        self.said.seam_within(seam.kind);
        seam.seq += self.said.discarded();
        self.outbox.push_back(Event::Seam(seam));
        Ok(())
    }

    /// The current node speaks for the first time: the client is told of it,
    /// and of the seam where there is one.
    pub(super) fn speak(&mut self) {
        let begun = self.has_spoken();
        let current = self.current.as_mut().expect("it just gave an event");
        if std::mem::replace(&mut current.speaks, true) {
            return;
        }
        let (asked, kind) = (current.decided.candidate(current.position), current.kind);
        let seq = self.said.tokens() + self.said.discarded();
        let from = self.said.node().cloned();
        self.said.goes_on(asked, kind);
        let mut to = asked.node.clone();
        if let Some((node, same_model)) = current.handed_to.take() {
            to.clone_from(&node);
            self.said.handed_on(node, same_model);
        }
        let held = current.held.take();
        if !begun {
            self.outbox.extend(held.map(Event::Accepted));
            return;
        }
        self.seams += 1;
        if let (Some(from), Some(kind)) = (from, kind) {
            let seam = Seam {
                seq,
                from,
                to,
                kind,
            };
            self.outbox.push_back(Event::Seam(seam));
        }
    }

    /// The receiver tells where the request is. Where it is who we asked, the
    /// client knows or is told now; where it handed the request on, the client
    /// hears of the real node.
    fn relay_decision(&mut self, theirs: DecisionSummary) -> Result<(), Failed> {
        let begun = self.has_spoken();
        let current = self.current.as_mut().expect("it just gave an event");
        let asked = current.decided.candidate(current.position);
        if relay::is_the_same(asked, &theirs) && !current.deeper {
            let held = current.held.take().filter(|_| !begun);
            self.outbox.extend(held.map(Event::Accepted));
            return Ok(());
        }
        let privacy = self.first.limits.privacy;
        relay::may_hand_on(asked, current.scope, privacy, &theirs)?;
        let handed_to = (theirs.node.clone(), asked.model.id == theirs.model);
        let rtt_ms = asked.rtt_ms;
        (current.deeper, current.held) = (true, None);
        // How fast others are is not this one's to be known by.
        current.sight = None;
        if current.speaks {
            self.said.handed_on(handed_to.0, handed_to.1);
        } else {
            current.handed_to = Some(handed_to);
        }
        if !begun {
            let current = self.current.as_ref().expect("it just gave an event");
            let merged = relay::merged(self.summary(current), theirs, rtt_ms);
            self.outbox.push_back(Event::Accepted(Box::new(merged)));
        }
        Ok(())
    }

    fn finish(&mut self, done: Done) -> Done {
        let now = self.shared.clock.now();
        if let Some(rival) = self.rival.take() {
            self.cancelled(rival, Outcome::Neutral, "OUTRUN");
        }
        let mut attempt = self.current.take().expect("it just ended");
        let arrived = self.first.at;
        self.learn(&mut attempt, &done, now);
        let ending = Ending {
            asked: attempt.asked(),
            deeper: attempt.deeper,
            from: attempt.from,
            spent: self.spent,
            earlier: std::mem::take(&mut self.earlier),
            first_token: self.first_token.map(|at| at.since(arrived)),
            total: now.since(arrived),
        };
        let mut done = ending.rewrite(done);
        if matches!(attempt.kind, Some(SeamKind::Exact | SeamKind::SameModel)) {
            // What it read beside the prompt was the answer itself.
            done.usage.input_tokens = done.usage.input_tokens.saturating_sub(attempt.from);
        }
        let verdict = attempt.verdict(self.first_token);
        let node = Some(attempt.asked().node.clone());
        attempt.settle(&self.shared, verdict);
        self.booking.settle(done.cost, now);
        self.tell_the_journal(node, Some(done.total), done.cost);
        done
    }

    pub(super) fn clear_outbox(&mut self) {
        self.outbox.clear();
    }
}
