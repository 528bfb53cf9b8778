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
use tiermesh_core::candidates::{Candidates, Chunk};
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
        /// There is nobody else: the log begins, or begins anew.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        whole: bool,
        changed: Vec<(usize, Candidate)>,
        gone: Vec<usize>,
    },
    Decision(Box<Decision>),
    Outcome(Outcome),
    /// So many records are missing here: whoever writes was too slow, or could
    /// not.
    Lost {
        records: u64,
    },
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
    /// How hard it was estimated to be, by its bits.
    #[serde(default)]
    complexity: Option<u64>,
    #[serde(default)]
    prompt_tokens: Option<u32>,
    /// Places that were left out: they had failed the request before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    without: Vec<usize>,
    warm: Vec<(usize, u32)>,
    /// It could have been held back for a slot, behind at most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold: Option<u32>,
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

/// One decision with all it was made from, yet to be written: making it costs
/// no more than names and numbers, and writing it can wait.
#[derive(Debug, Clone)]
pub struct Made {
    decision: Box<Decision>,
    snapshot: Snapshot,
}

impl Made {
    /// A decision on the snapshot without the candidates at some places, in
    /// order. There is no content in it.
    #[must_use]
    pub fn of(
        question: &Question<'_>,
        snapshot: &Snapshot,
        without: &[usize],
        decided: Decided<'_>,
    ) -> Self {
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
            complexity: question.complexity.map(f64::to_bits),
            prompt_tokens: question.prompt_tokens,
            without: without.to_vec(),
            warm: question.warm.iter().map(|w| (w.index, w.tokens)).collect(),
            hold: question.hold,
            choices,
            removed_by: decided.err().flatten().map(str::to_owned),
        };
        Self {
            decision: Box::new(decision),
            snapshot: snapshot.clone(),
        }
    }
}

/// Takes the records of a serving process. It never waits: what it has no room
/// for is lost and counted.
pub trait Journal: Send + Sync + 'static {
    /// A decision was made.
    fn made(&self, made: Made);

    /// This became of it.
    fn outcome(&self, outcome: Outcome);
}

impl Recorder {
    /// The lines of one decision: what changed since the last, and itself.
    #[must_use]
    pub fn decision(
        &mut self,
        question: &Question<'_>,
        snapshot: &Snapshot,
        decided: Decided<'_>,
    ) -> String {
        self.lines(Made::of(question, snapshot, &[], decided))
    }

    /// The lines of one decision that was made before.
    #[must_use]
    pub fn lines(&mut self, made: Made) -> String {
        let mut lines = String::new();
        if let Some(state) = self.state(made.snapshot) {
            push(&mut lines, &state);
        }
        push(&mut lines, &Line::Decision(made.decision));
        lines
    }

    /// The line of one outcome.
    #[must_use]
    pub fn outcome(&self, outcome: Outcome) -> String {
        let mut lines = String::new();
        push(&mut lines, &Line::Outcome(outcome));
        lines
    }

    /// The line where so many records are missing.
    #[must_use]
    pub fn lost(&self, records: u64) -> String {
        let mut lines = String::new();
        push(&mut lines, &Line::Lost { records });
        lines
    }

    /// What is other than in the last snapshot. Chunks that both share are
    /// stepped over. A breaker changes candidates between two reports, so the
    /// point alone does not tell.
    fn state(&mut self, snapshot: Snapshot) -> Option<Line> {
        let last = self.last.take();
        let whole = last.is_none();
        let old = last.as_ref().map(|last| &last.candidates);
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        let mut before = old.into_iter().flat_map(Candidates::chunks);
        let mut present = snapshot.candidates.chunks();
        loop {
            let (was, is) = (before.next(), present.next());
            let Some((first, _)) = is.or(was) else { break };
            let (was, is) = (was.map(|w| w.1), is.map(|i| i.1));
            if was.zip(is).is_some_and(|(a, b)| std::ptr::eq(a, b)) {
                continue;
            }
            let was = was.map_or(&[][..], Chunk::items);
            let is = is.map_or(&[][..], Chunk::items);
            for (at, candidate) in is.iter().enumerate() {
                if was.get(at) != Some(candidate) {
                    changed.push((first + at, Candidate::of(candidate)));
                }
            }
            gone.extend((is.len()..was.len()).map(|at| first + at));
        }
        let point = (snapshot.epoch, snapshot.sequence);
        let same = last.as_ref().map(|last| (last.epoch, last.sequence)) == Some(point);
        drop((before, present));
        self.last = Some(snapshot);
        let nothing = changed.is_empty() && gone.is_empty();
        (!(same && nothing)).then_some(Line::State {
            epoch: point.0,
            sequence: point.1,
            whole,
            changed,
            gone,
        })
    }
}

/// The snapshot without the candidates at some places, which are in order. The
/// others close up.
#[must_use]
pub fn leaving_out(snapshot: &Snapshot, without: &[usize]) -> Snapshot {
    let kept = placed(snapshot).filter(|(place, _)| without.binary_search(place).is_err());
    Snapshot {
        epoch: snapshot.epoch,
        sequence: snapshot.sequence,
        candidates: kept.map(|(_, candidate)| candidate.clone()).collect(),
    }
}

/// Candidates with their places.
pub fn placed(
    snapshot: &Snapshot,
) -> impl Iterator<Item = (usize, &tiermesh_core::CandidateState)> {
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
            complexity: self.complexity.map(f64::from_bits),
            prompt_tokens: self.prompt_tokens,
            answer: self.answer.map(|(likely, high)| Answer { likely, high }),
            warm,
            hold: self.hold,
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
