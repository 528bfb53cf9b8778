//! What an engine has to do, and what it has left.

use std::time::Duration;

use tiermesh_core::{ModelState, PRIORITY_CLASSES};

use super::Engine;
use crate::model::PAGE;
use crate::serve::models::Loaded;
use crate::serve::prefix::PrefixStats;

/// How busy an engine is, and what it has left.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineLoad {
    /// Streams being computed.
    pub active: usize,
    /// Streams waiting.
    pub queued: usize,
    /// Those by class, the least urgent first.
    pub queued_by_class: [usize; PRIORITY_CLASSES],
    /// Streams that may wait.
    pub capacity: usize,
    /// Streams that can be computed together.
    pub streams: usize,
    /// Each model's speed at the present load and where it is, in the order of [`Engine::models`].
    pub models: Vec<ModelState>,
    /// Bytes of keys and values in use, kept prefixes included.
    pub kv_used_bytes: usize,
    /// Bytes of keys and values there may be.
    pub kv_budget_bytes: usize,
    /// Bytes of weights in memory.
    pub model_bytes: u64,
    /// How often prefixes were found.
    pub prefix: PrefixStats,
    /// How long a step has taken that does not end.
    pub stuck: Option<Duration>,
}

impl Engine {
    /// How busy it is, now.
    #[must_use]
    pub fn load(&self) -> EngineLoad {
        let load = self.queue.load();
        let models = load.models.into_iter().enumerate().map(|(index, speed)| {
            let (residency, load_time) = self.models.residency(index);
            let (state, calibration_error) = speed.unwrap_or_default();
            let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
            ModelState {
                residency,
                load_ms: load_time.map_or(0, millis),
                kv_tokens_free: self.kv_tokens_free(index),
                calibration_error: calibration_error.unwrap_or(0.0),
                ..state
            }
        });
        EngineLoad {
            active: load.active,
            queued: load.queued,
            queued_by_class: load.queued_by_class,
            capacity: self.options.queue_capacity,
            streams: self.options.streams.get(),
            models: models.collect(),
            kv_used_bytes: self.pages.used(),
            kv_budget_bytes: self.pages.budget(),
            model_bytes: self.models.resident_bytes(),
            prefix: self.pulse.prefix(),
            stuck: self.pulse.stuck(),
        }
    }

    /// Tokens that the free memory for keys and values has room for.
    fn kv_tokens_free(&self, index: usize) -> u32 {
        let Some(Loaded::Decoder(model)) = self.models.hot(index) else {
            return 0;
        };
        let pages = self.pages.free() / model.decoder.kv_layout().page_bytes().max(1);
        u32::try_from(pages.saturating_mul(PAGE)).unwrap_or(u32::MAX)
    }
}
