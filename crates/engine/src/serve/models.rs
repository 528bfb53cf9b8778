//! Which models are in memory, and who brings them there.
//!
//! A hot model computes. A warm one is on disk: the first request for it has
//! it loaded, and waits meanwhile. All hot ones together stay within a budget;
//! to make room, the model goes that is least missed: the one whose recent
//! requests, times what loading it again takes, are worth least a byte. None
//! goes while a request for it is here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tiermesh_core::{ModelId, Residency};

use super::entry::Entry;
pub(crate) use super::loaded::Loaded;
pub use super::loaded::ModelSource;
use super::queue::{Queue, Wanted};
use super::warm_up;
use crate::artifact::Quantization;
use crate::defaults::GenerationDefaults;
use crate::loaded::{Described, ModelInfo};
use crate::stream::StreamError;

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

/// What the loader does next.
enum Chosen {
    Load(usize),
    Nothing,
    Stop,
}

struct Holds {
    each: Vec<Hold>,
    /// Closed to new requests until it is empty.
    closing: Option<usize>,
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
        let (slots, loaded): (Vec<_>, Vec<_>) = models.into_iter().unzip();
        let hold = |loaded| Hold {
            loaded,
            ..Hold::default()
        };
        let each = loaded.into_iter().map(hold).collect();
        Self {
            slots,
            holds: Mutex::new(Holds {
                each,
                closing: None,
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

    /// A request for it came. Tells whether waiting for it makes sense.
    pub(crate) fn want(&self, index: usize) -> bool {
        let mut holds = self.lock();
        let now = Instant::now();
        let hold = &mut holds.each[index];
        hold.uses = hold.uses_at(now) + 1.0;
        hold.used = Some(now);
        let failing = hold.failed.is_some_and(|at| now - at < RETRY);
        let sensible = hold.loaded.is_some() || !failing;
        drop(holds);
        self.changed.notify_all();
        sensible
    }

    /// Loads it if that needs nobody else's room. Tells whether it is or will
    /// be in memory.
    pub(crate) fn hint(&self, index: usize) -> bool {
        let mut holds = self.lock();
        if holds.each[index].loaded.is_some() || holds.each[index].loading {
            return true;
        }
        let fits = self.resident(&holds) + self.slots[index].bytes <= self.budget;
        holds.each[index].hinted = fits;
        drop(holds);
        self.changed.notify_all();
        fits
    }

    pub(crate) fn residency(&self, index: usize) -> (Residency, Option<Duration>) {
        let holds = self.lock();
        let hold = &holds.each[index];
        let residency = match (&hold.loaded, hold.loading) {
            (Some(_), _) => Residency::Hot,
            (None, true) => Residency::Loading,
            (None, false) => Residency::Warm,
        };
        (residency, hold.load_time)
    }

    /// Bytes of weights in memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.resident(&self.lock())
    }

    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Loads what is waited for, until it is stopped.
    pub(crate) fn serve(&self, queue: &Queue, threads: std::num::NonZeroUsize, budget: usize) {
        loop {
            let Some(index) = self.next(queue) else {
                return;
            };
            let began = Instant::now();
            let loaded = catch_unwind(AssertUnwindSafe(|| self.load(index, threads)));
            let loaded = loaded.unwrap_or_else(|_| Err("loading it panicked".to_owned()));
            let mut holds = self.lock();
            let hold = &mut holds.each[index];
            hold.loading = false;
            hold.hinted = false;
            match loaded {
                Ok((model, speed)) => {
                    hold.load_time = Some(began.elapsed());
                    hold.failed = None;
                    hold.loaded_at = Some(Instant::now());
                    hold.loaded = Some(model.clone());
                    drop(holds);
                    let id = &self.slots[index].info.id;
                    tracing::info!(model = %id, took_ms = began.elapsed().as_millis() as u64, "model loaded");
                    queue.ready(index, speed);
                    queue.prepare(index, Entry::is_raw, |entry| {
                        super::prepare(entry, &model, budget)
                    });
                }
                Err(error) => {
                    hold.failed = Some(Instant::now());
                    drop(holds);
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
    ) -> Result<(Loaded, super::speed::Speed), String> {
        let source = self.slots[index].source.as_ref();
        let source = source.ok_or_else(|| "it has no directory".to_owned())?;
        let loaded = Loaded::open(source).map_err(|error| chain(&error))?;
        let info = loaded.info();
        if info.digest != self.slots[index].info.digest {
            return Err(format!("{} changed on disk", source.path.display()));
        }
        let speed = warm_up::measure(&loaded, threads).map_err(|error| chain(&error))?;
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
        let cold =
            |index: usize| holds.each[index].loaded.is_none() && !failing(&holds.each[index]);
        let longest = (0..wanted.len()).filter(|index| cold(*index) && wanted[*index].waiting > 0);
        let longest = longest.min_by_key(|index| wanted[*index].since);
        let Some(index) = longest else {
            // Whoever a model was closed for is gone.
            holds.closing = None;
            let hinted = (0..self.slots.len()).find(|index| holds.each[*index].hinted);
            return hinted.map_or(Chosen::Nothing, |index| {
                holds.each[index].loading = true;
                Chosen::Load(index)
            });
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

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
