//! The way from a worker to whoever reads the answer.
//!
//! A worker never waits for a reader. What is not yet read waits here, at most
//! `max_tokens` of it, and is read in one batch.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::Stream;
use tiermesh_core::{FinishReason, TaskResult, Token};

/// What comes out of a [`TokenStream`].
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Tokens in order, at least one.
    Tokens {
        /// The number of the first in the answer, counted from 0.
        first_seq: u64,
        /// The tokens.
        items: Vec<Token>,
    },
    /// The whole answer of a task that does not stream.
    Result(TaskResult),
    /// The end.
    Finished(Finished),
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// The model's own end token, where it wrote one: it has no text, and is
    /// not among the tokens that were sent.
    pub end_token: Option<u32>,
    /// Tokens read: the prompt's, without those of a continued answer.
    pub prompt_tokens: u64,
    /// Tokens written for this stream.
    pub output_tokens: u64,
    /// From submission to the first token; none if there was none.
    pub first_token: Option<Duration>,
    /// From submission to the end.
    pub total: Duration,
}

/// Why an answer broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The deadline passed while it waited or was written.
    #[error("the deadline passed before the answer was complete")]
    Deadline,
    /// The model computed something that is not a number.
    #[error(transparent)]
    NotANumber(#[from] crate::sampler::NotANumber),
    /// The answer can no longer be made to fit its constraint.
    #[error(transparent)]
    Constraint(#[from] crate::constraint::Broken),
    /// A step panicked. The thread goes on with other streams.
    #[error("the engine failed in the middle of an answer")]
    Panicked,
    /// The model was on disk, and could not be loaded.
    #[error("the model could not be loaded")]
    NotLoaded,
    /// The prompt does not fit the model, as showed once it was loaded.
    #[error("the prompt does not fit the model's context")]
    PromptTooLong,
    /// The model cannot use the request, as showed once it was loaded.
    #[error("the model cannot use this request")]
    NotUsable,
    /// The engine stopped before the answer was complete.
    #[error("the engine stopped before the answer was complete")]
    Stopped,
}

type Ending = Result<Finished, StreamError>;

/// Both ends hold one.
#[derive(Default)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    abandoned: AtomicBool,
}

#[derive(Default)]
struct State {
    first_seq: u64,
    items: Vec<Token>,
    result: Option<TaskResult>,
    ending: Option<Ending>,
    /// The ending was read: nothing comes any more.
    over: bool,
    waker: Option<Waker>,
}

impl Mailbox {
    /// A mailbox whose first token has this number.
    pub(crate) fn starting_at(first_seq: u64) -> Arc<Self> {
        let state = State {
            first_seq,
            ..State::default()
        };
        Arc::new(Self {
            state: Mutex::new(state),
            abandoned: AtomicBool::new(false),
        })
    }

    pub(crate) fn push(&self, token: Token) {
        let mut state = self.lock();
        state.items.push(token);
        wake(state);
    }

    /// The whole answer, once.
    pub(crate) fn result(&self, result: TaskResult) {
        let mut state = self.lock();
        state.result = Some(result);
        wake(state);
    }

    pub(crate) fn end(&self, ending: Ending) {
        let mut state = self.lock();
        if state.ending.is_none() && !state.over {
            state.ending = Some(ending);
        }
        wake(state);
    }

    /// Whether the reader is gone and the work is for nobody.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under this lock can leave it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// An answer as it is written. Dropping it stops the work at its next step,
/// or takes it out of the queue, and frees everything it held.
pub struct TokenStream {
    pub(crate) mailbox: Arc<Mailbox>,
    /// Takes the job out of the queue if it still waits there.
    pub(crate) withdraw: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Stream for TokenStream {
    type Item = Result<Output, StreamError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.mailbox.lock();
        if !state.items.is_empty() {
            let items = std::mem::take(&mut state.items);
            let first_seq = state.first_seq;
            state.first_seq += items.len() as u64;
            return Poll::Ready(Some(Ok(Output::Tokens { first_seq, items })));
        }
        if let Some(result) = state.result.take() {
            return Poll::Ready(Some(Ok(Output::Result(result))));
        }
        if let Some(ending) = state.ending.take() {
            state.over = true;
            return Poll::Ready(Some(ending.map(Output::Finished)));
        }
        if state.over {
            return Poll::Ready(None);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        self.mailbox.abandoned.store(true, Ordering::Release);
        if let Some(withdraw) = self.withdraw.take() {
            withdraw();
        }
    }
}

impl std::fmt::Debug for TokenStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenStream").finish_non_exhaustive()
    }
}
