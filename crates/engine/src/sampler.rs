//! The next token from logits: a function of logits, the tokens so far,
//! parameters, seed and position, and of nothing else.
//!
//! In this order, as the field does it:
//!
//! 1. the log-probabilities that were asked for, of what the model computed;
//! 2. logit bias, then the repetition penalty over prompt and answer, then
//!    frequency and presence penalties over the answer;
//! 3. with temperature 0 the likeliest token, and that is all;
//! 4. temperature, top-k, top-p, min-p, and a draw among what is left.
//!
//! Each of 4's filters sees the distribution that the one before it left, made
//! to sum to one again. What a penalty counts is rebuilt from the prompt's and
//! the answer's tokens, so an answer that goes on elsewhere goes on the same.
//!
//! Nothing here calls the system's math library, and every sum has a fixed
//! order. Changing any of it changes seeded answers: it is part of the
//! numerics id through the engine's revision.

mod draw;
mod logprobs;
mod params;
mod penalties;
mod philox;
mod softmax;

pub(crate) use logprobs::Logprobs;
pub use params::{SamplingError, SamplingOptions, SamplingParams};

use draw::Room;
use logprobs::Distribution;
use penalties::Penalties;

/// A model's logits were not numbers: it, or its input, is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model computed logits that are not numbers at position {position}")]
pub struct NotANumber {
    /// The position in the answer.
    pub position: u64,
}

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) id: u32,
    /// Where they were asked for.
    pub(crate) logprobs: Option<Logprobs>,
}

/// Chooses the tokens of one answer.
pub(crate) struct Sampler {
    params: SamplingParams,
    seed: u64,
    /// Tokens of the answer so far: the position of the next one.
    position: u64,
    penalties: Penalties,
    /// Empty until something is drawn or told.
    room: Room,
}

impl Sampler {
    /// For an answer to `prompt` that goes on after `emitted`.
    pub(crate) fn new(params: SamplingParams, seed: u64, prompt: &[u32], emitted: &[u32]) -> Self {
        let mut sampler = Self {
            penalties: Penalties::new(&params, prompt),
            params,
            seed,
            position: 0,
            room: Room::default(),
        };
        for id in emitted {
            sampler.accept(*id);
        }
        sampler
    }

    /// Tokens of the answer so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Chooses the next token. Of equally likely ones the lower id comes
    /// first. Where only some tokens are `allowed`, a bit each, the others' are
    /// out of the draw; what is told of probabilities is the model's own.
    pub(crate) fn choose(
        &mut self,
        logits: &mut [f32],
        allowed: Option<&[u32]>,
    ) -> Result<Choice, NotANumber> {
        let broken = NotANumber {
            position: self.position,
        };
        let asked = self.params.options().logprobs;
        let distribution = match asked {
            None => None,
            Some(top) => {
                let weights = &mut self.room.weights;
                Some(Distribution::of(logits, top.into(), weights).ok_or(broken)?)
            }
        };
        self.penalties.apply(logits);
        if let Some(allowed) = allowed {
            mask(logits, allowed);
        }
        let drawn = draw::draw(
            logits,
            self.params.options(),
            || philox::uniform(self.seed, self.position),
            &mut self.room,
        );
        self.penalties.take_back(logits);
        let id = drawn.ok_or(broken)?;
        Ok(Choice {
            id,
            logprobs: distribution.map(|d| d.logprobs(logits, id)),
        })
    }

    /// The answer has this token now.
    pub(crate) fn accept(&mut self, id: u32) {
        self.position += 1;
        self.penalties.count(id);
    }
}

/// Takes all tokens without a bit out.
fn mask(logits: &mut [f32], allowed: &[u32]) {
    let words = allowed.iter().copied().chain(std::iter::repeat(0));
    for (logits, word) in logits.chunks_mut(32).zip(words) {
        if word == u32::MAX {
            continue;
        }
        for (bit, logit) in logits.iter_mut().enumerate() {
            if word & (1 << bit) == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

#[cfg(test)]
mod tests;
