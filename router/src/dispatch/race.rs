//! Two nodes at once: a hedge before the first token, a rescue after it. The
//! first to say the next token goes on, and the other is cancelled.

use super::Shared;
use super::attempt::{Failed, Step};
use super::decided::Decided;
use super::elsewhere::Place;
use super::relay;
use super::run::Run;
use crate::breaker::Outcome;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll};
use std::time::Duration;
use tiermesh_core::{Event, Tier, Usd};
use tokio::time::Sleep;

/// When a request is asked of two nodes at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HedgeRule {
    /// Every request of the policy is, and not only those whose first choice
    /// would miss their deadline one time in a hundred.
    pub always: bool,
    /// How long the first choice has for itself; none for the time it is
    /// expected to need.
    pub after: Option<Duration>,
    /// The tiers that may be asked a second time; all if none is named.
    pub tiers: Vec<Tier>,
}

impl HedgeRule {
    /// Only where the first choice's 99th percentile misses the deadline.
    pub const WHEN_LATE: Self = Self {
        always: false,
        after: None,
        tiers: Vec::new(),
    };
}

/// Whether and when a request is hedged.
pub(crate) enum Hedge {
    No,
    Waits(Pin<Box<Sleep>>),
}

impl Hedge {
    pub(crate) fn of(shared: &Shared, decided: &Decided) -> Self {
        let Some(rule) = shared.hedge_rule(&decided.policy) else {
            return Self::No;
        };
        let fresh = decided.context.continuation.is_empty();
        let second = hedge_position(decided, &rule).filter(|_| fresh);
        let second = second.and_then(|position| decided.choice(position));
        let (Some(first), Some(second)) = (decided.choice(0), second) else {
            return Self::No;
        };
        let now = shared.clock.now();
        let left = decided.context.deadline.first_token_remaining(now);
        let meets = |p99_ms: f64| {
            let p99 = Duration::try_from_secs_f64(p99_ms / 1e3);
            matches!((left, p99), (Some(left), Ok(p99)) if p99 <= left)
        };
        let late = decided.limits.first_token_binds
            && !meets(first.estimate.first_token_p99_ms)
            && meets(second.estimate.first_token_p99_ms);
        if !(rule.always || late) {
            return Self::No;
        }
        let expected = Duration::try_from_secs_f64(first.estimate.first_token_ms / 1e3);
        let after = rule.after.or(expected.ok()).unwrap_or_default();
        Self::Waits(Box::pin(tokio::time::sleep(after)))
    }

    pub(crate) fn poll(&mut self, cx: &mut Poller<'_>) -> Poll<()> {
        match self {
            Self::No => Poll::Pending,
            Self::Waits(timer) => timer.as_mut().poll(cx).map(|()| *self = Self::No),
        }
    }
}

/// The choice to ask beside the first: of another tier, if the plan has one,
/// for a tier's trouble may be common to its nodes. Both together may not cost
/// more than the request may.
fn hedge_position(decided: &Decided, rule: &HedgeRule) -> Option<usize> {
    let first = decided.choice(0)?;
    let tier = decided.candidate(0).tier;
    let fits = |position: &usize| {
        let cost = decided
            .choice(*position)
            .map_or(Usd::ZERO, |c| c.estimate.cost);
        let most = decided.limits.max_cost;
        most.is_none_or(|most| first.estimate.cost + cost <= most)
    };
    let named = |position: &usize| {
        rule.tiers.is_empty() || rule.tiers.contains(&decided.candidate(*position).tier)
    };
    let rest = (1..decided.plan.choices.len()).filter(named);
    let elsewhere = rest
        .clone()
        .find(|p| decided.candidate(*p).tier != tier && fits(p));
    elsewhere.or_else(|| rest.clone().find(fits))
}

impl Run {
    /// The first choice had its time: another is asked beside it.
    pub(super) fn open_hedge(&mut self) {
        let waits = !self.has_spoken() && self.rival.is_none() && self.next_position == 1;
        let policy = &self.first.policy;
        let rule = self.shared.hedge_rule(policy).filter(|_| waits);
        let Some(position) = rule.and_then(|rule| hedge_position(&self.first, &rule)) else {
            return;
        };
        let (name, bounded) = (policy.name.clone(), policy.hedge.is_some());
        if bounded && !self.shared.shares.take(&name) {
            return;
        }
        self.open_rival(&Place {
            decided: Arc::clone(&self.first),
            position,
            kind: None,
        });
        if bounded && self.rival.is_none() {
            self.shared.shares.give_back(&name);
        }
    }

    /// The current node is quiet, or too slow for its deadline: another is
    /// warmed that goes on with the very tokens, while the first may still
    /// come back. Where nobody can, the silence is judged when it is due.
    pub(super) fn open_rescue(&mut self) {
        let options = &self.shared.options;
        let spent = self.seams >= options.max_seams || self.tries >= options.max_attempts;
        let Some(current) = self
            .current
            .as_ref()
            .filter(|_| !spent && self.rival.is_none())
        else {
            return;
        };
        if self.request.meta().continuity == tiermesh_core::Continuity::Fail {
            return;
        }
        if let Some(place) = self.search().beside(current) {
            self.open_rival(&place);
        }
    }

    fn open_rival(&mut self, place: &Place) {
        if self.shared.hedges.take(self.shared.clock.now()).is_err() {
            return;
        }
        match self.ask(place) {
            Ok(rival) => self.rival = Some(rival),
            Err(failed) => self.note(place, &failed),
        }
    }

    /// What the node beside the current one did.
    pub(super) fn rival_did(&mut self, step: Result<Step, Failed>) -> Result<(), Failed> {
        match step {
            Err(failed) => {
                let rival = self.rival.take().expect("it just failed");
                self.fell(rival, failed);
                Ok(())
            }
            Ok(Step::Opened | Step::Quiet) => Ok(()),
            Ok(Step::Event(event)) => self.rival_said(event),
        }
    }

    fn rival_said(&mut self, event: Event) -> Result<(), Failed> {
        let rival = self.rival.as_mut().expect("it just spoke");
        match event {
            // Who it is shows when it goes on.
            Event::Accepted(theirs) if relay::is_the_same(rival.asked(), &theirs) => Ok(()),
            // Its tokens would not be those that would have come.
            Event::Accepted(_) | Event::Seam(_) => {
                self.drop_rival();
                Ok(())
            }
            Event::Tokens { first_seq, items } => {
                match rival.take(first_seq, items, self.said.tokens()) {
                    Ok(None) => Ok(()),
                    Ok(Some((first_seq, items))) => {
                        self.overtake();
                        self.tell(first_seq, items);
                        Ok(())
                    }
                    Err(failed) => {
                        let rival = self.rival.take().expect("it just spoke");
                        self.fell(rival, failed);
                        Ok(())
                    }
                }
            }
            Event::Done(_) if rival.next < self.said.tokens() => {
                // It ended before where the answer is: it is another answer.
                self.drop_rival();
                Ok(())
            }
            event => {
                self.overtake();
                self.relay(event)
            }
        }
    }

    /// The rival says the next token first: it goes on.
    fn overtake(&mut self) {
        if let Some(slower) = self.current.take() {
            let stalled = slower.is_stalled(&self.shared);
            // Another had to be asked because it said nothing more: that is no
            // failure yet, and reason enough not to ask it next.
            if self.has_spoken()
                && let Some(sight) = &slower.sight
            {
                sight.quiet(self.shared.clock.now());
            }
            let outcome = if stalled {
                Outcome::Failure
            } else {
                Outcome::Neutral
            };
            self.cancelled(slower, outcome, "OUTRUN");
        }
        self.promote();
    }

    /// The rival is the current attempt from here on.
    pub(super) fn promote(&mut self) {
        let Some(mut rival) = self.rival.take() else {
            return;
        };
        if !self.has_spoken() {
            rival.held = Some(Box::new(self.summary(&rival)));
        }
        self.opened |= rival.was_opened();
        self.current = Some(rival);
    }

    /// The first has spoken: a hedge, whose words would be others, is over.
    /// One that goes on from what was said with the very tokens may still win.
    pub(super) fn drop_hedge(&mut self) {
        if self
            .rival
            .as_ref()
            .is_some_and(|rival| rival.kind.is_none())
        {
            self.drop_rival();
        }
    }

    pub(super) fn drop_rival(&mut self) {
        if let Some(rival) = self.rival.take() {
            self.cancelled(rival, Outcome::Neutral, "OUTRUN");
        }
    }
}
