//! Predicted against observed first tokens.

use super::sketch::Moments;

/// How well a node's model was predicted lately.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibration {
    ratio: Moments,
    within_p99: Moments,
    error: Moments,
    failed: Moments,
}

impl Default for Calibration {
    fn default() -> Self {
        Self {
            ratio: Moments::new(0.02),
            within_p99: Moments::new(0.005),
            error: Moments::new(0.02),
            failed: Moments::new(0.02),
        }
    }
}

impl Calibration {
    /// Learns one answer: milliseconds to its first token, as predicted, as
    /// predicted for the 99th percentile, and as they were.
    pub fn record(&mut self, predicted_ms: f64, predicted_p99_ms: f64, observed_ms: f64) {
        if !(predicted_ms > 0.0 && observed_ms >= 0.0) {
            return;
        }
        self.ratio.record(observed_ms / predicted_ms);
        self.error.record((observed_ms - predicted_ms).abs());
        let within = observed_ms <= predicted_p99_ms;
        self.within_p99.record(f64::from(u8::from(within)));
    }

    /// Learns how an attempt ended that its node is answerable for.
    pub fn ended(&mut self, failed: bool) {
        self.failed.record(f64::from(u8::from(failed)));
    }

    /// Share of the attempts that failed, lately.
    #[must_use]
    pub fn failed_share(&self) -> f64 {
        self.failed.mean_or(1.0, 0.0)
    }

    /// Answers it was learnt from.
    #[must_use]
    pub const fn samples(&self) -> f64 {
        self.ratio.samples()
    }

    /// Observed over predicted; 1 is right on average.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.ratio.mean_or(1.0, 1.0)
    }

    /// Share of the answers within the predicted 99th percentile; 0.99 is
    /// right.
    #[must_use]
    pub fn within_p99(&self) -> f64 {
        self.within_p99.mean_or(1.0, 1.0)
    }

    /// Milliseconds that predictions are off, on average.
    #[must_use]
    pub fn error_ms(&self) -> f64 {
        self.error.mean_or(1.0, 0.0)
    }
}
