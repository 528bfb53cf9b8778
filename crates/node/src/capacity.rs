//! How the local engine is doing, in the link's words.

use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{CapacityReport, EngineCapacity as Left, ModelId};
use tiermesh_engine::{Engine, EngineLoad};
use tiermesh_link::CapacitySource;

/// Reports the local engine.
pub(crate) struct EngineCapacity {
    pub(crate) engine: Arc<Engine>,
    pub(crate) battery_percent: Option<u8>,
}

/// Streams the engine takes at once, waiting ones included.
pub(crate) fn capacity(load: &EngineLoad) -> u32 {
    count(load.streams + load.capacity)
}

/// Streams the engine computes together, over all its models.
pub(crate) fn slots(load: &EngineLoad) -> u32 {
    count(load.streams)
}

/// The share of what it takes at once that is in use.
pub(crate) fn busy_share(load: &EngineLoad) -> f32 {
    let used = u16::try_from(load.active + load.queued).unwrap_or(u16::MAX);
    let all = u16::try_from(load.streams + load.capacity).unwrap_or(u16::MAX);
    (f32::from(used) / f32::from(all.max(1))).min(1.0)
}

/// What it has left beside its streams.
pub(crate) fn engine(load: &EngineLoad) -> Left {
    let asked = load.prefix.asked_tokens.max(1);
    // Shares of counts far below f32's precision.
    let share = load.prefix.found_tokens as f64 / asked as f64;
    Left {
        queued_by_class: load.queued_by_class.map(count),
        kv_used_kib: count(load.kv_used_bytes >> 10),
        kv_budget_kib: count(load.kv_budget_bytes >> 10),
        weights_kib: u32::try_from(load.model_bytes >> 10).unwrap_or(u32::MAX),
        prefix_hit_share: share as f32,
        temperature_c: temperature(),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The hottest thermal zone, where the kernel tells in millidegrees.
fn temperature() -> Option<f32> {
    let zones = std::fs::read_dir("/sys/class/thermal").ok()?;
    let read = |zone: std::fs::DirEntry| {
        let text = std::fs::read_to_string(zone.path().join("temp")).ok()?;
        text.trim().parse::<f32>().ok()
    };
    let hottest = zones.flatten().filter_map(read).reduce(f32::max)?;
    Some(hottest / 1000.0).filter(|celsius| celsius.is_finite())
}

/// Brings a model into memory if it fits. Tells whether it does.
pub(crate) fn preload(engine: &Engine, model: &ModelId) -> bool {
    let fits = engine.preload(model);
    tracing::info!(%model, fits, "told to preload a model");
    fits
}

impl CapacitySource for EngineCapacity {
    fn capacity(&self) -> u32 {
        capacity(&self.engine.load())
    }

    fn preload(&self, model: &ModelId) {
        preload(&self.engine, model);
    }

    fn report(&self) -> CapacityReport {
        let load = self.engine.load();
        CapacityReport {
            sequence: 0,
            credits: 0,
            slots: slots(&load),
            lease: Duration::ZERO,
            active: count(load.active),
            queued: count(load.queued),
            load: busy_share(&load),
            battery_percent: self.battery_percent,
            engine: engine(&load),
            models: load.models,
        }
    }
}
