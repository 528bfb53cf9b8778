//! The plan: whom to ask, in which order, and why.

use crate::constraint::Constraint;
use crate::decide::Question;
use crate::estimate::Estimate;
use crate::few::Few;
use crate::score::Points;
use std::time::Duration;
use tiermesh_core::{
    CandidateState, DecisionSummary, Fallback, Reason, ReasonRecord, Snapshot, Tier, TierScore,
    Time, Usd,
};

/// The most fallbacks a plan has.
pub const MAX_FALLBACKS: usize = 4;
/// The most removed candidates a plan remembers, and of those, the most that
/// one constraint removed. The counts are complete.
pub const MAX_REMOVED: usize = 16;
const MAX_REMOVED_BY_ONE: u32 = 4;

/// Whom to ask, in which order. It names candidates by their place in the
/// snapshot it was made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// At least one, best first.
    pub choices: Few<Choice, { MAX_FALLBACKS + 1 }>,
    /// Every tier's best score, in [`Tier::ALL`]'s order.
    pub scores: [f64; 3],
    /// Some of the candidates that were removed. When [`Plan::late`] is set,
    /// the deadline's are notes: those candidates are in the plan.
    pub removed: Few<Removed, MAX_REMOVED>,
    /// How many candidates each constraint removed, in its order.
    pub counts: [u32; Constraint::COUNT],
    /// Nobody would be in time, and the fastest go first.
    pub late: bool,
    /// The first choice was taken to learn about it.
    pub explored: bool,
    /// The first choice, and whoever else is [`Estimate::held`], has no slot
    /// free: the request is to be held back.
    pub hold: Option<Hold>,
    /// Who would be chosen if everybody had a slot free.
    pub wanted: Option<Wanted>,
}

/// How a request is held back until the first choice, or one of its like, has
/// a slot free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// With a slot by then it would still be in time there.
    pub start_by: Time,
    /// It is decided anew when a slot comes free, and at this time at the
    /// latest, without [`Question::hold`].
    pub until: Time,
    /// A slot of the pool comes free about so often.
    pub turn: Duration,
    /// What a second of a slot saves over whoever would be asked else, in
    /// nano-dollars. Where there is nobody else, an answer is worth more than
    /// anything saved, so that as many as can be are given.
    pub worth: u64,
}

/// A demand for slots, met or not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    /// The candidate's place in the snapshot.
    pub index: usize,
    /// Milliseconds of a slot.
    pub hold_ms: f64,
    /// What it would cost there.
    pub cost: Usd,
    /// How much less that is than at the dearest that could take it.
    pub saves: Usd,
}

/// One place to ask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Its place in the snapshot.
    pub index: usize,
    /// What to expect of it.
    pub estimate: Estimate,
    /// Its points before their weights.
    pub points: Points,
    /// Its weighted score, 0 to 100.
    pub score: f64,
}

impl Choice {
    /// The candidate in the snapshot the plan was made from.
    ///
    /// # Panics
    /// On another snapshot with fewer candidates.
    #[must_use]
    pub fn candidate<'a>(&self, snapshot: &'a Snapshot) -> &'a CandidateState {
        &snapshot.candidates[self.index]
    }
}

/// One candidate that was removed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Removed {
    /// Its place in the snapshot.
    pub index: usize,
    /// Why.
    pub reason: Reason,
}

impl Removed {
    pub(crate) fn record(&self, snapshot: &Snapshot) -> ReasonRecord {
        let candidate = &snapshot.candidates[self.index];
        ReasonRecord {
            node: Some(candidate.node.clone()),
            model: Some(candidate.model.id.clone()),
            reason: self.reason,
        }
    }
}

impl Plan {
    /// How far the choice at `position` is ahead of the next, 0 to 1.
    #[must_use]
    pub fn confidence(&self, position: usize) -> f64 {
        let score = |position: usize| self.choices.get(position).map(|c| c.score);
        match (score(position), score(position + 1)) {
            (Some(this), Some(next)) if this > 0.0 => ((this - next) / this).clamp(0.0, 1.0),
            (Some(_), Some(_)) => 0.0,
            _ => 1.0,
        }
    }

    /// The decision as clients and tables see it, when the choice at
    /// `position` is the one that is used.
    ///
    /// # Panics
    /// When `position` is not in the plan, or on another snapshot.
    #[must_use]
    pub fn summary(
        &self,
        question: &Question<'_>,
        snapshot: &Snapshot,
        position: usize,
    ) -> DecisionSummary {
        let choice = &self.choices[position];
        let candidate = choice.candidate(snapshot);
        let about = |reason| ReasonRecord {
            node: Some(candidate.node.clone()),
            model: Some(candidate.model.id.clone()),
            reason,
        };
        let mut reasons: Vec<_> = choice
            .points
            .reasons(&choice.estimate)
            .map(about)
            .into_iter()
            .collect();
        let estimate = &choice.estimate;
        if estimate.slot > Usd::ZERO {
            let usd = estimate.slot.as_dollars();
            reasons.push(about(Reason::Slot { usd }));
        }
        if estimate.held {
            let wait_ms = (estimate.first_token_ms - estimate.served_ms.0) as f32;
            reasons.push(about(Reason::Held { wait_ms }));
        }
        if self.explored && position == 0 {
            reasons.push(about(Reason::Explored));
        }
        reasons.extend(self.removed.iter().map(|removed| removed.record(snapshot)));
        let fallback = |choice: &Choice| {
            let candidate = choice.candidate(snapshot);
            Fallback {
                tier: candidate.tier,
                node: candidate.node.clone(),
                model: candidate.model.id.clone(),
            }
        };
        DecisionSummary {
            policy: question.policy.name.clone(),
            tier: candidate.tier,
            node: candidate.node.clone(),
            model: candidate.model.id.clone(),
            scores: Tier::ALL
                .into_iter()
                .zip(self.scores)
                .map(|(tier, score)| TierScore {
                    tier,
                    score: score as f32,
                })
                .collect(),
            confidence: self.confidence(position) as f32,
            reasons,
            fallbacks: self
                .choices
                .iter()
                .skip(position + 1)
                .map(fallback)
                .collect(),
            first_token_ms: choice.estimate.first_token_ms as f32,
            total_ms: choice.estimate.total_ms as f32,
            cost: choice.estimate.cost,
            epoch: snapshot.epoch,
            sequence: snapshot.sequence,
        }
    }
}

/// Counts who was removed by what, and remembers a few.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) counts: [u32; Constraint::COUNT],
    pub(crate) removed: Few<Removed, MAX_REMOVED>,
    /// The soonest that an open breaker half-opens.
    pub(crate) retry_in: Option<Duration>,
}

impl Tally {
    pub(crate) const fn new() -> Self {
        Self {
            counts: [0; Constraint::COUNT],
            removed: Few::new(),
            retry_in: None,
        }
    }

    pub(crate) fn add(&mut self, index: usize, reason: Reason) {
        let Some(constraint) = Constraint::of(&reason) else {
            return;
        };
        if let Reason::BreakerOpen { retry_in_ms } = reason {
            let this = Duration::from_millis(retry_in_ms);
            self.retry_in = Some(self.retry_in.map_or(this, |soonest| soonest.min(this)));
        }
        let count = &mut self.counts[constraint as usize];
        *count = count.saturating_add(1);
        if *count <= MAX_REMOVED_BY_ONE && self.removed.len() < MAX_REMOVED {
            self.removed.push(Removed { index, reason });
        }
    }
}
