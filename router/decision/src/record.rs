//! Decisions as JSON lines, and the same decisions made again.
//!
//! Three kinds of line, each written once: what changed of the candidates up
//! to a point of the report log (`state`), a decision made at such a point
//! (`decision`), and what became of it (`outcome`). A decision names the
//! (epoch, sequence) it was made from instead of repeating its candidates.
//! Measured numbers are written by their bits, so that nothing is lost and
//! what is no number stays what it was: a decision replays bit for bit.

use crate::decide::{Answer, Question, Warm};
use crate::plan::Plan;
use crate::policy::{Policies, Policy};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tiermesh_core::{Context, NodeId, RequestMeta, Snapshot};

mod replay;
mod wire;

pub use replay::{Compared, ReplayError, Side, replay};
use wire::{Asked, Candidate};

/// The most candidates a replayed log may have at once.
pub const MAX_CANDIDATES: usize = 100_000;

/// One line of a log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line {
    /// Candidates that are other than at the line before, by place.
    State {
        epoch: u64,
        sequence: u64,
        changed: Vec<(usize, Candidate)>,
        gone: Vec<usize>,
    },
    Decision(Box<Decision>),
    Outcome(Outcome),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Decision {
    epoch: u64,
    sequence: u64,
    asked: Asked,
    policy: String,
    own: NodeId,
    now_us: u64,
    seed: u64,
    answer: Option<(u32, u32)>,
    warm: Vec<(usize, u32)>,
    /// What came out: each choice's place, and its score's bits. Empty when
    /// nobody was left.
    choices: Vec<(usize, u64)>,
    removed_by: Option<String>,
}

/// What became of a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The request.
    pub request_id: String,
    /// Who answered; none when nobody did.
    pub node: Option<NodeId>,
    /// Microseconds to the first token.
    pub first_token_us: Option<u64>,
    /// Microseconds to the end.
    pub total_us: Option<u64>,
    /// What it cost, in billionths of a dollar.
    pub cost_nanos: u64,
}

/// Writes a log. It remembers the last snapshot, to write only what changed.
#[derive(Debug, Default)]
pub struct Recorder {
    last: Option<Snapshot>,
}

/// What was decided: a plan, or the constraint that removed the last one.
pub type Decided<'a> = Result<&'a Plan, Option<&'a str>>;

impl Recorder {
    /// The lines of one decision: what changed since the last, and itself.
    #[must_use]
    pub fn decision(
        &mut self,
        question: &Question<'_>,
        snapshot: &Snapshot,
        decided: Decided<'_>,
    ) -> String {
        let mut lines = String::new();
        if let Some(state) = self.state(snapshot) {
            push(&mut lines, &state);
        }
        let choices = decided.map_or_else(
            |_| Vec::new(),
            |plan| {
                let each = plan.choices.iter();
                each.map(|c| (c.index, c.score.to_bits())).collect()
            },
        );
        let decision = Decision {
            epoch: snapshot.epoch,
            sequence: snapshot.sequence,
            asked: Asked::of(question.meta, question.context, question.zone),
            policy: question.policy.name.to_string(),
            own: question.own.clone(),
            now_us: question.now.as_us(),
            seed: question.seed,
            answer: question.answer.map(|answer| (answer.likely, answer.high)),
            warm: question.warm.iter().map(|w| (w.index, w.tokens)).collect(),
            choices,
            removed_by: decided.err().flatten().map(str::to_owned),
        };
        push(&mut lines, &Line::Decision(Box::new(decision)));
        lines
    }

    /// The line of one outcome.
    #[must_use]
    pub fn outcome(&self, outcome: Outcome) -> String {
        let mut lines = String::new();
        push(&mut lines, &Line::Outcome(outcome));
        lines
    }

    fn state(&mut self, snapshot: &Snapshot) -> Option<Line> {
        let mut old = BTreeMap::new();
        if let Some(last) = &self.last {
            if (last.epoch, last.sequence) == (snapshot.epoch, snapshot.sequence) {
                return None;
            }
            old.extend(placed(last));
        }
        let mut changed = Vec::new();
        for (at, candidate) in placed(snapshot) {
            if old.remove(&at).is_none_or(|before| before != candidate) {
                changed.push((at, Candidate::of(candidate)));
            }
        }
        let gone = old.into_keys().collect();
        self.last = Some(snapshot.clone());
        Some(Line::State {
            epoch: snapshot.epoch,
            sequence: snapshot.sequence,
            changed,
            gone,
        })
    }
}

/// Candidates with their places.
fn placed(snapshot: &Snapshot) -> impl Iterator<Item = (usize, &tiermesh_core::CandidateState)> {
    let chunks = snapshot.candidates.chunks();
    chunks.flat_map(|(first, chunk)| {
        let items = chunk.items().iter().enumerate();
        items.map(move |(at, candidate)| (first + at, candidate))
    })
}

fn push(lines: &mut String, line: &Line) {
    // Names and numbers always serialize.
    if let Ok(text) = serde_json::to_string(line) {
        lines.push_str(&text);
        lines.push('\n');
    }
}

impl Decision {
    fn question<'a>(
        &'a self,
        (meta, context): (&'a RequestMeta, &'a Context),
        policy: &'a Policy,
        warm: &'a [Warm],
    ) -> Question<'a> {
        Question {
            meta,
            context,
            policy,
            own: &self.own,
            zone: self.asked.zone.as_ref(),
            answer: self.answer.map(|(likely, high)| Answer { likely, high }),
            warm,
            now: tiermesh_core::Time::from_us(self.now_us),
            seed: self.seed,
        }
    }

    fn policy<'a>(&self, policies: &'a Policies) -> Option<&'a Policy> {
        let name = tiermesh_core::PolicyName::new(&self.policy).ok()?;
        policies.get(&name).map(|policy| &**policy)
    }
}

#[cfg(test)]
mod tests;
