//! Who waits, under one lock; and what a new request would find.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tiermesh_core::UserId;

use super::entry::{Entry, Need};
use super::order::{Accounts, CLASSES};
use super::speed::{Outlook, Speed, StepTime};
use crate::engine::SubmitError;
use crate::stream::StreamError;

mod models;
mod place;
mod state;

pub(crate) use models::Wanted;
pub(crate) use place::Place;

/// Who goes first is settled anew this often while somebody waits.
const REORDER: Duration = Duration::from_millis(20);
/// Somebody may wait for a model; deadlines are looked at this often meanwhile.
const IDLE_LOOK: Duration = Duration::from_millis(50);

pub(crate) struct Queue {
    state: Mutex<State>,
    /// Work came, a model came, or the queue closed.
    changed: Condvar,
    /// A stream ended.
    ended: Condvar,
    capacity: usize,
    streams: usize,
}

struct State {
    waiting: Vec<Entry>,
    next_ticket: u64,
    /// Places held by submissions that are still being encoded.
    reserved: usize,
    /// What is computed now, as of the last turn.
    running: Vec<Need>,
    accounts: Accounts,
    speeds: Vec<Option<Speed>>,
    step_tokens: usize,
    dirty: bool,
    ordered: Option<Instant>,
    closed: bool,
    aborted: bool,
}

/// What [`Queue::load`] sees.
pub(crate) struct QueueLoad {
    pub(crate) active: usize,
    pub(crate) queued: usize,
    pub(crate) queued_by_class: [usize; CLASSES],
    /// By model; none for one that was never in memory.
    pub(crate) models: Vec<Option<(tiermesh_core::ModelState, Option<f32>)>>,
}

/// What to do about one that could be computed.
pub(crate) enum Room {
    Yes,
    /// Not before others end or make room; nobody overtakes it.
    No,
    /// Its model is not in memory; others go ahead.
    NotReady,
}

impl Queue {
    pub(crate) fn new(
        capacity: usize,
        streams: usize,
        weights: BTreeMap<UserId, f64>,
        speeds: Vec<Option<Speed>>,
    ) -> Self {
        let state = State {
            waiting: Vec::new(),
            next_ticket: 0,
            reserved: 0,
            running: Vec::new(),
            accounts: Accounts::new(weights),
            speeds,
            step_tokens: 128,
            dirty: false,
            ordered: None,
            closed: false,
            aborted: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            ended: Condvar::new(),
            capacity,
            streams,
        }
    }

    /// Holds a place, so that a text is encoded only if it will be queued.
    pub(crate) fn reserve(&self) -> Result<Place<'_>, SubmitError> {
        let mut state = self.lock();
        if state.closed {
            return Err(SubmitError::Stopping);
        }
        let places = self.capacity + self.streams;
        if state.live() >= places {
            state.drop_late();
        }
        if state.live() >= places {
            return Err(SubmitError::Full {
                capacity: self.capacity,
                retry_after: state.first_end().max(Duration::from_millis(1)),
            });
        }
        state.reserved += 1;
        Ok(Place(self))
    }

    /// Time to the first token of a request of this class and so many tokens.
    pub(crate) fn first_token_in(
        &self,
        model: usize,
        prompt: usize,
        class: u8,
    ) -> Option<Duration> {
        let state = self.lock();
        let outlook = self.outlook(&state, class);
        let speed = state.speeds[model].as_ref()?;
        Some(speed.first_token_in(outlook, prompt))
    }

    /// Settles who is computed next: `running` becomes the most urgent streams
    /// there is room for, in order. Waits while there is nothing to compute.
    /// Tells whether to go on.
    pub(crate) fn turn(
        &self,
        running: &mut Vec<Entry>,
        mut room: impl FnMut(&Entry, &[Entry]) -> Room,
    ) -> bool {
        let mut state = self.lock();
        loop {
            if state.aborted {
                return false;
            }
            let now = Instant::now();
            let stale = state.ordered.is_none_or(|at| now - at >= REORDER);
            if !state.waiting.is_empty() && (state.dirty || stale || running.is_empty()) {
                state.drop_late();
                self.ended.notify_all();
                state.dirty = false;
                state.ordered = Some(now);
                state.settle(running, self.streams, now, &mut room);
            }
            state.running.clear();
            state.running.extend(running.iter().map(Entry::need));
            if !running.is_empty() {
                return true;
            }
            // A place that is still reserved may become a job after all.
            if state.closed && state.reserved == 0 && state.waiting.is_empty() {
                return false;
            }
            state = match state.waiting.is_empty() {
                true => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                false => {
                    let waited = self.changed.wait_timeout(state, IDLE_LOOK);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Tokens a model reads in a second, and what a step takes that writes to
    /// so many streams.
    pub(crate) fn pace(&self, model: usize, writing: usize) -> (f64, f64) {
        let state = self.lock();
        let Some(speed) = &state.speeds[model] else {
            return (1e3, 0.0);
        };
        let step = match writing {
            0 => 0.0,
            writing => speed.step_secs(writing),
        };
        (speed.prefill_tok_s(), step)
    }

    /// A step was computed.
    pub(crate) fn learn(
        &self,
        model: usize,
        step: StepTime,
        step_tokens: usize,
        charges: &[(UserId, usize)],
    ) {
        let mut state = self.lock();
        state.step_tokens = step_tokens;
        if let Some(speed) = &mut state.speeds[model] {
            speed.learn(step);
        }
        for (user, tokens) in charges {
            state.accounts.charge(user, *tokens);
        }
    }

    /// A stream's first token came.
    pub(crate) fn first_token(
        &self,
        model: usize,
        predicted: Option<Duration>,
        observed: Duration,
    ) {
        let mut state = self.lock();
        if let (Some(speed), Some(predicted)) = (&mut state.speeds[model], predicted) {
            speed.first_token(predicted, observed);
        }
    }

    /// A stream ended, one way or another; after so many tokens, if it came to
    /// its end.
    pub(crate) fn finish(&self, ticket: u64, model: usize, tokens: Option<u64>) {
        let mut state = self.lock();
        state.running.retain(|need| need.ticket != ticket);
        state.dirty = true;
        if let (Some(speed), Some(tokens)) = (&mut state.speeds[model], tokens) {
            speed.ended(tokens);
        }
        drop(state);
        self.ended.notify_all();
    }

    /// A model is in memory, and this fast by itself.
    pub(crate) fn ready(&self, model: usize, speed: Speed) {
        let mut state = self.lock();
        state.speeds[model].get_or_insert(speed);
        state.dirty = true;
        drop(state);
        self.changed.notify_all();
    }

    /// Drops keys and values of waiting streams, those of the last in line
    /// first, until `enough`. They are computed again when their turn comes.
    pub(crate) fn reclaim(&self, enough: impl Fn() -> bool) -> bool {
        let mut state = self.lock();
        let mut holders: Vec<&mut Entry> = state
            .waiting
            .iter_mut()
            .filter(|entry| entry.holds_memory())
            .collect();
        holders.sort_by_key(|entry| {
            (
                entry.standing.class,
                std::cmp::Reverse(entry.standing.ticket),
            )
        });
        for holder in holders {
            if enough() {
                return true;
            }
            holder.forget();
        }
        enough()
    }

    /// Takes a job out that still waits.
    pub(crate) fn withdraw(&self, ticket: u64) {
        let mut state = self.lock();
        let place = state
            .waiting
            .iter()
            .position(|entry| entry.standing.ticket == ticket);
        let withdrawn = place.map(|place| state.waiting.swap_remove(place));
        drop(state);
        if withdrawn.is_some() {
            self.ended.notify_all();
        }
    }

    pub(crate) fn load(&self) -> QueueLoad {
        let state = self.lock();
        let outlook = self.outlook(&state, 0);
        let mut queued_by_class = [0; CLASSES];
        for entry in &state.waiting {
            queued_by_class[usize::from(entry.standing.class)] += 1;
        }
        let told = |speed: &Speed| (speed.state(outlook), speed.calibration_error());
        QueueLoad {
            active: state.running.len(),
            queued: state.waiting.len() + state.reserved,
            queued_by_class,
            models: state
                .speeds
                .iter()
                .map(|speed| speed.as_ref().map(told))
                .collect(),
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
        for entry in waiting {
            entry.mailbox.end(Err(StreamError::Stopped));
        }
        self.changed.notify_all();
        self.ended.notify_all();
    }

    pub(crate) fn wait_until_idle(&self, patience: Duration) {
        let busy = |state: &mut State| state.live() > 0;
        let waited = self.ended.wait_timeout_while(self.lock(), patience, busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn outlook(&self, state: &State, class: u8) -> Outlook {
        let running: usize = state.running.iter().map(|need| need.unread).sum();
        let waiting = state.waiting.iter().map(Entry::need);
        let waiting = waiting.filter(|need| need.class >= class);
        let waiting: usize = waiting.map(|need| need.unread).sum();
        let full = state.live() >= self.streams;
        let behind = (state.live() + 1).saturating_sub(self.streams);
        let wait = match full {
            // As many must end as are too many, and those that run end one
            // after the other.
            true => {
                let mean = state.mean_service();
                mean.mul_f64(behind as f64 / self.streams as f64)
            }
            false => Duration::ZERO,
        };
        Outlook {
            wait,
            ahead: running + waiting,
            writing: state.running.iter().filter(|need| need.unread <= 1).count(),
            step_tokens: state.step_tokens,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under this lock can leave it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
