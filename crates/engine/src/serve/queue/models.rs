//! What the queue and those who load models have to do with each other.

use std::time::Instant;

use super::Queue;
use crate::serve::entry::Entry;
use crate::stream::StreamError;

/// How much a model is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) waiting: usize,
    pub(crate) running: usize,
    /// When the first of those that wait came.
    pub(crate) since: Option<Instant>,
}

impl Queue {
    /// Applies `change` to those that wait for a model and are `meant`; those
    /// that it fails leave, with its error.
    pub(crate) fn prepare(
        &self,
        model: usize,
        meant: impl Fn(&Entry) -> bool,
        mut change: impl FnMut(&mut Entry) -> Result<(), StreamError>,
    ) {
        let taken: Vec<Entry> = {
            let mut state = self.lock();
            let of_model = |entry: &mut Entry| entry.model == model && meant(entry);
            let taken: Vec<Entry> = state.waiting.extract_if(.., of_model).collect();
            state.reserved += taken.len();
            taken
        };
        for mut entry in taken {
            let changed = change(&mut entry);
            let mut state = self.lock();
            state.reserved -= 1;
            state.dirty = true;
            match changed {
                Ok(()) if !state.aborted && !entry.mailbox.is_abandoned() => {
                    state.waiting.push(entry);
                }
                // Its end is told as it is dropped, once the lock is free.
                Ok(()) => drop(state),
                Err(error) => entry.mailbox.end(Err(error)),
            }
        }
        self.changed.notify_all();
        self.ended.notify_all();
    }

    /// Looks at how much each model is wanted, and keeps that so meanwhile.
    pub(crate) fn with_wanted<T>(&self, models: usize, look: impl FnOnce(&[Wanted]) -> T) -> T {
        let state = self.lock();
        let mut wanted = vec![Wanted::default(); models];
        for entry in &state.waiting {
            let wanted = &mut wanted[entry.model];
            wanted.waiting += 1;
            let since = wanted.since.get_or_insert(entry.submitted);
            *since = entry.submitted.min(*since);
        }
        for need in &state.running {
            wanted[need.model].running += 1;
        }
        look(&wanted)
    }

    /// Nobody computes any more: what is here ends, and nothing else comes.
    pub(crate) fn abandon(&self) {
        self.close();
        self.abort();
        self.lock().running.clear();
        self.ended.notify_all();
    }
}
