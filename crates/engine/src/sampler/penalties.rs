//! What changes a token's logit by itself: its bias, and that it was said
//! before.

use std::collections::BTreeMap;

use super::SamplingParams;

/// Biases and penalties of one answer. Nothing is counted, and logits are not
/// touched, where none was asked for.
pub(super) struct Penalties {
    /// In order of ids.
    biases: Vec<(u32, f32)>,
    repetition: f32,
    presence: f32,
    frequency: f32,
    /// How often the answer has a token; 0 for one that only the prompt has.
    counts: BTreeMap<u32, u32>,
    /// The logits that [`Self::apply`] changed, as they were, in that order.
    before: Vec<(u32, f32)>,
}

impl Penalties {
    pub(super) fn new(params: &SamplingParams, prompt: &[u32]) -> Self {
        let options = params.options();
        let mut penalties = Self {
            biases: options.logit_bias.clone(),
            repetition: options.repetition_penalty,
            presence: options.presence_penalty,
            frequency: options.frequency_penalty,
            counts: BTreeMap::new(),
            before: Vec::new(),
        };
        if penalties.repetition != 1.0 {
            penalties.counts = prompt.iter().map(|id| (*id, 0)).collect();
        }
        penalties
    }

    /// The answer has this token once more.
    pub(super) fn count(&mut self, id: u32) {
        if self.repetition != 1.0 || self.presence != 0.0 || self.frequency != 0.0 {
            *self.counts.entry(id).or_insert(0) += 1;
        }
    }

    /// Biases first, then what was said before.
    pub(super) fn apply(&mut self, logits: &mut [f32]) {
        for (id, bias) in &self.biases {
            if let Some(logit) = logits.get_mut(*id as usize) {
                self.before.push((*id, *logit));
                *logit += bias;
            }
        }
        for (id, count) in &self.counts {
            let Some(logit) = logits.get_mut(*id as usize) else {
                continue;
            };
            self.before.push((*id, *logit));
            // As transformers' RepetitionPenaltyLogitsProcessor does it.
            *logit = match *logit < 0.0 {
                true => *logit * self.repetition,
                false => *logit / self.repetition,
            };
            if *count > 0 {
                // A count is at most an answer's length, which f32 holds.
                *logit -= self.frequency * *count as f32;
                *logit -= self.presence;
            }
        }
    }

    /// Undoes [`Self::apply`], the last change first.
    pub(super) fn take_back(&mut self, logits: &mut [f32]) {
        for (id, logit) in self.before.drain(..).rev() {
            logits[id as usize] = logit;
        }
    }
}
