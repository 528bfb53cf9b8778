//! The decision itself.

use crate::constraint::{self, Constraint};
use crate::estimate::Estimate;
use crate::limits::Limits;
use crate::plan::{Choice, Plan, Tally, Wanted};
use crate::policy::Policy;
use crate::ranking::{Ranking, mix};
use crate::refusal::NoCandidate;
use crate::score::Scale;
use tiermesh_core::candidates::Chunk;
use tiermesh_core::{CandidateState, Context, NodeId, Region, RequestMeta, Snapshot, Time, Usd};

mod holding;

/// Up to so many candidates, every one is looked at. Beyond, a draw of
/// [`DRAWN_CHUNKS`] chunks stands for the rest of those that anybody may use,
/// and only if none of them would be in time, all are.
const ALL_UP_TO: usize = 512;
const DRAWN_CHUNKS: usize = 4;

/// What is to be decided, beside the snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The request, without its content.
    pub meta: &'a RequestMeta,
    /// What travels with it.
    pub context: &'a Context,
    /// The policy it runs under.
    pub policy: &'a Policy,
    /// The node that decides: its own engine is always in scope.
    pub own: &'a NodeId,
    /// The zone that comes first among equals: the client's, where known, else
    /// the deciding node's.
    pub zone: Option<&'a Region>,
    /// How hard it is, 0 to 1, where that was estimated.
    pub complexity: Option<f64>,
    /// Tokens of its prompt as models count, where that was learnt. It moves
    /// what to expect; limits go by the request's own bytes.
    pub prompt_tokens: Option<u32>,
    /// How long such answers have been; none when nothing was learnt.
    pub answer: Option<Answer>,
    /// Who has how much of the prompt at hand, where that is known.
    pub warm: &'a [Warm],
    /// It may be held back until a slot comes free, and then at most so many
    /// are before it, whoever else is held: [`u32::MAX`] for one that comes
    /// new. None where it may not.
    pub hold: Option<u32>,
    /// When it is decided.
    pub now: Time,
    /// Breaks ties. Draw it per request: equal seeds pick equal nodes.
    pub seed: u64,
}

/// A learnt length of an answer, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// What to expect.
    pub likely: u32,
    /// What is hardly exceeded.
    pub high: u32,
}

/// A candidate that has the beginning of the prompt at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warm {
    /// Its place in the snapshot.
    pub index: usize,
    /// Tokens it need not read again.
    pub tokens: u32,
}

impl Question<'_> {
    #[inline]
    pub(crate) fn warm_tokens(&self, index: usize) -> u32 {
        let found = self.warm.iter().find(|warm| warm.index == index);
        found.map_or(0, |warm| warm.tokens)
    }
}

/// Decides where a request goes.
///
/// # Errors
/// When no candidate is left: what removed the last ones.
pub fn decide(question: &Question<'_>, snapshot: &Snapshot) -> Result<Plan, Box<NoCandidate>> {
    let limits = Limits::asked(question);
    if limits.deadline.is_over(question.now) {
        return Err(Box::new(NoCandidate::expired(snapshot)));
    }
    let mut round = Round::new(question, snapshot, &limits);
    if snapshot.candidates.len() > ALL_UP_TO {
        round.look_at_some();
        // Nobody waits while somebody who was not drawn has a slot free.
        let first = round.on_time.first();
        if first.is_none_or(|first| round.whole(first).estimate.held) {
            round = Round::new(question, snapshot, &limits);
            round.look_at_all();
        }
    } else {
        round.look_at_all();
    }
    let plan = round.plan()?;
    if plan.hold.is_none() && plan.choices.iter().any(|c| c.estimate.held) {
        // It is not to wait: who would be waited for is no choice.
        let at_once = Question {
            hold: None,
            ..*question
        };
        let wanted = plan.wanted;
        return decide(&at_once, snapshot).map(|plan| Plan { wanted, ..plan });
    }
    Ok(plan)
}

/// One pass over candidates.
struct Round<'a> {
    question: &'a Question<'a>,
    snapshot: &'a Snapshot,
    limits: &'a Limits,
    scale: Scale<'a>,
    /// Milliseconds to the first token's deadline, where it binds.
    slack_ms: f64,
    tally: Tally,
    on_time: Ranking<'a>,
    late: Ranking<'a>,
    wanted: Option<(f64, Wanted)>,
    /// The best that would be in time without waiting, in the plan or not: its
    /// score, less than any while there is none, and its place.
    at_once: (f64, usize),
    dearest: Usd,
}

impl<'a> Round<'a> {
    fn new(question: &'a Question<'a>, snapshot: &'a Snapshot, limits: &'a Limits) -> Self {
        let left = limits.deadline.first_token_remaining(question.now);
        Self {
            question,
            snapshot,
            limits,
            scale: Scale::new(question, limits),
            slack_ms: left.map_or(f64::INFINITY, |left| left.as_secs_f64() * 1e3),
            tally: Tally::new(),
            on_time: Ranking::new(question, snapshot),
            late: Ranking::new(question, snapshot),
            wanted: None,
            at_once: (f64::NEG_INFINITY, 0),
            dearest: Usd::ZERO,
        }
    }

    fn look_at_all(&mut self) {
        for (first, chunk) in self.snapshot.candidates.chunks() {
            self.look_at(first, chunk);
        }
    }

    /// Devices of others are stepped over by the chunk; of the nodes that
    /// anybody may use, chunks are drawn by the seed, and whoever has the
    /// prompt at hand is looked at in any case.
    fn look_at_some(&mut self) {
        let user = &self.question.meta.user_id;
        let candidates = &self.snapshot.candidates;
        let usable = |chunk: &Chunk| chunk.may_serve(user);
        let count = candidates.chunks().filter(|(_, c)| usable(c)).count();
        let draw = mix(self.question.seed) as usize % count.max(1);
        let every = (count / DRAWN_CHUNKS).max(1);
        let (mut seen, mut tiers) = (0, [false; 3]);
        for (first, chunk) in candidates.chunks() {
            if !usable(chunk) {
                let others = u32::try_from(chunk.items().len()).unwrap_or(u32::MAX);
                let owner = &mut self.tally.counts[Constraint::Owner as usize];
                *owner = owner.saturating_add(others);
                continue;
            }
            let drawn = (seen + draw).is_multiple_of(every);
            seen += 1;
            // A tier is never left out for a draw.
            let tier = chunk.items().first().map_or(0, |c| c.tier as usize);
            let is_new = !std::mem::replace(&mut tiers[tier], true);
            let warm = self.question.warm.iter();
            let is_warm = warm.clone().any(|w| w.index.wrapping_sub(first) < 64);
            if drawn || is_new || is_warm {
                self.look_at(first, chunk);
            }
        }
    }

    fn look_at(&mut self, first: usize, chunk: &Chunk) {
        for (at, candidate) in chunk.items().iter().enumerate() {
            self.consider(first + at, candidate);
        }
    }

    #[inline]
    fn consider(&mut self, index: usize, candidate: &CandidateState) {
        let estimate = match constraint::check(self.question, self.limits, candidate, index) {
            Ok(estimate) => estimate,
            Err(reason) => return self.tally.add(index, reason),
        };
        let score = self.scale.score(&self.scale.points(candidate, &estimate));
        self.would_want(index, candidate, &estimate, score);
        match constraint::deadline(self.limits, self.question.now, &estimate) {
            Ok(()) => {
                if score > self.at_once.0 && !estimate.held {
                    self.at_once = (score, index);
                }
                if self.on_time.wants(score, score, candidate.tier) {
                    self.on_time.offer(score, index, candidate);
                }
            }
            Err(reason) => {
                self.tally.add(index, reason);
                let rank = if self.limits.first_token_binds {
                    match estimate.z(self.slack_ms) {
                        // Hopeless: only how late still counts.
                        z if z < -4.0 => -4.0 - estimate.first_token_p99_ms,
                        z => z,
                    }
                } else {
                    -estimate.total_ms
                };
                if self.late.wants(rank, score, candidate.tier) {
                    self.late.offer(rank, index, candidate);
                }
            }
        }
    }

    /// Notes who would be chosen if slots were free and as dear as they get.
    #[inline]
    fn would_want(
        &mut self,
        index: usize,
        candidate: &CandidateState,
        estimate: &Estimate,
        score: f64,
    ) {
        if estimate.served_ms.1 > self.slack_ms {
            return;
        }
        self.dearest = self.dearest.max(estimate.likely_cost);
        let outlook = &candidate.outlook;
        let as_it_is = !estimate.held && (outlook.scarcity >= 1.0 || outlook.slot_usd_s <= 0.0);
        let score = if as_it_is {
            score
        } else {
            let wanted = estimate.wanted(outlook);
            self.scale.score(&self.scale.points(candidate, &wanted))
        };
        if self.wanted.is_none_or(|(best, _)| score > best) {
            let wanted = Wanted {
                index,
                hold_ms: estimate.hold_ms,
                cost: estimate.likely_cost,
                saves: Usd::ZERO,
            };
            self.wanted = Some((score, wanted));
        }
    }

    /// What the ranking only kept the place of.
    fn whole(&self, index: usize) -> Choice {
        let candidate = &self.snapshot.candidates[index];
        let warm = self.question.warm_tokens(index);
        let (policy, now) = (self.question.policy, self.question.now);
        let warm = (warm, self.question.hold);
        let estimate = Estimate::of(self.limits, policy, candidate, now, warm);
        let points = self.scale.points(candidate, &estimate);
        Choice {
            index,
            estimate,
            points,
            score: self.scale.score(&points),
        }
    }

    fn plan(&self) -> Result<Plan, Box<NoCandidate>> {
        let policy = self.question.policy;
        let hopeful = || {
            let best = self.late.first().map(|index| self.whole(index));
            best.is_some_and(|c| c.estimate.chance(self.slack_ms) >= policy.least_chance)
        };
        let may_be_late = || {
            !self.limits.strict
                || (policy.least_chance < policy.sure && self.limits.first_token_binds && hopeful())
        };
        let is_late = self.on_time.is_empty() && may_be_late();
        let ranking = if is_late { &self.late } else { &self.on_time };
        if ranking.is_empty() {
            return Err(Box::new(NoCandidate::new(
                self.question,
                self.limits,
                self.snapshot,
                &self.tally,
            )));
        }
        let mut choices = ranking.choices(policy.fallbacks + 1, |index| self.whole(index));
        let explored = !is_late && explore(self.question, self.snapshot, &mut choices);
        let wanted = self.wanted.map(|(_, wanted)| Wanted {
            saves: Usd::from_nanos(
                self.dearest
                    .as_nanos()
                    .saturating_sub(wanted.cost.as_nanos()),
            ),
            ..wanted
        });
        Ok(Plan {
            hold: self.hold(&choices, is_late),
            wanted,
            scores: ranking.scores,
            choices,
            removed: self.tally.removed,
            counts: self.tally.counts,
            late: is_late,
            explored,
        })
    }
}

/// Puts the least known of the choices first, for the policy's share of the
/// seeds. All of them are allowed and in time.
fn explore(
    question: &Question<'_>,
    snapshot: &Snapshot,
    choices: &mut crate::ranking::Choices,
) -> bool {
    let share = question.policy.explore;
    if share <= 0.0 {
        return false;
    }
    // The top 53 bits are a number below 1.
    let lot = (mix(question.seed ^ 0x6578_706c_6f72_6521) >> 11) as f64 / (1_u64 << 53) as f64;
    if lot >= share {
        return false;
    }
    let samples = |choice: &Choice| choice.candidate(snapshot).outlook.samples;
    let least = choices
        .iter()
        .enumerate()
        .min_by(|(_, a), (_, b)| samples(a).total_cmp(&samples(b)))
        .map_or(0, |(at, _)| at);
    choices.swap(0, least);
    least != 0
}
