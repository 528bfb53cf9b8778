//! What one model's answers took: the measured speed the decision reads.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tiermesh_core::ModelState;

/// The weight of the newest answer in the means.
const NEWEST: f32 = 0.2;
/// Prompt tokens a second until answers were measured. Prefill behind an API
/// shows only in the first token's time, which is measured; this keeps the
/// estimate for long prompts from being free.
const PREFILL_PRIOR_TOK_S: f32 = 5_000.0;
/// Tokens a stream is taken to have before one was measured.
const LENGTH_PRIOR_TOKENS: f32 = 128.0;

/// Moving means over finished answers.
#[derive(Debug)]
pub(super) struct Meter {
    means: Mutex<Means>,
}

#[derive(Debug, Clone, Copy)]
struct Means {
    first_token_ms: f32,
    /// Mean distance of a first token's time from its mean.
    deviation_ms: f32,
    decode_tok_s: f32,
    length_ms: f32,
}

/// One finished answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// From asking to the first text.
    pub(super) first_token: Duration,
    /// From asking to the end.
    pub(super) total: Duration,
    /// Tokens said.
    pub(super) tokens: u64,
}

impl Meter {
    pub(super) fn new(first_token_ms: f32, decode_tok_s: f32) -> Self {
        Self {
            means: Mutex::new(Means {
                first_token_ms,
                deviation_ms: first_token_ms / 4.0,
                decode_tok_s,
                length_ms: first_token_ms + LENGTH_PRIOR_TOKENS / decode_tok_s * 1_000.0,
            }),
        }
    }

    fn means(&self) -> MutexGuard<'_, Means> {
        // Plain numbers: a panic elsewhere cannot have left them half-written.
        self.means.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, answer: Measured) {
        let ms = |d: Duration| d.as_secs_f32() * 1_000.0;
        let mut means = self.means();
        let off = (ms(answer.first_token) - means.first_token_ms).abs();
        blend(&mut means.deviation_ms, off);
        blend(&mut means.first_token_ms, ms(answer.first_token));
        blend(&mut means.length_ms, ms(answer.total));
        let decoding = answer
            .total
            .saturating_sub(answer.first_token)
            .as_secs_f32();
        if answer.tokens > 1 && decoding > 0.001 {
            #[expect(clippy::cast_precision_loss, reason = "a speed, for estimates")]
            blend(
                &mut means.decode_tok_s,
                (answer.tokens - 1) as f32 / decoding,
            );
        }
    }

    pub(super) fn state(&self) -> ModelState {
        let means = *self.means();
        ModelState {
            prefill_tok_s: PREFILL_PRIOR_TOK_S,
            decode_tok_s: means.decode_tok_s,
            first_token_ms: means.first_token_ms,
            // Four mean deviations lie near the 99th percentile or above it
            // for the long-tailed times an API shows.
            first_token_p99_ms: means.first_token_ms + 4.0 * means.deviation_ms,
            ..ModelState::default()
        }
    }

    /// How long a stream holds its slot.
    pub(super) fn mean_length(&self) -> Duration {
        Duration::from_secs_f32((self.means().length_ms / 1_000.0).clamp(0.0, 3_600.0))
    }
}

fn blend(mean: &mut f32, newest: f32) {
    *mean += NEWEST * (newest - *mean);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_answers_replace_the_prior() {
        let meter = Meter::new(600.0, 60.0);
        let answer = Measured {
            first_token: Duration::from_millis(200),
            total: Duration::from_millis(1_200),
            tokens: 101,
        };
        for _ in 0..100 {
            meter.record(answer);
        }
        let state = meter.state();
        assert!((state.first_token_ms - 200.0).abs() < 1.0, "{state:?}");
        assert!((state.decode_tok_s - 100.0).abs() < 1.0, "{state:?}");
        assert!(state.first_token_p99_ms >= state.first_token_ms);
        assert!(meter.mean_length() < Duration::from_millis(1_300));
    }
}
