//! An answer on its way to a client.
//!
//! It ends at its deadline, and frees the work and the slot behind it the
//! moment it ends, however it ends. A reader that has stopped reading stops
//! polling too, and then no timer of the stream's own is looked at: the door
//! sweeps over such answers.

use crate::resume::Issuer;
use crate::slots::Slot;
use futures_core::Stream;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tiermesh_core::{ErrorClass, Event, EventStream, InferError, RequestId};
use tokio::time::{Instant, Sleep};

/// How often the door looks for answers nobody reads.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_millis(250);

/// A stream of events, its deadline, and the slot it holds.
pub(crate) struct Answer {
    work: Arc<Work>,
    deadline: Option<Pin<Box<Sleep>>>,
    sweeper: Arc<Sweeper>,
    pub(crate) request_id: RequestId,
    pub(crate) seed: u64,
    /// Makes resume tokens, where the client asked for them.
    pub(crate) issuer: Option<Box<Issuer>>,
}

/// What an answer holds until it ends.
struct Work {
    state: Mutex<State>,
    deadline: Option<Instant>,
    /// The sweep's count when an event was last taken and the
    /// reader has not come back since; 0 while the reader waits for the model.
    unread_since: AtomicU64,
    /// Whom to wake when others end it. Only answers with a handle keep it.
    reader: OnceLock<Mutex<Option<Waker>>>,
}

enum State {
    Open(EventStream, #[expect(dead_code, reason = "held")] Slot),
    /// Ended by the sweep; the reader is told if it ever comes back.
    Swept(InferError),
    Ended,
}

impl Answer {
    pub(crate) fn new(
        (stream, slot): (EventStream, Slot),
        deadline: Option<Pin<Box<Sleep>>>,
        (request_id, seed): (RequestId, u64),
        sweeper: &Arc<Sweeper>,
    ) -> Self {
        let work = Arc::new(Work {
            state: Mutex::new(State::Open(stream, slot)),
            deadline: deadline.as_ref().map(|sleep| sleep.deadline()),
            unread_since: AtomicU64::new(sweeper.now()),
            reader: OnceLock::new(),
        });
        sweeper.watch(&work);
        Self {
            work,
            deadline,
            sweeper: Arc::clone(sweeper),
            request_id,
            seed,
            issuer: None,
        }
    }

    /// Lets others end it.
    pub(crate) fn handle(&self) -> Handle {
        self.work.reader.get_or_init(Mutex::default);
        Handle(Arc::downgrade(&self.work))
    }
}

/// Ends an answer from elsewhere.
pub(crate) struct Handle(Weak<Work>);

impl Handle {
    /// Ends it, and what works for it, now; its reader is told why.
    pub(crate) fn end(self, why: InferError) {
        let Some(work) = self.0.upgrade() else { return };
        let mut state = work.state();
        if matches!(*state, State::Open(..)) {
            let open = std::mem::replace(&mut *state, State::Swept(why));
            drop(state);
            drop(open);
            let reader = work.reader.get().map(|reader| {
                let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
                reader.take()
            });
            if let Some(reader) = reader.flatten() {
                reader.wake();
            }
        }
    }
}

impl Work {
    /// The lock is never held while anything waits, and only the sweep
    /// contends for it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, InferError>>> {
        let mut state = self.state();
        let event = match &mut *state {
            State::Open(stream, _) => {
                if let Some(reader) = self.reader.get() {
                    let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
                    if !reader
                        .as_ref()
                        .is_some_and(|known| known.will_wake(cx.waker()))
                    {
                        *reader = Some(cx.waker().clone());
                    }
                }
                ready!(stream.as_mut().poll_next(cx)).unwrap_or_else(cut_off)
            }
            State::Swept(error) => Err(error.clone()),
            State::Ended => return Poll::Ready(None),
        };
        if matches!(event, Err(_) | Ok(Event::Done(_))) {
            *state = State::Ended;
        }
        Poll::Ready(Some(event))
    }
}

fn cut_off() -> Result<Event, InferError> {
    let message = "the answer stopped without its end";
    Err(InferError::new(
        ErrorClass::Internal,
        "ANSWER_CUT_OFF",
        message,
    ))
}

impl Stream for Answer {
    type Item = Result<Event, InferError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // The deadline goes first: a model that is always ready must not
        // outrun it.
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.deadline = None;
            let mut state = self.work.state();
            if !matches!(*state, State::Ended) {
                *state = State::Ended;
                return Poll::Ready(Some(Err(InferError::deadline_exceeded())));
            }
        }
        let polled = self.work.poll(cx);
        let unread = if polled.is_pending() {
            0
        } else {
            self.sweeper.now()
        };
        self.work.unread_since.store(unread, Ordering::Relaxed);
        polled
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // The sweep may hold the work for a moment longer; the stream goes now.
        *self.work.state() = State::Ended;
    }
}

/// Ends answers whose readers have stopped reading.
pub(crate) struct Sweeper {
    /// Sweeps so far, counted from 1: a clock that costs a token nothing.
    count: AtomicU64,
    /// How many sweeps an event may lie unread.
    patience: u64,
    /// Answers that were alive at the last sweep, and those begun since.
    watched: Mutex<Vec<Weak<Work>>>,
    /// The watched list is pruned beyond this.
    watched_max: usize,
}

impl Sweeper {
    /// Readers get `patience` to come back; `streams` run at a time.
    pub(crate) fn new(patience: Duration, streams: usize) -> Arc<Self> {
        let sweeps = patience.as_millis() / SWEEP_EVERY.as_millis();
        Arc::new(Self {
            count: AtomicU64::new(1),
            patience: u64::try_from(sweeps).unwrap_or(u64::MAX).max(1),
            watched: Mutex::new(Vec::new()),
            watched_max: streams.saturating_mul(4).max(1024),
        })
    }

    fn now(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn watch(&self, work: &Arc<Work>) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.len() >= self.watched_max {
            watched.retain(|work| work.strong_count() > 0);
        }
        watched.push(Arc::downgrade(work));
    }

    /// Looks at every answer; called every [`SWEEP_EVERY`].
    pub(crate) fn sweep(&self) {
        let sweep = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let now = Instant::now();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|work| {
            work.upgrade()
                .is_some_and(|work| self.look_at(&work, sweep, now))
        });
    }

    /// Whether to keep watching.
    fn look_at(&self, work: &Work, sweep: u64, now: Instant) -> bool {
        let unread = work.unread_since.load(Ordering::Relaxed);
        if unread == 0 {
            // Its reader waits and so looks at its own timer.
            return true;
        }
        let error = if work.deadline.is_some_and(|over| over <= now) {
            InferError::deadline_exceeded()
        } else if sweep.saturating_sub(unread) > self.patience {
            let message = "the client stopped reading its answer";
            InferError::new(ErrorClass::Cancelled, "READER_STALLED", message)
        } else {
            return true;
        };
        let Ok(mut state) = work.state.try_lock() else {
            // It is being read after all.
            return true;
        };
        if matches!(*state, State::Open(..)) {
            *state = State::Swept(error);
        }
        false
    }
}
