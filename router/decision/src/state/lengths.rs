//! How long answers are, learnt from how long they were.

use super::sketch::{Moments, Sketch};
use crate::decide::Answer;
use std::collections::{BTreeMap, VecDeque};
use tiermesh_core::{ModelId, ModelSelector, PolicyName, RequestMeta, UserId};

/// Users that are learnt apart; of further ones only the policy is known.
const MAX_USERS: usize = 4_096;
/// Kinds of requests that are learnt apart: four for each policy there may be.
const MAX_KINDS: usize = 1_024;
/// Answers of a user before they say more than those of the policy; and what
/// is known of a coarser size of prompts weighs as much as so many answers to
/// a finer one.
const ENOUGH: f64 = 8.0;
/// Sizes of prompts that are learnt apart, over all kinds.
const MAX_SIZES: usize = 16_384;
/// Sizes to a doubling, from coarse to fine: where a task makes its prompts
/// from few templates, a narrow size says much, and a wide one soon says
/// something.
const SIZES_TO_A_DOUBLING: [u64; 3] = [2, 8, 32];
const HALF_LIFE: u16 = 200;
/// Beginnings of prompts that are remembered; beyond, the oldest is forgotten.
const MAX_BEGINNINGS: usize = 1 << 16;
/// Answers to prompts that begin alike say more than anything else from the
/// first one on.
const ALIKE: f64 = 1.0;

/// Requests whose answers are alike: of a policy, and within it of a task and
/// the model that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind(PolicyName, Option<(&'static str, Option<ModelId>)>);

impl Kind {
    fn of(meta: &RequestMeta) -> Self {
        let model = match &meta.model {
            ModelSelector::Auto => None,
            ModelSelector::Named(id) => Some(id.clone()),
        };
        Self(meta.policy.clone(), Some((meta.task.as_str(), model)))
    }
}

/// Prompts that are about as long: how fine, which doubling, and where in it.
type Size = (u8, u8, u8);

/// The sizes a prompt is of, from coarse to fine.
fn sizes(meta: &RequestMeta) -> impl Iterator<Item = Size> {
    let tokens = u64::from(meta.estimated_prompt_tokens().max(1));
    let octave = tokens.ilog2();
    (0..).zip(SIZES_TO_A_DOUBLING).map(move |(fine, sizes)| {
        let within = ((tokens - (1 << octave)) * sizes) >> octave;
        (fine, octave as u8, within as u8)
    })
}

/// Learnt lengths by kind of request, by its prompt's size, by user, and by
/// how prompts begin.
#[derive(Debug, Clone, Default)]
pub struct Lengths {
    of_kind: BTreeMap<Kind, Known>,
    /// Sizes in all of them.
    sizes: usize,
    /// A user's answers as a share of what was expected by kind and size.
    of_user: BTreeMap<(Kind, UserId), Moments>,
    beginnings: Beginnings,
}

/// What is known of one kind.
#[derive(Debug, Clone)]
struct Known {
    all: Moments,
    spread: Sketch,
    of_size: BTreeMap<Size, Moments>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            all: Moments::new(0.002),
            spread: Sketch::new(HALF_LIFE),
            of_size: BTreeMap::new(),
        }
    }
}

impl Known {
    /// The mean of answers to prompts of such sizes: each finer one as far as
    /// its answers outweigh what the coarser said.
    fn expect(&self, sizes: impl Iterator<Item = Size>) -> f64 {
        let known = sizes.map_while(|size| self.of_size.get(&size));
        known.fold(self.all.mean_or(1.0, 1.0), |coarser, known| {
            known.mean_beside(ENOUGH, coarser)
        })
    }
}

/// Answers to prompts that begin alike, by the digests of their beginnings:
/// one template's answers are about as long. The next longer is remembered
/// once this one was seen before, so that a prompt like no other takes one
/// place.
#[derive(Debug, Clone, Default)]
struct Beginnings {
    known: BTreeMap<u64, Moments>,
    order: VecDeque<u64>,
}

impl Beginnings {
    fn learn(&mut self, beginnings: impl Iterator<Item = u64>, tokens: f64) {
        for digest in beginnings {
            if let Some(known) = self.known.get_mut(&digest) {
                known.record(tokens);
                continue;
            }
            if self.order.len() >= MAX_BEGINNINGS
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
            let mut first = Moments::new(0.05);
            first.record(tokens);
            self.known.insert(digest, first);
            self.order.push_back(digest);
            break;
        }
    }

    /// The longer the beginning, the more it says; `otherwise` where none is
    /// known.
    fn expect(&self, beginnings: impl Iterator<Item = u64>, otherwise: f64) -> f64 {
        let known = beginnings.map_while(|digest| self.known.get(&digest));
        known.fold(otherwise, |shorter, known| known.mean_or(ALIKE, shorter))
    }
}

impl Lengths {
    /// Of the digests of a prompt's beginnings, each a block longer than the
    /// last, those that answers are learnt by: one block, two, four and so on.
    pub fn beginnings(blocks: &[u64]) -> impl Iterator<Item = &u64> {
        (0..usize::BITS).map_while(|n| blocks.get((1 << n) - 1))
    }

    /// Learns one whole answer to a request: for such requests, for its
    /// policy's, and for prompts with such [`beginnings`](Self::beginnings).
    pub fn record(
        &mut self,
        meta: &RequestMeta,
        beginnings: impl Iterator<Item = u64>,
        tokens: u32,
    ) {
        self.beginnings.learn(beginnings, f64::from(tokens.max(1)));
        self.learn(Kind::of(meta), meta, tokens);
        self.learn(Kind(meta.policy.clone(), None), meta, tokens);
    }

    fn learn(&mut self, kind: Kind, meta: &RequestMeta, tokens: u32) {
        let tokens = f64::from(tokens.max(1));
        let room = self.of_kind.len() < MAX_KINDS;
        let mut expected = tokens;
        if room || self.of_kind.contains_key(&kind) {
            let known = self.of_kind.entry(kind.clone()).or_default();
            known.all.record(tokens);
            known.spread.record(tokens);
            expected = known.expect(sizes(meta));
            for size in sizes(meta) {
                // The finer it is, the earlier there is no room for it, so
                // that kinds that come late have coarse sizes at least.
                let room = MAX_SIZES - MAX_SIZES / 4 * usize::from(size.0);
                if self.sizes >= room && !known.of_size.contains_key(&size) {
                    break;
                }
                let of_size = known.of_size.entry(size).or_insert_with(|| {
                    self.sizes += 1;
                    Moments::new(0.01)
                });
                of_size.record(tokens);
            }
        }
        let key = (kind, meta.user_id.clone());
        if self.of_user.len() < MAX_USERS || self.of_user.contains_key(&key) {
            let known = self.of_user.entry(key);
            known
                .or_insert_with(|| Moments::new(0.02))
                .record(tokens / expected);
        }
    }

    /// What to expect of the answer to a request: as prompts with such
    /// [`beginnings`](Self::beginnings) were answered, else as such requests
    /// were, else as its policy's; none before enough was learnt.
    #[must_use]
    pub fn expect(
        &self,
        meta: &RequestMeta,
        beginnings: impl Iterator<Item = u64>,
    ) -> Option<Answer> {
        let (likely, sketch) = self
            .look(Kind::of(meta), meta)
            .or_else(|| self.look(Kind(meta.policy.clone(), None), meta))?;
        let likely = self.beginnings.expect(beginnings, likely);
        let high = sketch.quantile(0.95)?.max(2.0 * likely);
        Some(Answer {
            likely: likely.ceil() as u32,
            high: high.ceil() as u32,
        })
    }

    fn look(&self, kind: Kind, meta: &RequestMeta) -> Option<(f64, &Sketch)> {
        let known = self.of_kind.get(&kind)?;
        if known.all.samples() < ENOUGH {
            return None;
        }
        let own = self.of_user.get(&(kind, meta.user_id.clone()));
        let share = own.map_or(1.0, |own| own.mean_or(ENOUGH, 1.0));
        Some((known.expect(sizes(meta)) * share, &known.spread))
    }

    /// Sizes as they are counted, and as there are.
    #[cfg(test)]
    pub(crate) fn sizes_known(&self) -> (usize, usize) {
        let kept = self.of_kind.values().map(|known| known.of_size.len());
        (self.sizes, kept.sum())
    }

    #[cfg(test)]
    pub(crate) fn beginnings_known(&self) -> usize {
        assert_eq!(self.beginnings.known.len(), self.beginnings.order.len());
        self.beginnings.known.len()
    }
}
