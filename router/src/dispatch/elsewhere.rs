//! Where else a request can go: the rest of its plan, then new decisions
//! without those that failed it.

use super::Shared;
use super::allowance::jitter;
use super::attempt::{Attempt, Failed};
use super::decided::Decided;
use super::failed::MODEL_COLD;
use super::said::{Said, accepts};
use crate::breaker::Outcome;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    CandidateState, ErrorClass, InferError, ModelId, NodeId, RequestMeta, SeamKind, Snapshot, Tier,
    Time,
};

/// A node that is full is asked again after so long, if it did not say.
const FULL_FOR: Duration = Duration::from_millis(100);

/// The most often one search looks again.
const MAX_ROUNDS: u32 = 64;

/// Those that failed a request. Bounded by its attempts.
#[derive(Debug, Default)]
pub(crate) struct Excluded(Vec<Exclusion>);

#[derive(Debug)]
struct Exclusion {
    node: NodeId,
    /// Only this model of the node: a provider's models fail apart.
    model: Option<ModelId>,
    /// It was full, and said until when; failures are for good.
    until: Option<Time>,
    /// It can answer, and cannot go on from a text.
    only_prefill: bool,
}

impl Excluded {
    pub(crate) fn add(&mut self, asked: &CandidateState, failed: &Failed, now: Time) {
        let only_prefill = failed.error.reason == "CONTINUATION_NOT_SERVED";
        let full =
            failed.outcome == Outcome::Neutral && failed.error.class == ErrorClass::Exhausted;
        let apart = asked.tier == Tier::Cloud
            || failed.error.class == ErrorClass::NotFound
            || failed.error.reason == MODEL_COLD;
        self.0.push(Exclusion {
            node: asked.node.clone(),
            model: apart.then(|| asked.model.id.clone()),
            until: full.then(|| now + failed.error.retry_after.unwrap_or(FULL_FOR)),
            only_prefill,
        });
    }

    /// Whether the candidate may be asked (to go on in this way).
    pub(crate) fn leaves(&self, c: &CandidateState, kind: Option<SeamKind>, now: Time) -> bool {
        !self.0.iter().any(|gone| {
            let same = gone.node == c.node && gone.model.as_ref().is_none_or(|m| *m == c.model.id);
            let over = gone.until.is_some_and(|until| until <= now);
            let other_way = gone.only_prefill && kind != Some(SeamKind::Prefill);
            same && !over && !other_way
        })
    }

    /// When the first of those that were full can be asked again.
    fn next_free(&self, now: Time) -> Option<Duration> {
        let until = self.0.iter().filter_map(|gone| gone.until);
        until
            .filter(|until| *until > now)
            .min()
            .map(|t| t.since(now))
    }
}

/// A place to go, and how it goes on there.
pub(crate) struct Place {
    pub(crate) decided: Arc<Decided>,
    pub(crate) position: usize,
    pub(crate) kind: Option<SeamKind>,
}

/// What a search starts from.
pub(crate) struct Search<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) meta: &'a RequestMeta,
    pub(crate) decided: &'a Decided,
    pub(crate) excluded: &'a Excluded,
    pub(crate) said: &'a Said,
}

impl Search<'_> {
    /// The best place of a fresh decision; the strongest way to go on first.
    ///
    /// # Errors
    /// Why there is none now.
    pub(crate) fn now(&self) -> Result<Place, InferError> {
        let snapshot = self.snapshot();
        if self.said.is_pinned() {
            return self.decide(&snapshot, Some(SeamKind::Exact));
        }
        if self.said.is_empty() {
            return self.decide(&snapshot, None);
        }
        let mut none = None;
        for kind in [
            SeamKind::Exact,
            SeamKind::SameModel,
            SeamKind::Prefill,
            SeamKind::Restart,
        ] {
            if !accepts(self.meta.continuity, kind) {
                break;
            }
            match self.decide(&snapshot, Some(kind)) {
                Ok(place) => return Ok(place),
                // Full is worth more to know than not there.
                Err(error) if none.as_ref().is_none_or(|n: &InferError| !waits(n)) => {
                    none = Some(error);
                }
                Err(_) => {}
            }
        }
        Err(none.unwrap_or_else(|| {
            InferError::new(
                ErrorClass::Unavailable,
                "NO_CANDIDATE",
                "the client accepts no continuation",
            )
        }))
    }

    /// A place that goes on with the very tokens, beside `current`.
    pub(crate) fn beside(&self, current: &Attempt) -> Option<Place> {
        let now = self.shared.clock.now();
        let here = &current.asked().node;
        let kept = |c: &CandidateState| {
            c.node != *here
                && self.fits(c, SeamKind::Exact)
                && self.excluded.leaves(c, Some(SeamKind::Exact), now)
        };
        let snapshot = self.snapshot();
        let decided = self.decided.again(self.shared, self.meta, &snapshot, kept);
        Some(Place {
            decided: Arc::new(decided.ok()?),
            position: 0,
            kind: Some(SeamKind::Exact),
        })
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.shared.fleet.snapshot();
        let now = self.shared.clock.now();
        self.shared.breakers.merge(&mut snapshot, now);
        snapshot
    }

    fn decide(&self, snapshot: &Snapshot, kind: Option<SeamKind>) -> Result<Place, InferError> {
        let now = self.shared.clock.now();
        let kept = |c: &CandidateState| {
            kind.is_none_or(|kind| self.fits(c, kind)) && self.excluded.leaves(c, kind, now)
        };
        let decided = self.decided.again(self.shared, self.meta, snapshot, kept)?;
        Ok(Place {
            decided: Arc::new(decided),
            position: 0,
            kind,
        })
    }

    /// Whether `kind` is the candidate's best, or weaker than its best.
    pub(super) fn fits(&self, candidate: &CandidateState, kind: SeamKind) -> bool {
        let best = self.said.best_kind(self.meta, candidate);
        best as u8 <= kind as u8
    }

    /// How long to wait before looking again, in this round of a search, when
    /// so much was waited since the last token; none when waiting does not
    /// help.
    pub(crate) fn wait(
        &self,
        error: &InferError,
        round: u32,
        waited: Duration,
    ) -> Option<Duration> {
        let options = &self.shared.options;
        let now = self.shared.clock.now();
        let free = self.excluded.next_free(now);
        if round >= MAX_ROUNDS || !(waits(error) || free.is_some()) {
            return None;
        }
        let seed = self.decided.seed();
        let drawn = jitter(seed, round, options.backoff, options.backoff_most);
        // Whoever said when to come back is not asked before.
        let wait = match free {
            Some(free) if !waits(error) => drawn.max(free),
            _ => drawn,
        };
        let left = self.decided.context.deadline.remaining(now);
        let in_time = waited + wait <= options.place_within;
        (in_time && left.is_none_or(|left| wait < left)).then_some(wait)
    }
}

/// Whether a refusal is about being full, and passes by itself.
fn waits(error: &InferError) -> bool {
    error.class == ErrorClass::Exhausted
        && error
            .metadata
            .iter()
            .all(|(key, value)| *key != "removed_by" || value == "no_credit")
}
