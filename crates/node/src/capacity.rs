//! How the local engine is doing, in the link's words.

use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::CapacityReport;
use tiermesh_engine::{Engine, EngineLoad};
use tiermesh_link::CapacitySource;

/// Reports the local engine.
pub(crate) struct EngineCapacity {
    pub(crate) engine: Arc<Engine>,
    pub(crate) battery_percent: Option<u8>,
}

/// Streams the engine takes at once, waiting ones included.
pub(crate) fn capacity(load: &EngineLoad) -> u32 {
    u32::try_from(load.workers + load.capacity).unwrap_or(u32::MAX)
}

/// The share of that in use.
pub(crate) fn busy_share(load: &EngineLoad) -> f32 {
    let used = u16::try_from(load.active + load.queued).unwrap_or(u16::MAX);
    let all = u16::try_from(load.workers + load.capacity).unwrap_or(u16::MAX);
    (f32::from(used) / f32::from(all.max(1))).min(1.0)
}

impl CapacitySource for EngineCapacity {
    fn capacity(&self) -> u32 {
        capacity(&self.engine.load())
    }

    fn report(&self) -> CapacityReport {
        let load = self.engine.load();
        CapacityReport {
            sequence: 0,
            credits: 0,
            lease: Duration::ZERO,
            active: u32::try_from(load.active).unwrap_or(u32::MAX),
            queued: u32::try_from(load.queued).unwrap_or(u32::MAX),
            load: busy_share(&load),
            battery_percent: self.battery_percent,
            models: load.models,
        }
    }
}
