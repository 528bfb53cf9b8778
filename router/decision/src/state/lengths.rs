//! How long answers are, learnt from how long they were.

use super::sketch::{Moments, Sketch};
use crate::decide::Answer;
use std::collections::{BTreeMap, VecDeque};
use tiermesh_core::{ModelId, ModelSelector, PolicyName, RequestMeta, UserId};

/// Users that are learnt apart; of further ones only the policy is known.
const MAX_USERS: usize = 4_096;
/// Kinds of requests that are learnt apart: four for each policy there may be.
const MAX_KINDS: usize = 1_024;
/// Answers of a user before they say more than those of the policy.
const ENOUGH: f64 = 8.0;
/// Sizes of prompts that are learnt apart, over all kinds.
const MAX_SIZES: usize = 16_384;
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

/// Prompts that are about as long: two sizes to a doubling.
fn size(meta: &RequestMeta) -> u8 {
    let tokens = meta.estimated_prompt_tokens().max(1);
    let octave = tokens.ilog2();
    let upper_half = octave > 0 && tokens >> (octave - 1) & 1 == 1;
    (2 * octave) as u8 + u8::from(upper_half)
}

/// Learnt lengths by kind of request, by its prompt's size, by user, and by
/// how prompts begin.
#[derive(Debug, Clone, Default)]
pub struct Lengths {
    of_kind: BTreeMap<Kind, (Moments, Sketch)>,
    of_size: BTreeMap<(Kind, u8), Moments>,
    /// A user's answers as a share of what was expected by kind and size.
    of_user: BTreeMap<(Kind, UserId), Moments>,
    beginnings: Beginnings,
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
        let (tokens, size) = (f64::from(tokens.max(1)), size(meta));
        if self.of_kind.len() < MAX_KINDS || self.of_kind.contains_key(&kind) {
            let known = self
                .of_kind
                .entry(kind.clone())
                .or_insert_with(|| (Moments::new(0.002), Sketch::new(HALF_LIFE)));
            known.0.record(tokens);
            known.1.record(tokens);
        }
        let expected = self.of_such(&kind, size).unwrap_or(tokens);
        let key = (kind, size);
        if self.of_size.len() < MAX_SIZES || self.of_size.contains_key(&key) {
            let known = self.of_size.entry(key.clone());
            known.or_insert_with(|| Moments::new(0.01)).record(tokens);
        }
        let key = (key.0, meta.user_id.clone());
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

    /// The mean of answers to prompts of a size; of all sizes, where few of
    /// this one were answered.
    fn of_such(&self, kind: &Kind, size: u8) -> Option<f64> {
        let (of_all, _) = self.of_kind.get(kind)?;
        let of_size = self.of_size.get(&(kind.clone(), size));
        let all = of_all.mean_or(1.0, 1.0);
        Some(of_size.map_or(all, |known| known.mean_or(ENOUGH, all)))
    }

    fn look(&self, kind: Kind, meta: &RequestMeta) -> Option<(f64, &Sketch)> {
        let (of_all, sketch) = self.of_kind.get(&kind)?;
        if of_all.samples() < ENOUGH {
            return None;
        }
        let expected = self.of_such(&kind, size(meta))?;
        let own = self.of_user.get(&(kind, meta.user_id.clone()));
        let share = own.map_or(1.0, |own| own.mean_or(ENOUGH, 1.0));
        Some((expected * share, sketch))
    }

    #[cfg(test)]
    pub(crate) fn beginnings_known(&self) -> usize {
        assert_eq!(self.beginnings.known.len(), self.beginnings.order.len());
        self.beginnings.known.len()
    }
}
