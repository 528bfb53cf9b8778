//! Models that are kept elsewhere: when they are fetched, by whom, and how
//! long that and loading take.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{PoisonError, Weak};
use std::time::{Duration, Instant};

use super::{Holds, ModelSource, Models, RETRY};

/// Bytes a second that a model is loaded with until one was: a slow disk.
const LOADED: f64 = 200e6;
/// Bytes a second that a model is fetched with until one was: a slow line.
const FETCHED: f64 = 10e6;
/// What comes faster came from a cache: the line of a node has less.
const FASTEST: f64 = 300e6;
/// Weight of a new measurement.
const FRESH: f64 = 0.5;
/// How often the fetching thread looks whether the engine is still there.
const LOOK: Duration = Duration::from_secs(1);

/// Why a request cannot wait for its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It is on its way from where it is kept, and should be here in so long.
    Cold(Duration),
    /// It could not be had a moment ago, and is tried again in so long.
    Failing(Duration),
}

/// Whether a model's files are here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fetching {
    #[default]
    Here,
    Elsewhere,
    /// Somebody asked for it.
    Wanted,
    Since(Instant),
}

impl Fetching {
    pub(super) fn of(source: Option<&ModelSource>) -> Self {
        match source.is_none_or(ModelSource::is_here) {
            true => Self::Here,
            false => Self::Elsewhere,
        }
    }

    pub(super) fn is_elsewhere(self) -> bool {
        self != Self::Here
    }

    pub(super) fn want(&mut self) {
        if *self == Self::Elsewhere {
            *self = Self::Wanted;
        }
    }
}

/// Bytes a second, as measured.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rates {
    loaded: Option<f64>,
    fetched: Option<f64>,
}

impl Rates {
    pub(super) fn loaded(&mut self, bytes: u64, took: Duration) {
        learn(&mut self.loaded, bytes, took);
    }

    fn load(self, bytes: u64) -> Duration {
        time(bytes, self.loaded.unwrap_or(LOADED))
    }

    fn fetch(self, bytes: u64) -> Duration {
        time(bytes, self.fetched.unwrap_or(FETCHED))
    }
}

fn learn(rate: &mut Option<f64>, bytes: u64, took: Duration) {
    let new = bytes as f64 / took.as_secs_f64().max(1e-6);
    let old = rate.get_or_insert(new);
    *old += (new - *old) * FRESH;
}

fn time(bytes: u64, rate: f64) -> Duration {
    // A model of a petabyte is still a finite wait.
    Duration::from_secs_f64((bytes as f64 / rate.max(1.0)).clamp(0.0, 86_400.0))
}

impl Models {
    /// How long it takes until a model that is not in memory can compute, if
    /// it is asked for now.
    pub(super) fn arrives_in(&self, holds: &Holds, index: usize) -> Duration {
        let (hold, bytes) = (&holds.each[index], self.slots[index].bytes);
        let load = hold.load_time.unwrap_or_else(|| holds.rates.load(bytes));
        load + match hold.fetching {
            Fetching::Here => Duration::ZERO,
            Fetching::Elsewhere | Fetching::Wanted => holds.rates.fetch(bytes),
            // One that takes longer than thought is thought to be half way.
            Fetching::Since(began) => {
                let (all, gone) = (holds.rates.fetch(bytes), began.elapsed());
                all.checked_sub(gone).unwrap_or(gone)
            }
        }
    }

    /// Whether any model is kept elsewhere.
    pub(crate) fn has_remote(&self) -> bool {
        let remote = |source: &ModelSource| source.remote.is_some();
        self.slots
            .iter()
            .any(|slot| slot.source.as_ref().is_some_and(remote))
    }

    /// Fetches what is asked for, one after the other, until the engine is
    /// gone. A download is not broken off for that: nobody waits for this
    /// thread, and what has arrived serves the next run.
    pub(crate) fn fetch(models: &Weak<Self>) {
        while let Some(models) = models.upgrade() {
            let Some(index) = models.next_to_fetch() else {
                if models.lock().stopped {
                    return;
                }
                continue;
            };
            let slot = &models.slots[index];
            let remote = slot.source.as_ref().and_then(|s| s.remote.clone());
            let Some(remote) = remote else { continue };
            tracing::info!(model = %slot.info.id, from = ?remote, "fetching a model");
            let began = Instant::now();
            let fetched = catch_unwind(AssertUnwindSafe(|| remote.fetch()));
            let fetched = fetched.unwrap_or_else(|_| Err("fetching it panicked".to_owned()));
            let took = began.elapsed();
            let mut guard = models.lock();
            let holds = &mut *guard;
            let hold = &mut holds.each[index];
            match fetched {
                Ok(()) => {
                    hold.fetching = Fetching::Here;
                    // One that was found in a cache says nothing of the line.
                    if slot.bytes as f64 <= FASTEST * took.as_secs_f64() {
                        learn(&mut holds.rates.fetched, slot.bytes, took);
                    }
                    let took_ms = took.as_millis() as u64;
                    tracing::info!(model = %slot.info.id, took_ms, "model fetched");
                }
                Err(error) => {
                    hold.fetching = Fetching::Elsewhere;
                    hold.hinted = false;
                    hold.failed = Some(Instant::now());
                    let again_s = RETRY.as_secs();
                    tracing::error!(model = %slot.info.id, error, again_s, "a model cannot be fetched");
                }
            }
            drop(guard);
            models.changed.notify_all();
        }
    }

    /// Waits a moment for a model that somebody wants fetched.
    fn next_to_fetch(&self) -> Option<usize> {
        let mut holds = self.lock();
        let wanted = |hold: &super::Hold| hold.fetching == Fetching::Wanted;
        if !holds.each.iter().any(wanted) && !holds.stopped {
            let waited = self.changed.wait_timeout(holds, LOOK);
            holds = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let index = holds.each.iter().position(wanted)?;
        holds.each[index].fetching = Fetching::Since(Instant::now());
        Some(index)
    }
}
