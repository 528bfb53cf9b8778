//! Serving many: the thread that computes, and what it chooses by.
//!
//! ```text
//! submit ─▶ queue ─▶ turn: who is computed (order) ─▶ step: one pass over a
//!             ▲        │                               model's weights for all
//!             │        └ pages (cache, prefix) fit?     its streams ─▶ mailboxes
//!             └────────── put off, memory given back ◀───┘
//! ```
//!
//! One thread steps one model at a time; the step's work is shared by a pool.
//! A step writes a token of every stream that is writing, and reads so much of
//! the prompts of others as its time allows.

pub(crate) mod entry;
pub(crate) mod loaded;
pub(crate) mod models;
pub(crate) mod order;
pub(crate) mod prefix;
pub(crate) mod queue;
pub(crate) mod scheduler;
pub(crate) mod sequence;
pub(crate) mod speed;
mod step;
pub(crate) mod warm_up;
pub(crate) mod watchdog;

use entry::{EncoderText, Encoding, Entry, Work};
use models::Loaded;
use sequence::Plan;
use tiermesh_core::{Content, Task};

use crate::engine::{Job, SubmitError};
use crate::loaded::Model;
use crate::model::KvLayout;
use crate::stream::StreamError;

/// Makes a request for a model that was not in memory into tokens.
pub(crate) fn prepare(entry: &mut Entry, model: &Loaded, budget: usize) -> Result<(), StreamError> {
    let Work::Raw(job) = std::mem::replace(&mut entry.work, Work::Over) else {
        return Ok(());
    };
    let prepared = work(*job, model).and_then(|(work, prompt)| {
        fits(model, &work, budget)?;
        Ok((work, prompt))
    });
    let (work, prompt) = prepared.map_err(|error| match error {
        SubmitError::PromptTooLong { .. } => StreamError::PromptTooLong,
        _ => StreamError::NotUsable,
    })?;
    entry.work = work;
    entry.watch.read(prompt);
    Ok(())
}

/// Whether so many bytes of keys and values could ever hold a request by itself.
pub(crate) fn fits(model: &Loaded, work: &Work, budget: usize) -> Result<(), SubmitError> {
    let (Loaded::Decoder(model), Work::Plan(plan)) = (model, work) else {
        return Ok(());
    };
    let context = model.info().context_tokens as usize;
    let tokens = (plan.prompt.len() + plan.max_tokens as usize).min(context);
    let needed = KvLayout::pages(tokens) * model.decoder.kv_layout().page_bytes();
    match needed <= budget {
        true => Ok(()),
        false => Err(SubmitError::TooLarge { needed, budget }),
    }
}

/// A checked job as work for a model in memory, and its prompt's tokens.
pub(crate) fn work(job: Job, model: &Loaded) -> Result<(Work, usize), SubmitError> {
    match model {
        Loaded::Decoder(model) => {
            let plan = plan(job, model)?;
            let prompt = plan.prompt.len();
            Ok((Work::Plan(Box::new(plan)), prompt))
        }
        Loaded::Encoder(embedder) => {
            let text = match job.content {
                Content::Prompt(text) => text,
                Content::Messages(_) => return Err(SubmitError::NotAText),
            };
            let tokens = embedder.count(&text)?;
            let wanted = match job.task {
                Task::Tag => Encoding::Tags,
                _ => Encoding::Embedding,
            };
            let text = EncoderText {
                text,
                tokens,
                wanted,
            };
            Ok((Work::Text(Box::new(text)), tokens))
        }
    }
}

fn plan(job: Job, model: &Model) -> Result<Plan, SubmitError> {
    let prompt = model.prompt(&job.content)?;
    crate::engine::check(model, &prompt, &job)?;
    let constraint = job.constraint.as_ref();
    let constraint = constraint.map(|wanted| model.constrain(wanted, &job.emitted));
    Ok(Plan {
        prompt,
        constraint: constraint.transpose()?,
        emitted: job.emitted,
        sampling: job.sampling,
        seed: job.seed,
        max_tokens: job.max_tokens.min(model.info().context_tokens),
        stop: job.stop,
    })
}

#[cfg(test)]
mod tests;
