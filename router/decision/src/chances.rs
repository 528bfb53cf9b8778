//! The chances of being in time, for people who ask why.

use crate::constraint;
use crate::decide::Question;
use crate::limits::Limits;
use tiermesh_core::{Reason, ReasonRecord, Snapshot};

/// The most candidates whose chance is told.
pub const MAX_CHANCES: usize = 64;

/// For everyone who could be asked, late or not, the chance that its first
/// token comes before the deadline: by the same estimate that decides. Nobody
/// where there is no such deadline; at most [`MAX_CHANCES`].
#[must_use]
pub fn chances(question: &Question<'_>, snapshot: &Snapshot) -> Vec<ReasonRecord> {
    let limits = Limits::asked(question);
    let Some(left) = limits.deadline.first_token_remaining(question.now) else {
        return Vec::new();
    };
    let left_ms = left.as_secs_f64() * 1e3;
    let chance = |(index, candidate)| {
        let estimate = constraint::check(question, &limits, candidate, index).ok()?;
        Some(ReasonRecord {
            node: Some(candidate.node.clone()),
            model: Some(candidate.model.id.clone()),
            reason: Reason::Chance {
                chance: estimate.chance(left_ms) as f32,
                deadline_ms: left_ms as f32,
            },
        })
    };
    let all = crate::record::placed(snapshot).filter_map(chance);
    all.take(MAX_CHANCES).collect()
}
