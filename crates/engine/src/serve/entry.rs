//! One request on its way through the engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tiermesh_core::FinishReason;

use super::order::Standing;
use super::sequence::{Plan, Sequence};
use crate::engine::Job;
use crate::stream::{Finished, Mailbox, StreamError};

/// What rose by waiting keeps its place for this long once it is computed.
const HOLD: Duration = Duration::from_secs(1);
/// Bytes of text a token stands for, before anybody counted.
const BYTES_PER_TOKEN: usize = 3;

pub(crate) struct Entry {
    /// The model's place in the engine's list.
    pub(crate) model: usize,
    pub(crate) work: Work,
    pub(crate) standing: Standing,
    pub(crate) submitted: Instant,
    /// Since when it waits, or is computed.
    pub(crate) since: Instant,
    /// When it must be over.
    pub(crate) deadline: Option<Instant>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) watch: Watch,
    /// The time to its first token as foreseen when it came.
    pub(crate) predicted: Option<Duration>,
}

/// How far it is.
pub(crate) enum Work {
    /// Not yet tokens: its model was not in memory when it came.
    Raw(Box<Job>),
    /// Tokens, and nothing computed.
    Plan(Box<Plan>),
    /// Being computed, or put off in the middle.
    Sequence(Box<Sequence>),
    /// A text for an encoder.
    Text(Box<EncoderText>),
    /// Nothing more to do.
    Over,
}

/// A text for an encoder.
pub(crate) struct EncoderText {
    pub(crate) text: String,
    pub(crate) tokens: usize,
    pub(crate) wanted: Encoding,
}

/// What an encoder makes of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Embedding,
    Tags,
}

/// What a stream still needs, in tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    pub(crate) ticket: u64,
    pub(crate) model: usize,
    pub(crate) class: u8,
    /// To be read.
    pub(crate) unread: usize,
    /// To be written, at most.
    pub(crate) left: u64,
}

/// However an entry goes, its reader is told: a second ending changes nothing.
impl Drop for Entry {
    fn drop(&mut self) {
        self.mailbox.end(Err(StreamError::Stopped));
    }
}

impl Entry {
    pub(crate) fn need(&self) -> Need {
        let (unread, left) = match &self.work {
            Work::Raw(job) => (
                job.content.bytes() / BYTES_PER_TOKEN + job.emitted.len(),
                u64::from(job.max_tokens),
            ),
            Work::Plan(plan) => {
                let emitted = plan.emitted.len();
                let left = u64::from(plan.max_tokens).saturating_sub(emitted as u64);
                (plan.prompt.len() + emitted, left)
            }
            Work::Sequence(sequence) => (sequence.unread(), sequence.left()),
            Work::Text(text) => (text.tokens, 0),
            Work::Over => (0, 0),
        };
        Need {
            ticket: self.standing.ticket,
            model: self.model,
            class: self.standing.class,
            unread,
            left,
        }
    }

    pub(crate) fn is_raw(&self) -> bool {
        matches!(self.work, Work::Raw(_))
    }

    pub(crate) fn holds_memory(&self) -> bool {
        matches!(&self.work, Work::Sequence(sequence) if sequence.cache().len() > 0)
    }

    /// Gives its keys and values back.
    pub(crate) fn forget(&mut self) {
        if let Work::Sequence(sequence) = &mut self.work {
            sequence.forget();
        }
    }

    /// Rises by waiting, and falls back once it was computed for a while.
    pub(crate) fn age(&mut self, now: Instant, running: bool) {
        let since = now.saturating_duration_since(self.since);
        if !running {
            self.standing.rise(since);
        } else if since >= HOLD {
            self.standing.risen = 0;
        }
    }
}

/// The times of one stream.
pub(crate) struct Watch {
    submitted: Instant,
    first: Option<Instant>,
    prompt_tokens: u64,
    output_tokens: u64,
}

impl Watch {
    pub(crate) fn new(submitted: Instant, prompt_tokens: usize) -> Self {
        Self {
            submitted,
            first: None,
            prompt_tokens: prompt_tokens as u64,
            output_tokens: 0,
        }
    }

    pub(crate) fn read(&mut self, prompt_tokens: usize) {
        self.prompt_tokens = prompt_tokens as u64;
    }

    pub(crate) fn output_tokens(&self) -> u64 {
        self.output_tokens
    }

    /// Counts a token; the time to the first one, if this is it.
    pub(crate) fn token(&mut self) -> Option<Duration> {
        self.output_tokens += 1;
        if self.first.is_some() {
            return None;
        }
        let now = Instant::now();
        self.first = Some(now);
        Some(now - self.submitted)
    }

    pub(crate) fn finished(&self, reason: FinishReason, end_token: Option<u32>) -> Finished {
        Finished {
            reason,
            end_token,
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens,
            first_token: self.first.map(|first| first - self.submitted),
            total: self.submitted.elapsed(),
        }
    }
}
