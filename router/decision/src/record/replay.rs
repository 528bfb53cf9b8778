//! A log's decisions, made again.

use super::{Decision, Line, MAX_CANDIDATES, leaving_out};
use crate::constraint::Constraint;
use crate::decide::{Warm, decide};
use crate::plan::Plan;
use crate::policy::Policies;
use std::collections::BTreeMap;
use std::io::BufRead;
use tiermesh_core::{CandidateState, Candidates, Privacy, Snapshot, Tier};

/// Why a log does not replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be read.
    #[error("cannot read line {line}")]
    Read {
        /// Which, from 1.
        line: usize,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A line is none of a log's.
    #[error("line {line} is no record of a decision, an outcome or a state")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A decision names a point of the log that is not there.
    #[error("line {line}: the decision was made at ({epoch}, {sequence}), which the log lacks")]
    Point {
        /// Which, from 1.
        line: usize,
        /// The run.
        epoch: u64,
        /// The report.
        sequence: u64,
    },
    /// A decision holds a value that no request may have.
    #[error("line {line}: the decision's request is not usable")]
    Request {
        /// Which, from 1.
        line: usize,
    },
    /// More candidates than a log may have.
    #[error("line {line}: more than {MAX_CANDIDATES} candidates")]
    Candidates {
        /// Which, from 1.
        line: usize,
    },
}

/// What other policies would have changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Compared {
    /// Decisions in the log.
    pub decisions: u64,
    /// Those that came out bit for bit as recorded under the old policies.
    pub reproduced: u64,
    /// Those whose policy the new ones no longer have: not compared.
    pub without_policy: u64,
    /// Those that would go to another node, or nowhere.
    pub changed: u64,
    /// Before and after.
    pub sides: [Side; 2],
    /// Outcomes in the log.
    pub outcomes: u64,
    /// Records that the log says are missing.
    pub lost: u64,
}

/// One side of a comparison, by the estimates that decisions were made on.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Side {
    /// Decisions by tier, in [`Tier::ALL`]'s order.
    pub by_tier: [u64; 3],
    /// Decisions that found nobody.
    pub refused: u64,
    /// Dollars, as estimated.
    pub usd: f64,
    /// Decisions whose first choice is expected within its deadline.
    pub in_time: u64,
    /// Decisions of requests or policies that keep content off the cloud.
    pub kept_private: u64,
    /// Decisions that sent content over their transit or to the cloud.
    pub left_the_edge: u64,
}

impl Side {
    fn add(
        &mut self,
        limits: &crate::Limits,
        plan: Option<(&Plan, &Snapshot)>,
        now: tiermesh_core::Time,
    ) {
        self.kept_private += u64::from(limits.privacy <= Privacy::Edge);
        let Some((plan, snapshot)) = plan else {
            self.refused += 1;
            return;
        };
        let choice = &plan.choices[0];
        let tier = choice.candidate(snapshot).tier;
        self.by_tier[tier as usize] += 1;
        self.left_the_edge += u64::from(tier == Tier::Cloud);
        self.usd += choice.estimate.likely_cost.as_dollars();
        let left = limits.deadline.first_token_remaining(now);
        let in_time =
            left.is_none_or(|left| choice.estimate.first_token_ms <= left.as_secs_f64() * 1e3);
        self.in_time += u64::from(in_time);
    }
}

/// Makes every decision of a log again, under `old` policies to see that it
/// comes out as recorded, and under `new` ones to see what would change.
///
/// # Errors
/// The first line that is none, with its number.
pub fn replay(log: impl BufRead, old: &Policies, new: &Policies) -> Result<Compared, ReplayError> {
    let mut compared = Compared::default();
    let mut placed: BTreeMap<usize, CandidateState> = BTreeMap::new();
    let mut snapshot = Snapshot::default();
    for (at, text) in log.lines().enumerate() {
        let line = at + 1;
        let text = text.map_err(|source| ReplayError::Read { line, source })?;
        if text.trim().is_empty() {
            continue;
        }
        let parsed = serde_json::from_str(&text);
        match parsed.map_err(|source| ReplayError::Line { line, source })? {
            Line::State {
                epoch,
                sequence,
                whole,
                changed,
                gone,
            } => {
                if whole || epoch != snapshot.epoch {
                    // Another run of the process begins with all it has.
                    placed.clear();
                }
                for place in gone {
                    placed.remove(&place);
                }
                let states = changed.iter();
                placed.extend(states.map(|(place, candidate)| (*place, candidate.state())));
                let last = placed.keys().next_back().copied().unwrap_or(0);
                if last > 2 * MAX_CANDIDATES || placed.len() > MAX_CANDIDATES {
                    return Err(ReplayError::Candidates { line });
                }
                snapshot = Snapshot {
                    epoch,
                    sequence,
                    candidates: Candidates::at_places(
                        placed.iter().map(|(place, c)| (*place, c.clone())),
                    ),
                };
            }
            Line::Decision(decision) => {
                again(&mut compared, &decision, &snapshot, (old, new), line)?;
            }
            Line::Outcome(_) => compared.outcomes += 1,
            Line::Lost { records } => compared.lost = compared.lost.saturating_add(records),
        }
    }
    Ok(compared)
}

fn again(
    compared: &mut Compared,
    decision: &Decision,
    snapshot: &Snapshot,
    (old, new): (&Policies, &Policies),
    line: usize,
) -> Result<(), ReplayError> {
    let (epoch, sequence) = (decision.epoch, decision.sequence);
    if (snapshot.epoch, snapshot.sequence) != (epoch, sequence) {
        return Err(ReplayError::Point {
            line,
            epoch,
            sequence,
        });
    }
    let parts = decision.asked.parts(&decision.policy);
    let (meta, context) = parts.ok_or(ReplayError::Request { line })?;
    let left;
    let snapshot = if decision.without.is_empty() {
        snapshot
    } else {
        left = leaving_out(snapshot, &decision.without);
        &left
    };
    let warm = decision.warm.iter();
    let warm: Vec<_> = warm
        .map(|(index, tokens)| Warm {
            index: *index,
            tokens: *tokens,
        })
        .collect();
    compared.decisions += 1;
    let mut firsts = [None, None];
    let both = [decision.policy(old), decision.policy(new)];
    let [Some(_), Some(_)] = both else {
        compared.without_policy += 1;
        return Ok(());
    };
    for (side, policy) in both.into_iter().flatten().enumerate() {
        let question = decision.question((&meta, &context), policy, &warm);
        let limits = crate::Limits::of(&meta, &context, policy, question.now);
        let plan = decide(&question, snapshot);
        if side == 0 && is_as_recorded(decision, &plan) {
            compared.reproduced += 1;
        }
        let plan = plan.as_ref().ok().map(|plan| (plan, snapshot));
        firsts[side] = plan.map(|(plan, _)| plan.choices[0].index);
        compared.sides[side].add(&limits, plan, question.now);
    }
    compared.changed += u64::from(firsts[0] != firsts[1]);
    Ok(())
}

fn is_as_recorded(decision: &Decision, plan: &Result<Plan, Box<crate::NoCandidate>>) -> bool {
    match plan {
        Ok(plan) => {
            let choices = plan.choices.iter();
            let choices = choices.map(|c| (c.index, c.score.to_bits()));
            choices.eq(decision.choices.iter().copied())
        }
        Err(none) => {
            let removed_by = none.constraint.map(Constraint::code);
            decision.choices.is_empty() && decision.removed_by.as_deref() == removed_by
        }
    }
}
