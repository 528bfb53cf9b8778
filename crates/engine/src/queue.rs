//! What waits and what runs, under one lock.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tiermesh_core::ModelState;

use crate::engine::SubmitError;
use crate::generation::Plan;
use crate::loaded::Model;
use crate::speed::{Sample, Speed};
use crate::stream::{Mailbox, StreamError};

/// A job with its place in line.
pub(crate) struct Entry {
    pub(crate) model: Arc<Model>,
    pub(crate) model_index: usize,
    pub(crate) plan: Plan,
    pub(crate) submitted: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) mailbox: Arc<Mailbox>,
}

/// Names an entry while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

pub(crate) struct Queue {
    state: Mutex<State>,
    /// Work came, or the queue closed.
    changed: Condvar,
    /// A stream ended.
    ended: Condvar,
    capacity: usize,
    workers: usize,
}

struct State {
    waiting: VecDeque<(Ticket, Entry)>,
    next_ticket: u64,
    /// Places held by submissions that are still being encoded.
    reserved: usize,
    /// When each running stream is expected to end.
    running: Vec<(Ticket, Instant)>,
    speeds: Vec<Speed>,
    closed: bool,
    aborted: bool,
}

/// What [`Queue::load`] sees.
pub(crate) struct QueueLoad {
    pub(crate) active: usize,
    pub(crate) queued: usize,
    pub(crate) capacity: usize,
    pub(crate) models: Vec<ModelState>,
}

impl Queue {
    pub(crate) fn new(capacity: usize, workers: usize, speeds: Vec<Speed>) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            next_ticket: 0,
            reserved: 0,
            running: Vec::new(),
            speeds,
            closed: false,
            aborted: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            ended: Condvar::new(),
            capacity,
            workers,
        }
    }

    /// Holds a place, so that a text is encoded only if it will be queued.
    /// A free worker is a place too.
    pub(crate) fn reserve(&self) -> Result<Place<'_>, SubmitError> {
        let mut state = self.lock();
        if state.closed {
            return Err(SubmitError::Stopping);
        }
        let idle = self.workers.saturating_sub(state.running.len());
        if state.waiting.len() + state.reserved >= self.capacity + idle {
            state.drop_late();
        }
        if state.waiting.len() + state.reserved >= self.capacity + idle {
            return Err(SubmitError::Full {
                capacity: self.capacity,
                retry_after: self.wait(&state).max(Duration::from_millis(1)),
            });
        }
        state.reserved += 1;
        Ok(Place(self))
    }

    /// The next job; waits for one. `None` once there will be no more.
    pub(crate) fn next(&self) -> Option<(Ticket, Entry)> {
        let mut state = self.lock();
        loop {
            if let Some((ticket, entry)) = state.waiting.pop_front() {
                let end = Instant::now() + state.service(&entry);
                state.running.push((ticket, end));
                return Some((ticket, entry));
            }
            // A place that is still reserved may become a job after all.
            if state.aborted || (state.closed && state.reserved == 0) {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A stream ended, one way or another; what it measured, if it did.
    pub(crate) fn finish(&self, ticket: Ticket, model_index: usize, sample: Option<Sample>) {
        let mut state = self.lock();
        state.running.retain(|(running, _)| *running != ticket);
        if let Some(sample) = sample {
            state.speeds[model_index].learn(sample);
        }
        drop(state);
        self.ended.notify_all();
    }

    /// Takes a job out that still waits.
    pub(crate) fn withdraw(&self, ticket: Ticket) {
        let mut state = self.lock();
        let place = state
            .waiting
            .iter()
            .position(|(waiting, _)| *waiting == ticket);
        let withdrawn = place.and_then(|place| state.waiting.remove(place));
        drop(state);
        if withdrawn.is_some() {
            self.ended.notify_all();
        }
    }

    pub(crate) fn load(&self) -> QueueLoad {
        let state = self.lock();
        let wait = match state.running.len() < self.workers {
            true => Duration::ZERO,
            false => self.wait(&state),
        };
        QueueLoad {
            active: state.running.len(),
            queued: state.waiting.len() + state.reserved,
            capacity: self.capacity,
            models: state.speeds.iter().map(|speed| speed.state(wait)).collect(),
        }
    }

    /// Takes no more jobs.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Breaks off everything.
    pub(crate) fn abort(&self) {
        let mut state = self.lock();
        state.aborted = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for (_, entry) in waiting {
            entry.mailbox.end(Err(StreamError::Stopped));
        }
        self.changed.notify_all();
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.lock().aborted
    }

    pub(crate) fn wait_until_idle(&self, patience: Duration) {
        let busy = |state: &mut State| {
            !state.waiting.is_empty() || !state.running.is_empty() || state.reserved > 0
        };
        let waited = self.ended.wait_timeout_while(self.lock(), patience, busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// The work ahead of a new job at measured speed, over all workers.
    fn wait(&self, state: &State) -> Duration {
        let now = Instant::now();
        let running = state
            .running
            .iter()
            .map(|(_, end)| end.saturating_duration_since(now));
        let waiting = state.waiting.iter().map(|(_, entry)| state.service(entry));
        let work: Duration = running.chain(waiting).sum();
        work / u32::try_from(self.workers).unwrap_or(u32::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under this lock can leave it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Ends the streams whose deadline passed while they waited: nobody may
    /// be refused for their sake.
    fn drop_late(&mut self) {
        let now = Instant::now();
        self.waiting.retain(|(_, entry)| {
            let late = entry.deadline.is_some_and(|deadline| deadline <= now);
            if late {
                entry.mailbox.end(Err(StreamError::Deadline));
            }
            !late
        });
    }

    fn service(&self, entry: &Entry) -> Duration {
        let read = entry.plan.prompt.len() + entry.plan.emitted.len();
        let left = u64::from(entry.plan.max_tokens).saturating_sub(entry.plan.emitted.len() as u64);
        self.speeds[entry.model_index].service(read as u64, left)
    }
}

/// A held place in the queue; dropping it gives it back.
pub(crate) struct Place<'a>(&'a Queue);

impl Place<'_> {
    pub(crate) fn enqueue(self, entry: Entry) -> Ticket {
        let mut state = self.0.lock();
        let ticket = Ticket(state.next_ticket);
        state.next_ticket += 1;
        if state.aborted {
            entry.mailbox.end(Err(StreamError::Stopped));
        } else {
            state.waiting.push_back((ticket, entry));
        }
        ticket
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.lock().reserved -= 1;
        self.0.changed.notify_all();
        self.0.ended.notify_all();
    }
}
