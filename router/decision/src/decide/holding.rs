//! Whether a request waits for a slot, and for how long.

use super::Round;
use crate::estimate::Estimate;
use crate::plan::{Choice, Hold};
use crate::ranking::Choices;
use crate::score::DEFAULT_TARGET;
use std::time::Duration;
use tiermesh_core::Time;

/// What an answer is worth that nobody else can give in time: a thousand
/// dollars, more than anybody saves.
const AN_ANSWER_NANOS: u64 = 1_000_000_000_000;

impl Round<'_> {
    /// Until when the request may be held back for the first choice: whoever
    /// would be asked at once must still make it then, and must not be better
    /// than the chance of a slot. One node alone may as well have it in its
    /// own queue.
    pub(super) fn hold(&self, choices: &Choices, is_late: bool) -> Option<Hold> {
        let first = choices.first().filter(|first| first.estimate.held)?;
        let (score, index) = self.at_once;
        let beyond = (score > f64::NEG_INFINITY && !is_late).then(|| self.whole(index));
        let in_plan = choices.iter().find(|choice| !choice.estimate.held);
        let at_once = in_plan.or(beyond.as_ref());
        let outlook = &first.candidate(self.snapshot).outlook;
        let served = self.spare(&first.estimate, first.estimate.served_ms.1);
        let spare = match at_once {
            Some(choice) => self.spare(&choice.estimate, choice.estimate.first_token_sure_ms),
            None if outlook.pool_nodes > 1 => served,
            None => return None,
        };
        let spare = spare.filter(|spare| *spare > Duration::ZERO)?;
        let start_within = served.unwrap_or_default().min(spare);
        // Who is late anyway goes by when, not by score.
        if let Some(at_once) = at_once.filter(|_| !is_late) {
            // Who waits in vain may be left with the dearest.
            let dearest = choices.iter().rev().find(|choice| !choice.estimate.held);
            let in_vain = dearest.unwrap_or(at_once).score;
            let chance = self.chance_of_a_slot(first, start_within);
            if chance * first.score + (1.0 - chance) * in_vain < at_once.score {
                return None;
            }
        }
        let now = self.question.now;
        let turn_ms = f64::from(outlook.running_ms.max(0.0)) / f64::from(outlook.pool_busy.max(1));
        let cost = |choice: &Choice| choice.estimate.likely_cost.as_nanos();
        let saved = match at_once {
            Some(choice) => cost(choice).saturating_sub(cost(first)),
            None => AN_ANSWER_NANOS,
        };
        let slot_s = (first.estimate.hold_ms / 1e3).max(1e-3);
        Some(Hold {
            start_by: now + start_within,
            until: now + spare,
            turn: Duration::from_secs_f64(turn_ms.min(1e9) / 1e3),
            worth: (saved as f64 / slot_s) as u64,
        })
    }

    /// The chance that the first choice, or one of its like, has a slot free
    /// within that time: of a gamma distribution with a turn for each that is
    /// before it and one of its own, by Wilson and Hilferty.
    fn chance_of_a_slot(&self, first: &Choice, within: Duration) -> f64 {
        let outlook = &first.candidate(self.snapshot).outlook;
        let before = self.question.hold.map_or(0, |most| outlook.held.min(most));
        let turns = f64::from(before) + 1.0;
        let wait_ms = first.estimate.first_token_ms - first.estimate.served_ms.0;
        let share = within.as_secs_f64() * 1e3 / wait_ms.max(1e-3);
        let z = 3.0 * turns.sqrt() * (libm::cbrt(share) - 1.0 + 1.0 / (9.0 * turns));
        0.5 * libm::erfc(-z.clamp(-6.0, 6.0) * std::f64::consts::FRAC_1_SQRT_2)
    }

    /// How much later it could be sent to whoever then needs so long to the
    /// first token; none where that is too long already.
    fn spare(&self, estimate: &Estimate, first_token_ms: f64) -> Option<Duration> {
        let (now, deadline) = (self.question.now, self.limits.deadline);
        let to_the_end_ms = estimate.total_ms - estimate.first_token_ms;
        let spare = |due: Time, needs_ms: f64| {
            // A timer is late, and what is learnt meanwhile moves.
            let needs_ms = needs_ms.clamp(0.0, 1e9) * 1.02 + 5.0;
            due.since(now)
                .checked_sub(Duration::from_secs_f64(needs_ms / 1e3))
        };
        let due = deadline.first_token.unwrap_or(now + DEFAULT_TARGET);
        let least = spare(due, first_token_ms)?;
        match deadline.total {
            Some(total) => Some(least.min(spare(total, first_token_ms + to_the_end_ms)?)),
            None => Some(least),
        }
    }
}
