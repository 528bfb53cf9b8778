//! One stream's work, a step at a time.

use std::sync::Arc;

use tiermesh_core::{Alternative, FinishReason, Token, TokenDetail};

use crate::loaded::Model;
use crate::model::KvCache;
use crate::sampler::{Choice, Logprobs, NotANumber, Sampler, SamplingParams};
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
    sampler: Sampler,
    max_tokens: u64,
    detokenizer: Detokenizer,
    finished: Option<FinishReason>,
    /// The end token that was written and not sent.
    end_token: Option<u32>,
}

impl Generation {
    pub(crate) fn new(model: Arc<Model>, plan: Plan) -> Self {
        let mut detokenizer = Detokenizer::new(&model.tokenizer, &plan.stop);
        let mut finished = None;
        for id in &plan.emitted {
            if let Piece::Stopped(_) = detokenizer.push(&model.tokenizer, *id) {
                finished = Some(FinishReason::Stop);
            }
        }
        let room = (model.info.context_tokens as usize).saturating_sub(plan.prompt.len());
        let max_tokens = u64::from(plan.max_tokens).min(room as u64);
        let sampler = Sampler::new(plan.sampling, plan.seed, &plan.prompt, &plan.emitted);
        if sampler.position() >= max_tokens {
            finished = finished.or(Some(FinishReason::Length));
        }
        Self {
            cache: model.decoder.cache(),
            unread_prompt: plan.prompt.len(),
            unread: plan.prompt.into_iter().chain(plan.emitted).collect(),
            sampler,
            max_tokens,
            detokenizer,
            finished,
            end_token: None,
            model,
        }
    }

    /// The model's own end, where it was written and not sent.
    pub(crate) fn end_token(&self) -> Option<u32> {
        self.end_token
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
            self.model.decoder.read(&ids, &mut self.cache);
            return Ok(Step::Read(next));
        }
        let mut logits = self.model.decoder.forward(&ids, &mut self.cache);
        let choice = self.sampler.choose(&mut logits)?;
        Ok(self.write(choice))
    }

    /// How many tokens to read now. A packed model may read any number at
    /// once. For a dense one calls must have the shapes they had, or would
    /// have had, in an undisturbed run: chunks of the prompt, then one by one.
    fn next_read(&self) -> usize {
        if self.model.decoder.is_row_exact() {
            return self.unread.len().min(CHUNK);
        }
        self.unread_prompt.clamp(1, CHUNK)
    }

    fn write(&mut self, choice: Choice) -> Step {
        let id = choice.id;
        if self.model.eos.contains(&id) {
            return self.finish(choice);
        }
        self.sampler.accept(id);
        self.unread.push_back(id);
        match self.detokenizer.push(&self.model.tokenizer, id) {
            Piece::Stopped(text) => {
                self.finished = Some(FinishReason::Stop);
                Step::Finished(Some(self.token(text, choice)), FinishReason::Stop)
            }
            Piece::Text(text) if self.sampler.position() < self.max_tokens => {
                Step::Token(self.token(text, choice))
            }
            Piece::Text(text) => {
                let (rest, reason) = self.held(FinishReason::Length);
                self.finished = Some(reason);
                Step::Finished(Some(self.token(text + &rest, choice)), reason)
            }
        }
    }

    /// The model's own end. Its token has no text and is not sent, unless
    /// there is held text to send with it.
    fn finish(&mut self, choice: Choice) -> Step {
        let (text, reason) = self.held(FinishReason::Stop);
        self.finished = Some(reason);
        if text.is_empty() {
            self.end_token = Some(choice.id);
            return Step::Finished(None, reason);
        }
        self.sampler.accept(choice.id);
        Step::Finished(Some(self.token(text, choice)), reason)
    }

    fn held(&mut self, reason: FinishReason) -> (String, FinishReason) {
        match self.detokenizer.finish(&self.model.tokenizer) {
            Piece::Text(text) => (text, reason),
            Piece::Stopped(text) => (text, FinishReason::Stop),
        }
    }

    fn token(&self, text: String, choice: Choice) -> Token {
        let detail = choice.logprobs.as_ref().map(|logprobs| {
            let tokenizer = &self.model.tokenizer;
            let alternative = |(id, logprob): &(u32, f32)| Alternative {
                id: *id,
                bytes: tokenizer.token_bytes(*id),
                logprob: *logprob,
            };
            Box::new(TokenDetail {
                bytes: tokenizer.token_bytes(choice.id),
                top: logprobs.top.iter().map(alternative).collect(),
            })
        });
        Token {
            text,
            id: Some(choice.id),
            logprob: choice.logprobs.map(|Logprobs { chosen, .. }| chosen),
            detail,
        }
    }
}

#[cfg(test)]
mod tests;
