//! How long answers are, learnt from how long they were.

use super::sketch::{Moments, Sketch};
use crate::decide::Answer;
use std::collections::BTreeMap;
use tiermesh_core::{PolicyName, UserId};

/// Users that are learnt apart; of further ones only the policy is known.
const MAX_USERS: usize = 4_096;
/// Policies that are learnt apart, as many as there may be.
const MAX_POLICIES: usize = 256;
/// Answers of a user before they say more than those of the policy.
const ENOUGH: f64 = 8.0;
const HALF_LIFE: u16 = 200;

/// Learnt lengths by policy, and by user within it.
#[derive(Debug, Clone, Default)]
pub struct Lengths {
    of_policy: BTreeMap<PolicyName, (Moments, Sketch)>,
    of_user: BTreeMap<(PolicyName, UserId), Moments>,
}

impl Lengths {
    /// Learns one whole answer.
    pub fn record(&mut self, policy: &PolicyName, user: &UserId, tokens: u32) {
        let tokens = f64::from(tokens.max(1));
        if self.of_policy.len() < MAX_POLICIES || self.of_policy.contains_key(policy) {
            let known = self
                .of_policy
                .entry(policy.clone())
                .or_insert_with(|| (Moments::new(0.002), Sketch::new(HALF_LIFE)));
            known.0.record(tokens);
            known.1.record(tokens);
        }
        let key = (policy.clone(), user.clone());
        if let Some(known) = self.of_user.get_mut(&key) {
            known.record(tokens);
        } else if self.of_user.len() < MAX_USERS {
            let mut known = Moments::new(0.02);
            known.record(tokens);
            self.of_user.insert(key, known);
        }
    }

    /// What to expect of the next; none before enough was learnt.
    #[must_use]
    pub fn expect(&self, policy: &PolicyName, user: &UserId) -> Option<Answer> {
        let (of_all, sketch) = self.of_policy.get(policy)?;
        if of_all.samples() < ENOUGH {
            return None;
        }
        let likely = match self.of_user.get(&(policy.clone(), user.clone())) {
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
