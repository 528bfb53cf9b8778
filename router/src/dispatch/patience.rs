//! How long a node may be silent: before its first token what it predicted,
//! after it what its own pace makes credible.

use super::attempt::Failed;
use super::decided::Decided;
use super::{Options, Shared};
use crate::breaker::Outcome;
use std::time::Duration;
use tiermesh_core::{
    CandidateState, ErrorClass, InferError, NodeId, Request, Sealed, Snapshot, Time,
};

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

impl Patience {
    pub(crate) fn of(
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

    pub(crate) fn waited(&mut self, more: Duration) {
        self.waited += more;
    }

    /// What is left of it after `silent` more.
    pub(crate) fn left(&self, silent: Duration) -> Duration {
        self.bound.saturating_sub(self.waited + silent)
    }

    /// A node that is there and busy is not one that stalls: as long as its
    /// present queue explains the wait, it keeps its place in that queue. Time
    /// and again it must explain more than it has been waited for, and never
    /// more than a last choice gets.
    pub(crate) fn extend(&mut self, shared: &Shared, asked: &CandidateState) -> bool {
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

    /// An error that the node told.
    pub(crate) fn judge(&self, error: InferError, begun: bool) -> Failed {
        match error.class {
            ErrorClass::DeadlineExceeded => self.deadline_over(begun),
            _ => Failed::by_class(error),
        }
    }

    /// The first token did not come in the time there was.
    pub(crate) fn timed_out(&self, node: &NodeId) -> Failed {
        Failed::by_class(stalled(node, self.bound))
    }

    /// The whole request's time is over. Before the first token that is the
    /// node's fault if it was waited for longer than it had predicted; after
    /// it, long answers are nobody's.
    pub(crate) fn deadline_over(&self, begun: bool) -> Failed {
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

    /// How an answer that came to its end is judged: a first token later than
    /// promised is a failure all the same.
    pub(crate) fn verdict(&self, first_token: Option<Time>) -> Outcome {
        match (self.promised, first_token) {
            (Some(due), Some(at)) if at > due && self.waited > self.predicted_p99 => {
                Outcome::Failure
            }
            _ => Outcome::Success,
        }
    }
}

/// A stream's own pace: the mean wait for its events and the mean distance
/// from it, each event weighing an eighth.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    mean_us: f64,
    off_us: f64,
}

/// What a node counts as that says nothing of its speed.
const UNTOLD_TOK_S: f32 = 20.0;
/// The longest interval that is believed.
const MAX_INTERVAL_US: f64 = 60e6;

impl Pace {
    /// Before the first interval was seen: what the node reports.
    pub(crate) fn predicted(decode_tok_s: f32) -> Self {
        let told = decode_tok_s.is_finite() && decode_tok_s > 0.0;
        let rate = if told { decode_tok_s } else { UNTOLD_TOK_S };
        let mean_us = (1e6 / f64::from(rate)).min(MAX_INTERVAL_US);
        Self {
            mean_us,
            off_us: mean_us / 2.0,
        }
    }

    /// An event came after so long a wait. One that was there at once tells
    /// how slow the reader is, and nothing of the node.
    pub(crate) fn heard(&mut self, wait: Duration) {
        if wait.is_zero() {
            return;
        }
        let us = (wait.as_micros() as f64).min(MAX_INTERVAL_US);
        self.off_us += ((us - self.mean_us).abs() - self.off_us) / 8.0;
        self.mean_us += (us - self.mean_us) / 8.0;
    }

    /// A token's mean time.
    pub(crate) fn mean(&self) -> Duration {
        Duration::from_micros(self.mean_us as u64)
    }

    /// Nearly every wait is shorter.
    fn usual(&self) -> Duration {
        Duration::from_micros((self.mean_us + 4.0 * self.off_us) as u64)
    }

    /// After so much silence it is worth to warm another node.
    pub(crate) fn suspicious(&self, options: &Options) -> Duration {
        (self.usual() * 2)
            .max(options.rescue_floor)
            .min(options.stall)
    }

    /// Silence that its pace does not explain.
    pub(crate) fn credible(&self, options: &Options) -> Duration {
        (self.usual() * 4)
            .max(options.stall_floor)
            .min(options.stall)
    }

    /// Silence that nothing explains, though the node is there.
    pub(crate) fn endless(&self, options: &Options) -> Duration {
        (self.usual() * 16)
            .max(options.stall_alive)
            .min(options.stall)
    }
}

/// Whether a node that says nothing is there at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// It reports.
    Alive,
    /// It has streams of ours and does not report.
    Silent,
    /// Its lease is over.
    Gone,
}

impl Liveness {
    pub(crate) fn of(node: &NodeId, (snapshot, now): (&Snapshot, Time), options: &Options) -> Self {
        let mut ages = snapshot
            .candidates
            .iter()
            .filter(|c| &c.node == node)
            .map(|c| Duration::from_micros(c.age_us(now)));
        match ages.next() {
            None => Self::Gone,
            Some(age) if age > options.stale_report => Self::Silent,
            Some(_) => Self::Alive,
        }
    }
}

pub(crate) fn stalled(node: &NodeId, after: Duration) -> InferError {
    InferError::new(
        ErrorClass::Unavailable,
        "STREAM_STALLED",
        format!("node `{node}` said nothing for {} ms", after.as_millis()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_stream_is_given_longer_than_a_fast_one() {
        let options = Options::default();
        let (mut fast, mut slow) = (Pace::predicted(100.0), Pace::predicted(100.0));
        for _ in 0..100 {
            fast.heard(Duration::from_millis(5));
            slow.heard(Duration::from_millis(400));
        }
        assert_eq!(fast.credible(&options), options.stall_floor);
        assert_eq!(fast.suspicious(&options), options.rescue_floor);
        assert!(slow.credible(&options) >= Duration::from_millis(1_600));
        assert!(slow.credible(&options) < slow.endless(&options));
        assert!(slow.endless(&options) <= options.stall);
    }

    #[test]
    fn a_reader_that_is_slow_says_nothing_of_the_node() {
        let mut pace = Pace::predicted(10.0);
        let before = pace.mean();
        pace.heard(Duration::ZERO);
        assert_eq!(pace.mean(), before);
    }

    #[test]
    fn a_rate_that_is_none_is_not_believed() {
        for rate in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert_eq!(Pace::predicted(rate).mean(), Duration::from_millis(50));
        }
    }
}
