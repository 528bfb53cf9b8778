//! The best candidates so far.

use crate::decide::Question;
use crate::few::Few;
use crate::plan::{Choice, MAX_FALLBACKS};
use tiermesh_core::{CandidateState, Snapshot, Tier};

/// Room for a plan's choices.
pub(crate) type Choices = Few<Choice, { MAX_FALLBACKS + 1 }>;

/// The best candidates so far, without two of the same node but for the
/// cloud's, whose models fail apart.
pub(crate) struct Ranking<'a> {
    question: &'a Question<'a>,
    snapshot: &'a Snapshot,
    top: Few<Ranked, { MAX_FALLBACKS + 1 }>,
    best: [Option<Ranked>; 3],
    pub(crate) scores: [f64; 3],
}

#[derive(Clone, Copy)]
pub(crate) struct Ranked {
    rank: f64,
    pub(crate) index: usize,
}

impl<'a> Ranking<'a> {
    const LENGTH: usize = MAX_FALLBACKS + 1;

    pub(crate) const fn new(question: &'a Question<'a>, snapshot: &'a Snapshot) -> Self {
        Self {
            question,
            snapshot,
            top: Few::new(),
            best: [None; 3],
            scores: [0.0; 3],
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.top.is_empty()
    }

    /// The best one's place in the snapshot.
    pub(crate) fn first(&self) -> Option<usize> {
        self.top.first().map(|ranked| ranked.index)
    }

    /// Notes the tier's score, and tells whether the candidate can be in the
    /// plan: of a thousand, most cannot, and cost nothing more.
    #[inline]
    pub(crate) fn wants(&mut self, rank: f64, score: f64, tier: Tier) -> bool {
        let best = &mut self.scores[tier as usize];
        *best = best.max(score);
        let beaten = |by: Option<&Ranked>| by.is_some_and(|by| rank < by.rank);
        self.top.len() < Self::LENGTH
            || !beaten(self.best[tier as usize].as_ref())
            || !beaten(self.top.last())
    }

    pub(crate) fn offer(&mut self, rank: f64, index: usize, candidate: &CandidateState) {
        let tier = candidate.tier as usize;
        let ranked = Ranked { rank, index };
        if self.best[tier].is_none_or(|best| self.beats(&ranked, &best)) {
            self.best[tier] = Some(ranked);
        }
        let same = |other: &Ranked| self.candidate(other).node == candidate.node;
        let twin = self.top.iter().position(same);
        if let Some(twin) = twin.filter(|_| candidate.tier != Tier::Cloud) {
            if !self.beats(&ranked, &self.top[twin]) {
                return;
            }
            self.top.remove(twin);
        }
        let from_last = self.top.iter().rev();
        let behind = from_last.take_while(|other| self.beats(&ranked, other));
        let place = self.top.len() - behind.count();
        self.top.insert(place, ranked);
    }

    /// Of equals the zone's own goes first, then the lot decides.
    fn beats(&self, a: &Ranked, b: &Ranked) -> bool {
        if a.rank != b.rank {
            return a.rank > b.rank;
        }
        let here = |ranked: &Ranked| {
            let region = self.candidate(ranked).region.as_ref();
            self.question.zone.is_some() && region == self.question.zone
        };
        let (a_here, b_here) = (here(a), here(b));
        if a_here != b_here {
            return a_here;
        }
        self.lot(a) > self.lot(b)
    }

    /// A candidate's lot in a tie: drawn from its names and the seed, so that
    /// its place in the snapshot does not matter.
    fn lot(&self, ranked: &Ranked) -> u64 {
        let candidate = self.candidate(ranked);
        let names = [candidate.node.as_str(), candidate.model.id.as_str()];
        let mut lot = self.question.seed ^ 0xcbf2_9ce4_8422_2325;
        for byte in names.into_iter().flat_map(str::bytes) {
            lot = (lot ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        mix(lot)
    }

    fn candidate(&self, ranked: &Ranked) -> &CandidateState {
        &self.snapshot.candidates[ranked.index]
    }

    /// The best, at most `length` of them, with the best of every tier among
    /// them as far as they reach: a tier's trouble may be common to its nodes.
    /// `whole` works each out again. The first two of a tie are two draws
    /// among it, and the one that would be done sooner goes first: the power
    /// of two choices.
    pub(crate) fn choices(&self, length: usize, whole: impl Fn(usize) -> Choice) -> Choices {
        let mut top = self.top;
        top.truncate(length);
        let of_tier = |tier: usize, ranked: &Ranked| self.candidate(ranked).tier as usize == tier;
        let mut missing: Few<Ranked, 3> = Few::new();
        for tier in 0..3 {
            let known = top.iter().any(|ranked| of_tier(tier, ranked));
            if let Some(best) = self.best[tier].filter(|_| !known) {
                let ahead = missing.iter().filter(|m| m.rank >= best.rank).count();
                missing.insert(ahead, best);
            }
        }
        if top.len() == length {
            let stay = length.saturating_sub(missing.len()).max(1);
            top.truncate(stay);
        }
        let mut choices = Choices::new();
        for ranked in top.iter().chain(missing.iter()).take(length) {
            choices.push(whole(ranked.index));
        }
        if let (Some(a), Some(b)) = (top.get(0), top.get(1)) {
            let same = a.rank == b.rank && self.candidate(a).tier == self.candidate(b).tier;
            if same && choices[1].estimate.total_ms < choices[0].estimate.total_ms {
                choices.swap(0, 1);
            }
        }
        choices
    }
}

/// Splitmix's finish: every bit of the result depends on every bit given.
pub(crate) const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
