//! How long answers are, learnt from how long they were.

use super::sketch::{Moments, Sketch};
use crate::decide::Answer;
use std::collections::BTreeMap;
use tiermesh_core::{ModelId, ModelSelector, PolicyName, RequestMeta, UserId};

/// Users that are learnt apart; of further ones only the policy is known.
const MAX_USERS: usize = 4_096;
/// Kinds of requests that are learnt apart: four for each policy there may be.
const MAX_KINDS: usize = 1_024;
/// Answers of a user before they say more than those of the policy.
const ENOUGH: f64 = 8.0;
const HALF_LIFE: u16 = 200;

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

/// Learnt lengths by kind of request, and by user within it.
#[derive(Debug, Clone, Default)]
pub struct Lengths {
    of_kind: BTreeMap<Kind, (Moments, Sketch)>,
    of_user: BTreeMap<(Kind, UserId), Moments>,
}

impl Lengths {
    /// Learns one whole answer of a policy.
    pub fn record(&mut self, policy: &PolicyName, user: &UserId, tokens: u32) {
        self.learn(Kind(policy.clone(), None), user, tokens);
    }

    /// Learns one whole answer to a request: for such requests, and for its
    /// policy's.
    pub fn record_for(&mut self, meta: &RequestMeta, tokens: u32) {
        self.learn(Kind::of(meta), &meta.user_id, tokens);
        self.record(&meta.policy, &meta.user_id, tokens);
    }

    fn learn(&mut self, kind: Kind, user: &UserId, tokens: u32) {
        let tokens = f64::from(tokens.max(1));
        if self.of_kind.len() < MAX_KINDS || self.of_kind.contains_key(&kind) {
            let known = self
                .of_kind
                .entry(kind.clone())
                .or_insert_with(|| (Moments::new(0.002), Sketch::new(HALF_LIFE)));
            known.0.record(tokens);
            known.1.record(tokens);
        }
        let key = (kind, user.clone());
        if let Some(known) = self.of_user.get_mut(&key) {
            known.record(tokens);
        } else if self.of_user.len() < MAX_USERS {
            let mut known = Moments::new(0.02);
            known.record(tokens);
            self.of_user.insert(key, known);
        }
    }

    /// What to expect of a policy's next answer; none before enough was learnt.
    #[must_use]
    pub fn expect(&self, policy: &PolicyName, user: &UserId) -> Option<Answer> {
        self.look(Kind(policy.clone(), None), user)
    }

    /// What to expect of the answer to a request: as such requests were
    /// answered, else as its policy's were.
    #[must_use]
    pub fn expect_for(&self, meta: &RequestMeta) -> Option<Answer> {
        self.look(Kind::of(meta), &meta.user_id)
            .or_else(|| self.expect(&meta.policy, &meta.user_id))
    }

    fn look(&self, kind: Kind, user: &UserId) -> Option<Answer> {
        let (of_all, sketch) = self.of_kind.get(&kind)?;
        if of_all.samples() < ENOUGH {
            return None;
        }
        let likely = match self.of_user.get(&(kind, user.clone())) {
            Some(own) => own.mean_or(ENOUGH, of_all.mean_or(ENOUGH, 1.0)),
            None => of_all.mean_or(ENOUGH, 1.0),
        };
        let high = sketch.quantile(0.95)?.max(2.0 * likely);
        Some(Answer {
            likely: likely.ceil() as u32,
            high: high.ceil() as u32,
        })
    }
}
