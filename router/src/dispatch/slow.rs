//! Streams that would not end before their deadline.

use super::attempt::Attempt;
use super::elsewhere::{Place, Search};
use super::run::Run;
use super::said::accepts;
use crate::breaker::Outcome;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{CandidateState, SeamKind, Tier};

/// Looked at once in so many tokens.
const EVERY: u64 = 32;

impl Run {
    /// A stream that would not end before its deadline is rescued like one
    /// that stands still, by somebody who says the very same beside it. Where
    /// nobody can, it moves to whoever is there in time and goes on in a way
    /// that the client accepts.
    pub(super) fn watch_the_deadline(&mut self) {
        let look = |current: &&Attempt| current.said() % EVERY == EVERY - 1;
        let Some(current) = self.current.as_ref().filter(look) else {
            return;
        };
        let Some(total) = self.first.context.deadline.total else {
            return;
        };
        let most = u64::from(self.request.meta().sampling.max_tokens);
        // As many as such answers have, which is what was decided by.
        let likely = u64::from(self.first.limits.answer.1).min(most);
        let more = likely.saturating_sub(self.said.tokens());
        if more == 0 {
            return;
        }
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let needed = current.pace().saturating_mul(more);
        if self.shared.clock.now() + needed <= total {
            return;
        }
        self.open_rescue();
        if self.rival.is_none() {
            self.move_on(more);
        }
    }

    /// Gives the current node up for one that says the `more` tokens in time.
    fn move_on(&mut self, more: u32) {
        let (options, now) = (&self.shared.options, self.shared.clock.now());
        let spent = self.seams >= options.max_seams || self.tries >= options.max_attempts;
        let Some(current) = self.current.as_ref().filter(|_| !spent) else {
            return;
        };
        let Some(place) = self.search().in_time(current, more) else {
            return;
        };
        // A rescue like others: the allowance bounds how often it happens.
        if self.shared.hedges.take(now).is_err() {
            return;
        }
        match self.ask(&place) {
            Ok(faster) => {
                let slower = self.current.replace(faster);
                if let Some(slower) = slower {
                    self.cancelled(slower, Outcome::Neutral, "TOO_SLOW");
                }
            }
            Err(failed) => self.note(&place, &failed),
        }
    }
}

impl Search<'_> {
    /// Where the answer ends in time if it leaves `current` now, by the best
    /// kind that the client accepts. Not from the beginning: that is for
    /// answers that broke.
    fn in_time(&self, current: &Attempt, more: u32) -> Option<Place> {
        let now = self.shared.clock.now();
        let left = self.decided.context.deadline.remaining(now)?;
        let here = &current.asked().node;
        let read = u64::from(self.meta.estimated_prompt_tokens()) + self.said.tokens();
        let snapshot = self.snapshot();
        for kind in [SeamKind::SameModel, SeamKind::Prefill] {
            if !accepts(self.meta.continuity, kind) {
                break;
            }
            let kept = |c: &CandidateState| {
                c.node != *here
                    && self.fits(c, kind)
                    && self.excluded.leaves(c, Some(kind), now)
                    && predicted(c, read, more).is_some_and(|needed| needed <= left)
            };
            let decided = self.decided.again(self.shared, self.meta, &snapshot, kept);
            if let Ok(decided) = decided {
                return Some(Place {
                    decided: Arc::new(decided),
                    position: 0,
                    kind: Some(kind),
                });
            }
        }
        None
    }
}

/// How long a candidate needs for `more` tokens behind `read` others; none
/// where it does not tell how fast it is.
fn predicted(c: &CandidateState, read: u64, more: u32) -> Option<Duration> {
    let state = &c.state;
    let told = |rate: f32| Some(f64::from(rate)).filter(|rate| rate.is_finite() && *rate > 0.0);
    let decode = f64::from(more) / told(state.decode_tok_s)?;
    // What a provider tells of its first token is for prompts of any length.
    let prefill = match c.tier {
        Tier::Cloud => 0.0,
        Tier::Device | Tier::Mec => read as f64 / told(state.prefill_tok_s)?,
    };
    let start = f64::from(state.first_token_p99_ms + c.rtt_ms) / 1e3;
    Duration::try_from_secs_f64(start + prefill + decode).ok()
}
