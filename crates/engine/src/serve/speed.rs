//! How fast a model has been, and what that says of the next request.

use std::collections::VecDeque;
use std::time::Duration;

use tiermesh_core::ModelState;

/// Weight of a new measurement.
const FRESH: f64 = 0.2;
/// Fewer tokens measure the clock more than the model.
const MEASURABLE: usize = 16;
/// First-token times kept for the 99th percentile.
const REMEMBERED: usize = 256;
/// The prompt that "time to the first token" speaks of.
const SHORT_PROMPT: usize = 32;
/// Batches are told apart by powers of two, up to 128 and more.
const BATCHES: usize = 8;

/// A model's measured speeds.
#[derive(Clone, Debug)]
pub(crate) struct Speed {
    /// Tokens read in a second.
    prefill: f64,
    /// Seconds of a step that writes a token of so many streams, by the
    /// logarithm of their number; none before there was one.
    steps: [Option<f64>; BATCHES],
    /// Tokens of a typical answer; none before the first one ended.
    answer: Option<f64>,
    first_tokens: VecDeque<f32>,
    calibration: Calibration,
}

/// How good predictions of first tokens were.
#[derive(Clone, Copy, Debug, Default)]
struct Calibration {
    /// Mean of |ln(observed / predicted)|, the recent ones more.
    error: Option<f64>,
}

/// One step, measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepTime {
    /// Streams that wrote a token.
    pub(crate) wrote: usize,
    /// Tokens of prompts that were read.
    pub(crate) read: usize,
    pub(crate) took: Duration,
}

impl Speed {
    /// From a run at start-up; the clock's grain bounds what it can show.
    pub(crate) fn measured(prefill: StepTime, write: StepTime) -> Self {
        let mut steps = [None; BATCHES];
        steps[batch(write.wrote)] = Some(write.took.as_secs_f64().max(1e-6));
        Self {
            prefill: rate(prefill.read, prefill.took),
            steps,
            answer: None,
            first_tokens: VecDeque::new(),
            calibration: Calibration::default(),
        }
    }

    pub(crate) fn learn(&mut self, step: StepTime) {
        let took = step.took.as_secs_f64();
        if step.read == 0 && step.wrote > 0 {
            let known = &mut self.steps[batch(step.wrote)];
            blend(known.get_or_insert(took), took.max(1e-6));
        } else if step.read >= MEASURABLE {
            let writing = match step.wrote {
                0 => 0.0,
                wrote => self.step_secs(wrote),
            };
            // What writing would have taken alone is not reading's; but
            // reading is never free, however the two overlapped.
            let reading = (took - writing).max(took * 0.1);
            let rate = rate(step.read, Duration::from_secs_f64(reading));
            blend(&mut self.prefill, rate);
        }
    }

    /// An answer ended after so many tokens.
    pub(crate) fn ended(&mut self, tokens: u64) {
        let tokens = tokens as f64;
        blend(self.answer.get_or_insert(tokens), tokens);
    }

    /// A first token came.
    pub(crate) fn first_token(&mut self, predicted: Duration, observed: Duration) {
        if self.first_tokens.len() == REMEMBERED {
            self.first_tokens.pop_front();
        }
        self.first_tokens.push_back(millis(observed));
        let ratio = observed.as_secs_f64().max(1e-4) / predicted.as_secs_f64().max(1e-4);
        let off = ratio.ln().abs();
        blend(self.calibration.error.get_or_insert(off), off);
    }

    /// Tokens read in a second.
    pub(crate) fn prefill_tok_s(&self) -> f64 {
        self.prefill
    }

    /// Seconds of a step that writes a token of each of so many streams: as
    /// measured, or as of the nearest smaller batch known, or larger.
    pub(crate) fn step_secs(&self, streams: usize) -> f64 {
        let at = batch(streams);
        let below = self.steps[..=at].iter().rev().flatten().next();
        let above = self.steps[at..].iter().flatten().next();
        below.or(above).copied().unwrap_or(1e-3)
    }

    /// Tokens an answer bounded by `most` can be expected to have.
    pub(crate) fn answer(&self, most: u64) -> f64 {
        let most = most as f64;
        self.answer.map_or(most, |typical| typical.min(most))
    }

    /// Off by this share, on average: 0.25 is a quarter too much or too little.
    pub(crate) fn calibration_error(&self) -> Option<f32> {
        self.calibration
            .error
            .map(|error| (error.exp() - 1.0) as f32)
    }

    /// Time to the first token of a prompt behind `ahead` unread tokens, when
    /// `writing` streams are written to between, and a place comes free after
    /// `wait`.
    pub(crate) fn first_token_in(&self, outlook: Outlook, prompt: usize) -> Duration {
        let Outlook {
            wait,
            ahead,
            writing,
            step_tokens,
        } = outlook;
        let reading = (ahead + prompt.max(1)) as f64 / self.prefill;
        // Between the chunks the other streams are written to.
        let steps = (ahead + prompt.max(1)).div_ceil(step_tokens.max(1)) as f64;
        let between = match writing {
            0 => 0.0,
            writing => steps * self.step_secs(writing),
        };
        wait + Duration::from_secs_f64(reading + between)
    }

    /// The speeds as they are reported.
    pub(crate) fn state(&self, outlook: Outlook) -> ModelState {
        let first_token_ms = millis(self.first_token_in(outlook, SHORT_PROMPT));
        let mut sorted: Vec<f32> = self.first_tokens.iter().copied().collect();
        sorted.sort_unstable_by(f32::total_cmp);
        let p99 = sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1));
        ModelState {
            prefill_tok_s: self.prefill as f32,
            decode_tok_s: (1.0 / self.step_secs(outlook.writing + 1)) as f32,
            first_token_ms,
            first_token_p99_ms: p99.map_or(first_token_ms, |p99| p99.max(first_token_ms)),
            ..ModelState::default()
        }
    }
}

/// What a new request would find.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outlook {
    /// Until it has a place among those computed.
    pub(crate) wait: Duration,
    /// Tokens that are read before its own.
    pub(crate) ahead: usize,
    /// Streams that are written meanwhile.
    pub(crate) writing: usize,
    /// Tokens read in one step beside them.
    pub(crate) step_tokens: usize,
}

fn batch(streams: usize) -> usize {
    (streams.max(1).ilog2() as usize).min(BATCHES - 1)
}

/// Never zero and never infinite, so that times computed from it are finite.
fn rate(tokens: usize, time: Duration) -> f64 {
    (tokens as f64 / time.as_secs_f64().max(1e-6)).clamp(1e-3, 1e9)
}

fn blend(old: &mut f64, new: f64) {
    *old += (new - *old) * FRESH;
}

fn millis(time: Duration) -> f32 {
    time.as_secs_f32() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(wrote: usize, read: usize, ms: u64) -> StepTime {
        StepTime {
            wrote,
            read,
            took: Duration::from_millis(ms),
        }
    }

    #[test]
    fn reading_is_what_a_step_took_beyond_its_writing() {
        let mut speed = Speed::measured(step(0, 100, 100), step(1, 0, 10));
        for _ in 0..200 {
            speed.learn(step(4, 0, 20));
            speed.learn(step(4, 40, 60));
        }
        assert!((speed.prefill_tok_s() - 1000.0).abs() < 20.0);
        assert!((speed.step_secs(4) - 0.020).abs() < 1e-3);
        assert!(
            (speed.step_secs(2) - 0.010).abs() < 1e-3,
            "as of one stream"
        );
        let outlook = Outlook {
            wait: Duration::from_millis(5),
            ahead: 60,
            writing: 4,
            step_tokens: 40,
        };
        let predicted = millis(speed.first_token_in(outlook, 20));
        assert!((predicted - (5.0 + 80.0 + 40.0)).abs() < 3.0, "{predicted}");
    }

    #[test]
    fn the_calibration_error_is_a_share() {
        let mut speed = Speed::measured(step(0, 100, 100), step(1, 0, 10));
        assert_eq!(speed.calibration_error(), None);
        for _ in 0..50 {
            speed.first_token(Duration::from_millis(100), Duration::from_millis(125));
            speed.first_token(Duration::from_millis(125), Duration::from_millis(100));
        }
        assert!((speed.calibration_error().unwrap() - 0.25).abs() < 0.01);
    }
}
