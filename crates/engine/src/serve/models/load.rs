//! Who brings models into memory, and which one goes for another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use tiermesh_core::error::with_causes;

use super::{Fetching, Hold, Holds, LOOK, Loaded, Models, PATIENCE, RETRY};
use crate::serve::entry::Entry;
use crate::serve::queue::{Queue, Wanted};
use crate::serve::{prepare, speed, warm_up};
use crate::stream::StreamError;

/// What the loader does next.
enum Chosen {
    Load(usize),
    Nothing,
    Stop,
}

impl Models {
    /// Loads what is waited for, until it is stopped.
    pub(crate) fn serve(&self, queue: &Queue, threads: std::num::NonZeroUsize, budget: usize) {
        loop {
            let Some(index) = self.next(queue) else {
                return;
            };
            let began = Instant::now();
            let loaded = catch_unwind(AssertUnwindSafe(|| self.load(index, threads)));
            let loaded = loaded.unwrap_or_else(|_| Err("loading it panicked".to_owned()));
            let mut guard = self.lock();
            let holds = &mut *guard;
            let hold = &mut holds.each[index];
            hold.loading = false;
            hold.hinted = false;
            match loaded {
                Ok((model, speed)) => {
                    let took = began.elapsed();
                    hold.load_time = Some(took);
                    hold.failed = None;
                    hold.loaded_at = Some(Instant::now());
                    hold.loaded = Some(model.clone());
                    holds.rates.loaded(self.slots[index].bytes, took);
                    drop(guard);
                    let id = &self.slots[index].info.id;
                    tracing::info!(model = %id, took_ms = took.as_millis() as u64, "model loaded");
                    queue.ready(index, speed);
                    queue.prepare(index, Entry::is_raw, |entry| prepare(entry, &model, budget));
                }
                Err(error) => {
                    hold.failed = Some(Instant::now());
                    // Fetching compares checksums, and mends what is damaged.
                    let source = self.slots[index].source.as_ref();
                    if source.is_some_and(|source| source.remote.is_some()) {
                        hold.fetching = Fetching::Elsewhere;
                    }
                    drop(guard);
                    let id = &self.slots[index].info.id;
                    tracing::error!(model = %id, error, "a model cannot be loaded");
                    queue.prepare(index, |_| true, |_| Err(StreamError::NotLoaded));
                }
            }
        }
    }

    fn load(
        &self,
        index: usize,
        threads: std::num::NonZeroUsize,
    ) -> Result<(Loaded, speed::Speed), String> {
        let source = self.slots[index].source.as_ref();
        let source = source.ok_or_else(|| "it has no directory".to_owned())?;
        let loaded = Loaded::open(source).map_err(|error| with_causes(&error))?;
        let info = loaded.info();
        if info.digest != self.slots[index].info.digest {
            return Err(format!("{} changed on disk", source.path.display()));
        }
        let speed = warm_up::measure(&loaded, threads).map_err(|error| with_causes(&error))?;
        Ok((loaded, speed))
    }

    /// The model to load next, room made for it; none once it is over.
    fn next(&self, queue: &Queue) -> Option<usize> {
        loop {
            // The queue's lock comes before this one, always; holding it, no
            // request slips in between the look and what is done about it.
            let found = queue.with_wanted(self.slots.len(), |wanted| self.choose(wanted));
            match found {
                Chosen::Stop => return None,
                Chosen::Load(index) => return Some(index),
                Chosen::Nothing => {}
            }
            let holds = self.lock();
            if holds.stopped {
                return None;
            }
            let all_hot = holds.each.iter().all(|hold| hold.loaded.is_some());
            let look = if all_hot {
                Duration::from_secs(1)
            } else {
                LOOK
            };
            let waited = self.changed.wait_timeout(holds, look);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn choose(&self, wanted: &[Wanted]) -> Chosen {
        let mut holds = self.lock();
        if holds.stopped {
            return Chosen::Stop;
        }
        let failing = |hold: &Hold| hold.failed.is_some_and(|at| at.elapsed() < RETRY);
        let warm = |index: usize| {
            let hold = &holds.each[index];
            hold.loaded.is_none() && !hold.fetching.is_elsewhere() && !failing(hold)
        };
        let longest = (0..wanted.len()).filter(|index| warm(*index) && wanted[*index].waiting > 0);
        let longest = longest.min_by_key(|index| wanted[*index].since);
        let Some(index) = longest else {
            // Whoever a model was closed for is gone.
            holds.closing = None;
            let hinted = (0..self.slots.len()).find(|index| {
                let hold = &holds.each[*index];
                hold.hinted && hold.loaded.is_none() && !hold.fetching.is_elsewhere()
            });
            let Some(index) = hinted else {
                return Chosen::Nothing;
            };
            // What it fitted beside when it was hinted may have grown.
            if self.resident(&holds) + self.slots[index].bytes > self.budget {
                holds.each[index].hinted = false;
                return Chosen::Nothing;
            }
            holds.each[index].loading = true;
            return Chosen::Load(index);
        };
        if !self.make_room(&mut holds, index, wanted) {
            return Chosen::Nothing;
        }
        holds.each[index].loading = true;
        Chosen::Load(index)
    }

    /// Unloads until `index` fits. Where only models in use are left, the one
    /// least missed is closed to new requests after a while, and goes once its
    /// streams have ended, whoever waits for it.
    fn make_room(&self, holds: &mut Holds, index: usize, wanted: &[Wanted]) -> bool {
        let need = self.slots[index].bytes;
        loop {
            if self.resident(holds) + need <= self.budget {
                holds.closing = None;
                return true;
            }
            let now = Instant::now();
            let may_go: Vec<usize> = (0..self.slots.len())
                .filter(|other| {
                    let is_here = holds.each[*other].loaded.is_some();
                    *other != index && is_here && self.slots[*other].source.is_some()
                })
                .collect();
            let worth = |other: &usize| holds.each[*other].worth(now, self.slots[*other].bytes);
            let least = |all: &mut dyn Iterator<Item = usize>| {
                all.min_by(|a, b| worth(a).total_cmp(&worth(b)))
            };
            let is_idle = |other: &usize| {
                let closed = holds.closing == Some(*other);
                wanted[*other].running == 0 && (closed || wanted[*other].waiting == 0)
            };
            let idle = least(&mut may_go.iter().copied().filter(is_idle));
            if let Some(other) = idle {
                tracing::info!(model = %self.slots[other].info.id, "model unloaded to make room");
                holds.each[other].loaded = None;
                continue;
            }
            if may_go.is_empty() {
                // Nothing can go: it is loaded beyond the budget rather than
                // never, since the operator named it.
                return true;
            }
            let waited = wanted[index].since.map(|since| now - since);
            if waited.is_some_and(|waited| waited >= PATIENCE) && holds.closing.is_none() {
                // One that has just come stays for a while, or two models
                // would take turns without ever answering.
                let ripe = |other: &usize| {
                    let at = holds.each[*other].loaded_at;
                    at.is_none_or(|at| now - at >= PATIENCE)
                };
                holds.closing = least(&mut may_go.iter().copied().filter(ripe));
            }
            return false;
        }
    }
}
