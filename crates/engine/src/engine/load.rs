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

/// A longer wait for a model is told as this: a router takes a time that is
/// absurd for no time at all, and nobody would ever ask for the model.
const LONGEST_WAIT: Duration = Duration::from_secs(500);
/// Bytes of weights that a modest machine reads in a second: what a model that
/// was never in memory is thought to write with.
const READ_S: f32 = 5e9;
/// How many times as fast it is thought to read a prompt.
const PREFILL: f32 = 5.0;
/// Tokens of the prompt that "time to the first token" speaks of.
const PROMPT: f32 = 32.0;

/// The speed of a model that was never in memory, by its size.
fn guess(bytes: u64) -> ModelState {
    let decode_tok_s = (READ_S / bytes.max(1) as f32).clamp(0.1, 1e4);
    let prefill_tok_s = PREFILL * decode_tok_s;
    let first_token_ms = 1e3 * PROMPT / prefill_tok_s;
    ModelState {
        prefill_tok_s,
        decode_tok_s,
        first_token_ms,
        first_token_p99_ms: 2.0 * first_token_ms,
        ..ModelState::default()
    }
}

impl Engine {
    /// How busy it is, now.
    #[must_use]
    pub fn load(&self) -> EngineLoad {
        let load = self.queue.load();
        let models = load.models.into_iter().enumerate().map(|(index, speed)| {
            let (residency, load_time, wait) = self.models.residency(index);
            let (state, calibration_error) = speed.unwrap_or_else(|| {
                let bytes = self.models.slots()[index].bytes;
                (guess(bytes), None)
            });
            let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
            // Who asks for a model that is not in memory waits for it first.
            let wait_ms = wait.min(LONGEST_WAIT).as_secs_f32() * 1e3;
            ModelState {
                first_token_ms: state.first_token_ms + wait_ms,
                first_token_p99_ms: state.first_token_p99_ms + wait_ms,
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
