//! How fast a model has been, and what that says of the next request.

use std::collections::VecDeque;
use std::time::Duration;

use tiermesh_core::ModelState;

/// Weight of a new measurement.
const FRESH: f64 = 0.2;
/// Shorter prompts measure the clock more than the model.
const MEASURABLE_PROMPT: u64 = 16;
/// First-token times kept for the 99th percentile.
const REMEMBERED: usize = 256;
/// The prompt that "time to the first token" speaks of.
const SHORT_PROMPT: f64 = 32.0;

/// A model's measured speeds, in tokens a second.
#[derive(Clone, Debug)]
pub(crate) struct Speed {
    prefill: f64,
    decode: f64,
    /// Tokens of a typical answer; none before the first one ended.
    answer: Option<f64>,
    first_tokens: VecDeque<f32>,
}

/// What a stream took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) prompt_tokens: u64,
    pub(crate) prefill: Duration,
    pub(crate) output_tokens: u64,
    /// From the first token to the last.
    pub(crate) decode: Duration,
    /// From submission, the queue included.
    pub(crate) first_token: Duration,
}

impl Speed {
    /// From a run at start-up; the clock's grain bounds what it can show.
    pub(crate) fn measured(sample: Sample) -> Self {
        Self {
            prefill: rate(sample.prompt_tokens, sample.prefill),
            decode: rate(sample.output_tokens.saturating_sub(1), sample.decode),
            answer: None,
            first_tokens: VecDeque::from([millis(sample.first_token)]),
        }
    }

    pub(crate) fn learn(&mut self, sample: Sample) {
        if sample.prompt_tokens >= MEASURABLE_PROMPT {
            blend(
                &mut self.prefill,
                rate(sample.prompt_tokens, sample.prefill),
            );
        }
        if sample.output_tokens > 1 {
            blend(
                &mut self.decode,
                rate(sample.output_tokens - 1, sample.decode),
            );
        }
        blend(
            self.answer.get_or_insert(sample.output_tokens as f64),
            sample.output_tokens as f64,
        );
        if self.first_tokens.len() == REMEMBERED {
            self.first_tokens.pop_front();
        }
        self.first_tokens.push_back(millis(sample.first_token));
    }

    /// How long a stream keeps a worker.
    pub(crate) fn service(&self, prompt_tokens: u64, max_tokens: u64) -> Duration {
        let most = max_tokens as f64;
        let answer = self.answer.map_or(most, |typical| typical.min(most));
        Duration::from_secs_f64(prompt_tokens as f64 / self.prefill + answer / self.decode)
    }

    /// The speeds as they are reported, behind a queue of this length.
    pub(crate) fn state(&self, wait: Duration) -> ModelState {
        let own = 1000.0 * (SHORT_PROMPT / self.prefill + 1.0 / self.decode);
        let first_token_ms = millis(wait) + own as f32;
        let mut sorted: Vec<f32> = self.first_tokens.iter().copied().collect();
        sorted.sort_unstable_by(f32::total_cmp);
        let p99 = sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1));
        ModelState {
            prefill_tok_s: self.prefill as f32,
            decode_tok_s: self.decode as f32,
            first_token_ms,
            first_token_p99_ms: p99.map_or(first_token_ms, |p99| p99.max(first_token_ms)),
        }
    }
}

/// Never zero and never infinite, so that times computed from it are finite.
fn rate(tokens: u64, time: Duration) -> f64 {
    (tokens as f64 / time.as_secs_f64().max(1e-6)).clamp(1e-3, 1e9)
}

fn blend(old: &mut f64, new: f64) {
    *old += (new - *old) * FRESH;
}

fn millis(time: Duration) -> f32 {
    time.as_secs_f32() * 1000.0
}
