//! One stream's work, a step at a time.

use std::sync::Arc;

use tiermesh_core::{FinishReason, Token};

use crate::loaded::Model;
use crate::model::KvCache;
use crate::sampler::{NotANumber, SamplingParams, sample};
use crate::tokenizer::{Detokenizer, Piece};

/// Prompt tokens read in one step. A cancel or a deadline waits for no more
/// than this.
const CHUNK: usize = 128;

/// What a stream computes, checked by [`Generation::new`]'s caller.
pub(crate) struct Plan {
    pub(crate) prompt: Vec<u32>,
    /// Tokens of the answer that the client has already.
    pub(crate) emitted: Vec<u32>,
    pub(crate) sampling: SamplingParams,
    pub(crate) seed: u64,
    /// The answer's length at most, emitted tokens included.
    pub(crate) max_tokens: u32,
    pub(crate) stop: Vec<String>,
}

/// What a step did.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Read so many tokens of the prompt; more remain.
    Read(usize),
    /// Wrote a token.
    Token(Token),
    /// Wrote the last token, or found the end; text that was held back comes
    /// with it.
    Finished(Option<Token>, FinishReason),
}

/// The state of one stream.
pub(crate) struct Generation {
    model: Arc<Model>,
    cache: KvCache,
    /// Tokens the cache does not hold yet, and how many of them were the
    /// prompt's (those are read in chunks, the others may have to be one by
    /// one).
    unread: std::collections::VecDeque<u32>,
    unread_prompt: usize,
    sampling: SamplingParams,
    seed: u64,
    /// Tokens of the answer so far: the position of the next one.
    position: u64,
    max_tokens: u64,
    detokenizer: Detokenizer,
    finished: Option<FinishReason>,
}

impl Generation {
    pub(crate) fn new(model: Arc<Model>, plan: Plan) -> Self {
        let mut detokenizer = Detokenizer::new(&plan.stop);
        let mut finished = None;
        for id in &plan.emitted {
            if let Piece::Stopped(_) = detokenizer.push(&model.tokenizer, *id) {
                finished = Some(FinishReason::Stop);
            }
        }
        let room = (model.info.context_tokens as usize).saturating_sub(plan.prompt.len());
        let max_tokens = u64::from(plan.max_tokens).min(room as u64);
        let position = plan.emitted.len() as u64;
        if position >= max_tokens {
            finished = finished.or(Some(FinishReason::Length));
        }
        Self {
            cache: model.llama.cache(),
            unread_prompt: plan.prompt.len(),
            unread: plan.prompt.into_iter().chain(plan.emitted).collect(),
            sampling: plan.sampling,
            seed: plan.seed,
            position,
            max_tokens,
            detokenizer,
            finished,
            model,
        }
    }

    /// Does the next piece of work. After [`Step::Finished`] there is none.
    pub(crate) fn step(&mut self) -> Result<Step, NotANumber> {
        if let Some(reason) = self.finished {
            return Ok(Step::Finished(None, reason));
        }
        let next = self.next_read();
        let ids: Vec<u32> = self.unread.drain(..next).collect();
        self.unread_prompt = self.unread_prompt.saturating_sub(next);
        if !self.unread.is_empty() {
            self.model.llama.read(&ids, &mut self.cache);
            return Ok(Step::Read(next));
        }
        let logits = self.model.llama.forward(&ids, &mut self.cache);
        let id = sample(&logits, self.sampling, self.seed, self.position)?;
        Ok(self.write(id))
    }

    /// How many tokens to read now. A packed model may read any number at
    /// once. For a dense one calls must have the shapes they had, or would
    /// have had, in an undisturbed run: chunks of the prompt, then one by one.
    fn next_read(&self) -> usize {
        if self.model.llama.is_row_exact() {
            return self.unread.len().min(CHUNK);
        }
        self.unread_prompt.clamp(1, CHUNK)
    }

    fn write(&mut self, id: u32) -> Step {
        if self.model.eos.contains(&id) {
            return self.finish(id);
        }
        self.position += 1;
        self.unread.push_back(id);
        match self.detokenizer.push(&self.model.tokenizer, id) {
            Piece::Stopped(text) => {
                self.finished = Some(FinishReason::Stop);
                Step::Finished(Some(token(text, id)), FinishReason::Stop)
            }
            Piece::Text(text) if self.position < self.max_tokens => Step::Token(token(text, id)),
            Piece::Text(text) => {
                let (rest, reason) = self.held(FinishReason::Length);
                self.finished = Some(reason);
                Step::Finished(Some(token(text + &rest, id)), reason)
            }
        }
    }

    /// The model's own end. Its token has no text and is not sent, unless
    /// there is held text to send with it.
    fn finish(&mut self, id: u32) -> Step {
        let (text, reason) = self.held(FinishReason::Stop);
        self.finished = Some(reason);
        if text.is_empty() {
            return Step::Finished(None, reason);
        }
        self.position += 1;
        Step::Finished(Some(token(text, id)), reason)
    }

    fn held(&mut self, reason: FinishReason) -> (String, FinishReason) {
        match self.detokenizer.finish(&self.model.tokenizer) {
            Piece::Text(text) => (text, reason),
            Piece::Stopped(text) => (text, FinishReason::Stop),
        }
    }
}

fn token(text: String, id: u32) -> Token {
    Token {
        text,
        id: Some(id),
        logprob: None,
    }
}

#[cfg(test)]
mod tests;
