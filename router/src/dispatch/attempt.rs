//! One try at an answer: whom, with what context, and how it is judged.

use super::Shared;
use super::context::context_for;
use super::decided::Decided;
pub(crate) use super::failed::Failed;
use super::learn::follow;
use super::patience::{Liveness, Pace, Patience, stalled};
use super::relay;
use crate::breaker::{Outcome, Ticket};
use crate::memory::Sight;
use futures::StreamExt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll, ready};
use std::time::Duration;
use tiermesh_core::privacy::permit;
use tiermesh_core::{
    CandidateState, Continuation, DecisionSummary, ErrorClass, Event, EventStream, InferError,
    NodeId, PermitScope, Refusal, Request, Sealed, SeamKind, Time, Token,
};
use tokio::time::Sleep;

/// Bytes of text that count as a token where nobody tells: English has four,
/// other languages fewer, and what is reserved should rather be too much.
const BYTES_A_TOKEN: u64 = 3;

/// One node that was asked. Dropping it drops the node's stream at once, and
/// the breaker's ticket is neutral.
pub(crate) struct Attempt {
    pub(crate) decided: Arc<Decided>,
    /// Its place in the plan.
    pub(crate) position: usize,
    /// Our `Accepted`, held back while a transit may name the real node, or
    /// while another may be faster.
    pub(crate) held: Option<Box<DecisionSummary>>,
    /// The receiver handed the request on, and told to whom.
    pub(crate) deeper: bool,
    /// To whom, and whether it is the model we asked for, until it speaks.
    pub(crate) handed_to: Option<(NodeId, bool)>,
    /// The tiers the receiver may hand it on to.
    pub(crate) scope: PermitScope,
    /// How it goes on; none where nothing was said before.
    pub(crate) kind: Option<SeamKind>,
    /// Tokens the client had when it was asked.
    pub(crate) from: u64,
    /// The number of its next token, as it counts.
    pub(crate) next: u64,
    /// Text in tokens without an id, in bytes.
    untold_bytes: u64,
    /// It spoke to the client.
    pub(crate) speaks: bool,
    /// What its answer teaches; none where nobody learns.
    pub(crate) sight: Option<Sight>,
    source: Source,
    ticket: Ticket,
    patience: Patience,
    pace: Pace,
    silence: Silence,
    timer: Option<Pin<Box<Sleep>>>,
    timer_at: Option<Time>,
}

type Opening = Pin<Box<dyn Future<Output = Result<EventStream, Refusal>> + Send>>;

enum Source {
    Opening(Opening),
    Open(EventStream),
}

/// What an attempt does next.
pub(crate) enum Step {
    /// The node took the request.
    Opened,
    /// It says something.
    Event(Event),
    /// It has been silent for suspiciously long: told once in a silence.
    Quiet,
}

/// Since when nothing came, and when to look again.
#[derive(Default)]
struct Silence {
    since: Option<Time>,
    was_told: bool,
    /// It was looked at and explained until then.
    explained: Duration,
}

/// What an attempt needs to go on from.
pub(crate) struct Joined {
    pub(crate) kind: Option<SeamKind>,
    pub(crate) said: Continuation,
}

impl Attempt {
    /// Asks the choice at `position`, and does not wait for it.
    pub(crate) fn ask(
        shared: &Arc<Shared>,
        request: &Arc<Sealed<Request>>,
        decided: &Arc<Decided>,
        position: usize,
        joined: Joined,
    ) -> Result<Self, Failed> {
        let candidate = decided.candidate(position);
        permit(request, &candidate.destination()).map_err(|e| Failed::by_class(e.into()))?;
        if let Some(transit) = &candidate.transit {
            permit(request, transit).map_err(|e| Failed::by_class(e.into()))?;
        }
        let Joined { kind, said } = joined;
        let from = said.said();
        let context = context_for(decided, position, &shared.own.node, said);
        let context = context.map_err(Failed::by_class)?;
        let started = shared.clock.now();
        let node = shared.fleet.node(&candidate.node).ok_or_else(|| Failed {
            error: lost(&candidate.node, "is gone"),
            outcome: Outcome::Neutral,
        })?;
        let ticket = shared
            .breakers
            .admit(candidate, started)
            .map_err(|retry_in| Failed::by_class(breaker_is_open(&candidate.node, retry_in)))?;
        let sight = follow(shared, request.meta(), decided, position, started);
        let patience = Patience::of(shared, request, decided, position, started);
        let scope = context.scope;
        let request = Arc::clone(request);
        let opening = Box::pin(async move { node.infer(request, context).await });
        Ok(Self {
            decided: Arc::clone(decided),
            position,
            held: None,
            deeper: false,
            handed_to: None,
            scope,
            kind,
            from,
            next: from,
            untold_bytes: 0,
            speaks: false,
            sight,
            source: Source::Opening(opening),
            ticket,
            patience,
            pace: Pace::predicted(candidate.state.decode_tok_s),
            silence: Silence::default(),
            timer: None,
            timer_at: None,
        })
    }

    /// Whom it asks.
    pub(crate) fn asked(&self) -> &CandidateState {
        self.decided.candidate(self.position)
    }

    /// Tokens it said, the client's or not.
    pub(crate) const fn said(&self) -> u64 {
        self.next.saturating_sub(self.from)
    }

    /// Tokens it wrote, as whoever bills counts them: an API sends pieces of
    /// text, and a piece is often several tokens.
    pub(crate) const fn wrote(&self) -> u64 {
        let by_text = self.untold_bytes.div_ceil(BYTES_A_TOKEN);
        if by_text > self.said() {
            by_text
        } else {
            self.said()
        }
    }

    /// Whether it took the request.
    pub(crate) const fn was_opened(&self) -> bool {
        matches!(self.source, Source::Open(_))
    }

    /// Takes a batch that goes on where its last one ended, and nothing else,
    /// and leaves what the client has not: `has` tokens came from elsewhere
    /// while it was warmed. None when the client has them all.
    pub(crate) fn take(
        &mut self,
        first_seq: u64,
        mut items: Vec<Token>,
        has: u64,
    ) -> Result<Option<(u64, Vec<Token>)>, Failed> {
        relay::follows(&self.asked().node, self.next, first_seq, &items)?;
        self.next += items.len() as u64;
        let untold = items.iter().filter(|token| token.id.is_none());
        self.untold_bytes += untold.map(|token| token.text.len() as u64).sum::<u64>();
        if self.speaks || self.kind == Some(SeamKind::Restart) {
            return Ok(Some((first_seq, items)));
        }
        let known = usize::try_from(has.saturating_sub(first_seq)).unwrap_or(usize::MAX);
        if known >= items.len() {
            return Ok(None);
        }
        items.drain(..known);
        Ok(Some((first_seq + known as u64, items)))
    }

    /// A token's mean time, once it speaks.
    pub(crate) fn pace(&self) -> Duration {
        self.pace.mean()
    }

    /// What the node does next; an error also when it ends or stalls instead.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Poller<'_>,
        shared: &Shared,
    ) -> Poll<Result<Step, Failed>> {
        loop {
            if let Poll::Ready(step) = self.source.poll(cx, self.decided.candidate(self.position)) {
                self.heard(shared);
                self.look_at(shared, &step);
                return Poll::Ready(
                    step.map_err(|error| self.patience.judge(error, self.said() > 0)),
                );
            }
            let now = shared.clock.now();
            let since = *self.silence.since.get_or_insert(now);
            let silent = now.since(since);
            if self.decided.context.deadline.is_over(now) {
                self.heard(shared);
                return Poll::Ready(Err(self.patience.deadline_over(self.said() > 0)));
            }
            let left = self.look_in(shared, silent);
            if !left.is_zero() {
                ready!(self.sleep(cx, now, left));
                continue;
            }
            match self.look(shared, silent) {
                Ok(None) => {}
                Ok(Some(step)) => return Poll::Ready(Ok(step)),
                Err(failed) => {
                    self.heard(shared);
                    return Poll::Ready(Err(failed));
                }
            }
        }
    }

    /// The wait is over.
    fn heard(&mut self, shared: &Shared) {
        let silence = std::mem::take(&mut self.silence);
        let Some(since) = silence.since else {
            return;
        };
        let wait = shared.clock.now().since(since);
        if self.said() > 0 {
            self.pace.heard(wait);
        } else {
            self.patience.waited(wait);
        }
    }

    /// When the present silence must be looked at.
    fn look_in(&self, shared: &Shared, silent: Duration) -> Duration {
        if self.said() == 0 {
            return self.patience.left(silent);
        }
        let options = &shared.options;
        let due = if self.silence.was_told {
            self.pace.credible(options).max(self.silence.explained)
        } else {
            self.pace.suspicious(options)
        };
        due.saturating_sub(silent)
    }

    /// Looks at a silence that is due for it.
    fn look(&mut self, shared: &Shared, silent: Duration) -> Result<Option<Step>, Failed> {
        let asked = self.decided.candidate(self.position);
        if self.said() == 0 {
            return match self.patience.extend(shared, asked) {
                true => Ok(None),
                false => Err(self.patience.timed_out(&asked.node)),
            };
        }
        if !self.silence.was_told {
            self.silence.was_told = true;
            return Ok(Some(Step::Quiet));
        }
        let options = &shared.options;
        let endless = self.pace.endless(options);
        let liveness = Liveness::of(
            &asked.node,
            (&shared.fleet.snapshot(), shared.clock.now()),
            options,
        );
        if liveness == Liveness::Alive && silent < endless {
            self.silence.explained = (silent + options.stale_report / 4).min(endless);
            return Ok(None);
        }
        Err(Failed::by_class(stalled(&asked.node, silent)))
    }

    /// Whether it has been silent for longer than its pace explains.
    pub(crate) fn is_stalled(&self, shared: &Shared) -> bool {
        let now = shared.clock.now();
        let silent = self.silence.since.map_or(Duration::ZERO, |s| now.since(s));
        self.said() > 0 && silent >= self.pace.credible(&shared.options)
    }

    /// Sleeps until `left` from now, or until the deadline. A timer that is
    /// set to an earlier time is left as it is: events come far more often
    /// than silences are looked at.
    fn sleep(&mut self, cx: &mut Poller<'_>, now: Time, left: Duration) -> Poll<()> {
        let total = self.decided.context.deadline.remaining(now);
        let left = total.map_or(left, |total| left.min(total));
        let at = now + left;
        let due = tokio::time::Instant::now() + left;
        match &mut self.timer {
            None => {
                self.timer = Some(Box::pin(tokio::time::sleep_until(due)));
                self.timer_at = Some(at);
            }
            Some(timer) if self.timer_at.is_none_or(|set| set > at) => {
                timer.as_mut().reset(due);
                self.timer_at = Some(at);
            }
            Some(_) => {}
        }
        let timer = self.timer.as_mut().expect("it was just set");
        ready!(timer.as_mut().poll(cx));
        // Fired: whoever sleeps next sets it anew.
        self.timer_at = None;
        Poll::Ready(())
    }

    /// How an answer that came to its end is judged.
    pub(crate) fn verdict(&self, first_token: Option<Time>) -> Outcome {
        self.patience.verdict(first_token)
    }

    /// Ends the attempt: the stream goes first, then the breaker hears.
    pub(crate) fn settle(self, shared: &Shared, outcome: Outcome) {
        let now = shared.clock.now();
        let (tier, pool) = (self.asked().tier, self.asked().outlook.pool);
        drop(self.source);
        self.ticket.settle(outcome, now);
        if let Some(sight) = self.sight.filter(|_| outcome == Outcome::Failure) {
            sight.failed(now);
        }
        shared.lobby.freed(tier, now);
        shared.holding.freed(pool, now);
    }
}

impl Source {
    fn poll(
        &mut self,
        cx: &mut Poller<'_>,
        asked: &CandidateState,
    ) -> Poll<Result<Step, InferError>> {
        match self {
            Self::Opening(opening) => {
                let stream = ready!(opening.as_mut().poll(cx))?;
                *self = Self::Open(stream);
                Poll::Ready(Ok(Step::Opened))
            }
            Self::Open(stream) => Poll::Ready(match ready!(stream.poll_next_unpin(cx)) {
                Some(event) => event.map(Step::Event),
                None => Err(lost(
                    &asked.node,
                    "ended its stream before its answer was complete",
                )),
            }),
        }
    }
}

fn lost(node: &NodeId, what: &str) -> InferError {
    InferError::new(
        ErrorClass::Unavailable,
        "NODE_LOST",
        format!("node `{node}` {what}"),
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
