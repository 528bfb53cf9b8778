//! One stream's work, a step at a time.

use std::sync::Arc;

use tiermesh_core::{Alternative, FinishReason, Token, TokenDetail};

use super::prefix::{Parent, PrefixIndex};
use crate::constraint::Constraint;
use crate::loaded::Model;
use crate::model::{Input, KvCache, PAGE, PagePool};
use crate::sampler::{Choice, Logprobs, Sampler, SamplingParams};
use crate::stream::StreamError;
use crate::tokenizer::{Detokenizer, Piece};

/// Prompt tokens that a dense model reads in one call, and any model by itself.
pub(crate) const CHUNK: usize = 128;

/// What a stream computes, checked by [`Sequence::new`]'s caller.
pub(crate) struct Plan {
    pub(crate) prompt: Vec<u32>,
    /// Tokens of the answer that the client has already.
    pub(crate) emitted: Vec<u32>,
    pub(crate) sampling: SamplingParams,
    pub(crate) seed: u64,
    /// The answer's length at most, emitted tokens included.
    pub(crate) max_tokens: u32,
    pub(crate) stop: Vec<String>,
    /// What the answer must fit.
    pub(crate) constraint: Option<Constraint>,
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

/// The state of one stream: its tokens, what of them was read, and how the
/// next one is chosen.
pub(crate) struct Sequence {
    pub(crate) model: Arc<Model>,
    cache: KvCache,
    /// The prompt, what the client has already, and what was written since.
    tokens: Vec<u32>,
    prompt: usize,
    /// Where its pages hang in the index of prefixes; none before it looked.
    chain: Option<Chain>,
    sampler: Sampler,
    max_tokens: u64,
    detokenizer: Detokenizer,
    constraint: Option<Constraint>,
    finished: Option<FinishReason>,
    /// The end token that was written and not sent.
    end_token: Option<u32>,
}

struct Chain {
    end: Parent,
    pages: usize,
}

impl Sequence {
    /// A stream whose cache takes pages from `pool`.
    pub(crate) fn new(model: Arc<Model>, plan: Plan, pool: Arc<PagePool>) -> Self {
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
            cache: KvCache::within(model.decoder.kv_layout(), pool),
            prompt: plan.prompt.len(),
            tokens: plan.prompt.into_iter().chain(plan.emitted).collect(),
            chain: None,
            sampler,
            max_tokens,
            detokenizer,
            constraint: plan.constraint,
            finished,
            end_token: None,
            model,
        }
    }

    /// The model's own end, where it was written and not sent.
    pub(crate) fn end_token(&self) -> Option<u32> {
        self.end_token
    }

    /// Why it is over, once it is.
    pub(crate) fn finished(&self) -> Option<FinishReason> {
        self.finished
    }

    /// Tokens that are not read yet. A stream that is writing has one.
    pub(crate) fn unread(&self) -> usize {
        self.tokens.len() - self.cache.len()
    }

    /// Tokens the answer may still get.
    pub(crate) fn left(&self) -> u64 {
        self.max_tokens.saturating_sub(self.sampler.position())
    }

    /// Its keys and values.
    pub(crate) fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Gives its memory back. What it read is read again later: the answer
    /// goes on with the very tokens that would have come.
    pub(crate) fn forget(&mut self) {
        self.cache.clear();
        self.chain = None;
    }

    /// How many tokens to read next, at most `most` where that is free to
    /// choose. A packed model may read any number at once. For a dense one,
    /// calls must have the shapes they had, or would have had, in an
    /// undisturbed run: chunks of the prompt, then one by one.
    pub(crate) fn chunk(&self, most: usize) -> usize {
        if self.model.decoder.is_row_exact() {
            return self.unread().min(most);
        }
        let read = self.cache.len();
        self.prompt.saturating_sub(read).clamp(1, CHUNK)
    }

    /// Looks for pages that hold its beginning already, if it has none of its
    /// own. Only where reading gives the same bits whatever the chunks.
    pub(crate) fn look_up(&mut self, index: &mut PrefixIndex, root: u64) {
        if self.chain.is_some() || !self.model.decoder.is_row_exact() {
            return;
        }
        let mut chain = Chain {
            end: Parent::Root(root),
            pages: 0,
        };
        if self.cache.len() == 0 {
            let (pages, end) = index.lookup(root, &self.tokens);
            chain.pages = pages.len();
            chain.end = end;
            self.cache.adopt(pages);
        }
        self.chain = Some(chain);
    }

    /// Offers the pages it has filled to later streams.
    pub(crate) fn share(&mut self, index: &mut PrefixIndex) {
        let Some(chain) = &mut self.chain else {
            return;
        };
        let full = self.cache.len() / PAGE;
        let (chunks, _) = self.tokens.as_chunks::<PAGE>();
        let new = chunks.iter().enumerate().take(full).skip(chain.pages);
        for (page, tokens) in new {
            let (end, equal) = index.insert(chain.end, *tokens, self.cache.page(page));
            if let Some(equal) = equal {
                self.cache.share(page, equal);
            }
            chain.end = end;
            chain.pages = page + 1;
        }
    }

    /// Its part of a step that reads `count` tokens, and whether it wants the
    /// logits after them.
    pub(crate) fn input(&mut self, count: usize) -> (Input<'_>, bool) {
        let read = self.cache.len();
        let ids = &self.tokens[read..read + count];
        let wanted = read + count == self.tokens.len();
        let cache = &mut self.cache;
        (Input { ids, cache }, wanted)
    }

    /// Chooses the next token from the logits after the last one.
    pub(crate) fn choose(&mut self, logits: &mut [f32]) -> Result<Step, StreamError> {
        let allowed = match &mut self.constraint {
            Some(constraint) => Some(constraint.allowed()?),
            None => None,
        };
        let choice = self.sampler.choose(logits, allowed.as_deref())?;
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(choice.id)?;
        }
        Ok(self.write(choice))
    }

    /// Does the next piece of work by itself. After [`Step::Finished`] there
    /// is none.
    pub(crate) fn step(&mut self) -> Result<Step, StreamError> {
        if let Some(reason) = self.finished {
            return Ok(Step::Finished(None, reason));
        }
        let model = Arc::clone(&self.model);
        let count = self.chunk(CHUNK);
        let (input, wanted) = self.input(count);
        let logits = model.decoder.step(&mut [input], &[wanted]);
        match logits.into_iter().next() {
            Some(mut logits) => self.choose(&mut logits),
            None => Ok(Step::Read(count)),
        }
    }

    fn write(&mut self, choice: Choice) -> Step {
        let id = choice.id;
        if self.model.eos.contains(&id) {
            return self.finish(choice);
        }
        self.sampler.accept(id);
        self.tokens.push(id);
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
