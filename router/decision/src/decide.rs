//! The decision itself.

use crate::constraint;
use crate::limits::Limits;
use crate::plan::{Choice, MAX_FALLBACKS, Plan, Tally};
use crate::policy::Policy;
use crate::refusal::NoCandidate;
use crate::score::Scale;
use tiermesh_core::{CandidateState, Context, NodeId, RequestMeta, Snapshot, Tier, Time};

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
    /// When it is decided.
    pub now: Time,
    /// Breaks ties. Draw it per request: equal seeds pick equal nodes.
    pub seed: u64,
}

/// Decides where a request goes.
///
/// # Errors
/// When no candidate is left: what removed the last ones.
pub fn decide(question: &Question<'_>, snapshot: &Snapshot) -> Result<Plan, Box<NoCandidate>> {
    let limits = Limits::of(
        question.meta,
        question.context,
        question.policy,
        question.now,
    );
    let mut tally = Tally::default();
    if limits.deadline.is_over(question.now) {
        return Err(Box::new(NoCandidate::expired(snapshot)));
    }
    let scale = Scale::new(question.policy, question.meta, &limits, question.now);
    let mut on_time = Ranking::new(question.seed, snapshot);
    let mut late = Ranking::new(question.seed, snapshot);
    for (index, candidate) in snapshot.candidates.iter().enumerate() {
        let estimate = match constraint::check(question, &limits, candidate) {
            Ok(estimate) => estimate,
            Err(reason) => {
                tally.add(index, reason);
                continue;
            }
        };
        let points = scale.points(candidate, &estimate);
        let score = scale.score(&points);
        let choice = || Choice {
            index,
            estimate,
            points,
            score,
        };
        match constraint::deadline(&limits, question.now, &estimate) {
            Ok(()) => {
                if on_time.wants(score, score, candidate.tier) {
                    on_time.offer(score, choice(), candidate);
                }
            }
            Err(reason) => {
                tally.add(index, reason);
                let fastest = if limits.first_token_binds {
                    -estimate.first_token_p99_ms
                } else {
                    -estimate.total_ms
                };
                if late.wants(fastest, score, candidate.tier) {
                    late.offer(fastest, choice(), candidate);
                }
            }
        }
    }
    let is_late = on_time.top.is_empty() && !limits.strict;
    let ranking = if is_late { late } else { on_time };
    if ranking.top.is_empty() {
        return Err(Box::new(NoCandidate::new(
            question, &limits, snapshot, tally,
        )));
    }
    Ok(Plan {
        scores: ranking.scores,
        choices: ranking.into_choices(question.policy.fallbacks + 1),
        removed: tally.removed,
        counts: tally.counts,
        late: is_late,
    })
}

/// The best candidates so far, without two of the same node but for the
/// cloud's, whose models fail apart.
struct Ranking<'a> {
    seed: u64,
    snapshot: &'a Snapshot,
    top: Vec<Ranked>,
    best: [Option<Ranked>; 3],
    scores: [f64; 3],
}

#[derive(Clone, Copy)]
struct Ranked {
    rank: f64,
    choice: Choice,
}

impl<'a> Ranking<'a> {
    const LENGTH: usize = MAX_FALLBACKS + 1;

    const fn new(seed: u64, snapshot: &'a Snapshot) -> Self {
        Self {
            seed,
            snapshot,
            top: Vec::new(),
            best: [None; 3],
            scores: [0.0; 3],
        }
    }

    /// Notes the tier's score, and tells whether the candidate can be in the
    /// plan: of a thousand, most cannot, and cost nothing more.
    #[inline]
    fn wants(&mut self, rank: f64, score: f64, tier: Tier) -> bool {
        let best = &mut self.scores[tier as usize];
        *best = best.max(score);
        let beaten = |by: Option<&Ranked>| by.is_some_and(|by| rank < by.rank);
        self.top.len() < Self::LENGTH
            || !beaten(self.best[tier as usize].as_ref())
            || !beaten(self.top.last())
    }

    fn offer(&mut self, rank: f64, choice: Choice, candidate: &CandidateState) {
        let tier = candidate.tier as usize;
        let ranked = Ranked { rank, choice };
        if self.best[tier].is_none_or(|best| self.beats(&ranked, &best)) {
            self.best[tier] = Some(ranked);
        }
        if candidate.tier != Tier::Cloud
            && let Some(twin) = self
                .top
                .iter()
                .position(|other| other.choice.candidate(self.snapshot).node == candidate.node)
        {
            if !self.beats(&ranked, &self.top[twin]) {
                return;
            }
            self.top.remove(twin);
        }
        let place = self.top.partition_point(|other| self.beats(other, &ranked));
        if place < Self::LENGTH {
            self.top.truncate(Self::LENGTH - 1);
            self.top.insert(place, ranked);
        }
    }

    fn beats(&self, a: &Ranked, b: &Ranked) -> bool {
        a.rank > b.rank || (a.rank == b.rank && self.lot(a) > self.lot(b))
    }

    /// A candidate's lot in a tie: drawn from its names and the seed, so that
    /// its place in the snapshot does not matter.
    fn lot(&self, ranked: &Ranked) -> u64 {
        let candidate = ranked.choice.candidate(self.snapshot);
        let names = [candidate.node.as_str(), candidate.model.id.as_str()];
        let mut lot = self.seed ^ 0xcbf2_9ce4_8422_2325;
        for byte in names.into_iter().flat_map(str::bytes) {
            lot = (lot ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // FNV's high bits mix poorly; this finish is splitmix's.
        lot = (lot ^ (lot >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        lot ^ (lot >> 31)
    }

    /// The best, at most `length` of them, with the best of every tier among
    /// them as far as they reach: a tier's trouble may be common to its nodes.
    fn into_choices(mut self, length: usize) -> Vec<Choice> {
        self.top.truncate(length);
        let of_tier = |tier: usize, ranked: &Ranked| {
            ranked.choice.candidate(self.snapshot).tier as usize == tier
        };
        let mut missing: Vec<_> = (0..3)
            .filter(|tier| !self.top.iter().any(|ranked| of_tier(*tier, ranked)))
            .filter_map(|tier| self.best[tier])
            .collect();
        missing.sort_by(|a, b| b.rank.total_cmp(&a.rank));
        if self.top.len() == length {
            let stay = length.saturating_sub(missing.len()).max(1);
            self.top.truncate(stay);
        }
        self.top.extend(missing);
        self.top.truncate(length);
        self.top.into_iter().map(|ranked| ranked.choice).collect()
    }
}
