//! Which models are in memory, and who brings them there.
//!
//! A hot model computes. A warm one is on disk: the first request for it has
//! it loaded, and waits meanwhile. A cold one is kept elsewhere: the first
//! request for it has it fetched, and is told when to come again. All hot ones together stay within a budget;
//! to make room, the model goes that is least missed: the one whose recent
//! requests, times what loading it again takes, are worth least a byte. None
//! goes while a request for it is here.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tiermesh_core::{ModelId, Residency};

pub(crate) use super::loaded::Loaded;
pub use super::loaded::{ModelSource, Remote};
use crate::artifact::Quantization;
use crate::defaults::GenerationDefaults;
use crate::loaded::{Described, ModelInfo};

mod fetch;
mod load;

pub(crate) use fetch::Wait;
use fetch::{Fetching, Rates};

/// The loader looks for something to do this often while somebody waits.
const LOOK: Duration = Duration::from_millis(25);
/// A model that failed to load is not tried again before this.
const RETRY: Duration = Duration::from_secs(30);
/// A request that waited this long for a model closes another one to new
/// requests, so that it empties.
const PATIENCE: Duration = Duration::from_secs(2);
/// In this time a request counts half as much for keeping its model.
const HALF_LIFE: f64 = 300.0;

/// One model of the engine, in memory or not.
pub(crate) struct Slot {
    pub(crate) info: ModelInfo,
    pub(crate) defaults: GenerationDefaults,
    /// None for one that was handed in loaded, and stays.
    source: Option<ModelSource>,
    pub(crate) bytes: u64,
}

#[derive(Default)]
struct Hold {
    loaded: Option<Loaded>,
    loading: bool,
    /// Somebody hinted that it will be needed.
    hinted: bool,
    /// Whether its files are here, or on their way.
    fetching: Fetching,
    failed: Option<Instant>,
    load_time: Option<Duration>,
    loaded_at: Option<Instant>,
    /// Requests, the recent ones more, as of `used`.
    uses: f64,
    used: Option<Instant>,
}

pub(crate) struct Models {
    slots: Vec<Slot>,
    holds: Mutex<Holds>,
    changed: Condvar,
    budget: u64,
}

struct Holds {
    each: Vec<Hold>,
    /// Closed to new requests until it is empty.
    closing: Option<usize>,
    rates: Rates,
    stopped: bool,
}

impl Slot {
    pub(crate) fn loaded(model: &Loaded) -> Self {
        let (info, defaults) = match model {
            Loaded::Decoder(model) => (model.info().clone(), model.defaults().clone()),
            Loaded::Encoder(embedder) => (embedder.info().clone(), GenerationDefaults::default()),
        };
        Self {
            bytes: bytes(&info),
            info,
            defaults,
            source: None,
        }
    }

    pub(crate) fn described(described: Described, source: ModelSource) -> Self {
        Self {
            bytes: bytes(&described.info),
            info: described.info,
            defaults: described.defaults,
            source: Some(source),
        }
    }
}

/// What a model's weights take in memory.
fn bytes(info: &ModelInfo) -> u64 {
    // Bits a weight, its share of a block's scale included.
    let bits = match info.quantization {
        Quantization::Q4 => 9,
        Quantization::Q8 => 17,
        Quantization::F16 => 32,
        Quantization::F32 => 64,
    };
    info.parameters.saturating_mul(bits) / 16
}

impl Models {
    pub(crate) fn new(models: Vec<(Slot, Option<Loaded>)>, budget: u64) -> Self {
        let (slots, loaded): (Vec<Slot>, Vec<_>) = models.into_iter().unzip();
        let hold = |(slot, loaded): (&Slot, _)| Hold {
            loaded,
            fetching: Fetching::of(slot.source.as_ref()),
            ..Hold::default()
        };
        let each = slots.iter().zip(loaded).map(hold).collect();
        Self {
            slots,
            holds: Mutex::new(Holds {
                each,
                closing: None,
                rates: Rates::default(),
                stopped: false,
            }),
            changed: Condvar::new(),
            budget,
        }
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(crate) fn find(&self, id: &ModelId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.info.id == *id)
    }

    /// The model, if it is in memory.
    pub(crate) fn hot(&self, index: usize) -> Option<Loaded> {
        self.lock().each[index].loaded.clone()
    }

    /// Whether a stream of it may begin now.
    pub(crate) fn takes(&self, index: usize) -> bool {
        let holds = self.lock();
        holds.each[index].loaded.is_some() && holds.closing != Some(index)
    }

    /// A request for it came. Tells whether it can wait for the model.
    pub(crate) fn want(&self, index: usize) -> Result<(), Wait> {
        let mut holds = self.lock();
        let now = Instant::now();
        let hold = &mut holds.each[index];
        hold.uses = hold.uses_at(now) + 1.0;
        hold.used = Some(now);
        let failed = hold.failed.map(|at| now - at);
        let failing = failed.filter(|since| hold.loaded.is_none() && *since < RETRY);
        let is_cold = hold.fetching.is_elsewhere();
        if is_cold && failing.is_none() {
            hold.fetching.want();
        }
        let verdict = match failing {
            Some(since) => Err(Wait::Failing(RETRY - since)),
            None if is_cold => Err(Wait::Cold(self.arrives_in(&holds, index))),
            None => Ok(()),
        };
        drop(holds);
        self.changed.notify_all();
        verdict
    }

    /// Loads it if that needs nobody else's room. Tells whether it is or will
    /// be in memory.
    pub(crate) fn hint(&self, index: usize) -> bool {
        let mut holds = self.lock();
        if holds.each[index].loaded.is_some() || holds.each[index].loading {
            return true;
        }
        let failing = holds.each[index].failed;
        if failing.is_some_and(|at| at.elapsed() < RETRY) {
            return false;
        }
        // Others that are hinted and on their way take their room as well.
        let promised = (0..self.slots.len()).filter(|other| {
            let hold = &holds.each[*other];
            *other != index && hold.hinted && hold.loaded.is_none() && !hold.loading
        });
        let promised: u64 = promised.map(|other| self.slots[other].bytes).sum();
        let need = promised + self.slots[index].bytes;
        let fits = self.resident(&holds) + need <= self.budget;
        holds.each[index].hinted = fits;
        if fits {
            holds.each[index].fetching.want();
        }
        drop(holds);
        self.changed.notify_all();
        fits
    }

    /// Where it is, what loading it took, and how long it takes until it can
    /// compute, if it is asked for now.
    pub(crate) fn residency(&self, index: usize) -> (Residency, Option<Duration>, Duration) {
        let holds = self.lock();
        let hold = &holds.each[index];
        let residency = match (&hold.loaded, hold.loading) {
            (Some(_), _) => Residency::Hot,
            (None, true) => Residency::Loading,
            (None, false) if hold.fetching.is_elsewhere() => Residency::Cold,
            (None, false) => Residency::Warm,
        };
        let wait = match residency {
            Residency::Hot => Duration::ZERO,
            _ => self.arrives_in(&holds, index),
        };
        (residency, hold.load_time, wait)
    }

    /// What loading a model at the start took.
    pub(crate) fn loaded_in(&self, index: usize, took: Duration) {
        let mut holds = self.lock();
        holds.each[index].load_time = Some(took);
        holds.rates.loaded(self.slots[index].bytes, took);
    }

    /// Bytes of weights in memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.resident(&self.lock())
    }

    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    fn resident(&self, holds: &Holds) -> u64 {
        let loaded = |(slot, hold): (&Slot, &Hold)| match hold.loaded.is_some() || hold.loading {
            true => slot.bytes,
            false => 0,
        };
        self.slots.iter().zip(&holds.each).map(loaded).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    fn uses_at(&self, now: Instant) -> f64 {
        let since = self.used.map_or(0.0, |used| (now - used).as_secs_f64());
        self.uses * (-since / HALF_LIFE).exp2()
    }

    /// What keeping it saves, a byte.
    fn worth(&self, now: Instant, bytes: u64) -> f64 {
        let load = self.load_time.map_or(1.0, |time| time.as_secs_f64());
        self.uses_at(now) * load / bytes.max(1) as f64
    }
}
