//! Exponential backoff with full jitter.

use std::time::Duration;

/// How long to wait before the next dial. Doubles up to a cap; the wait is
/// drawn evenly from zero to that bound, so that a fleet that lost its gateway
/// does not come back as one.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) const fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            failures: 0,
        }
    }

    /// The bound the next wait is drawn below.
    fn bound(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures.min(16)).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// The next wait, for a draw in [0, 1).
    pub(crate) fn next(&mut self, draw: f64) -> Duration {
        let wait = self.bound().mul_f64(draw.clamp(0.0, 1.0));
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// The peer was reached and stayed: start over.
    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_cap_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
        let waits: Vec<u128> = (0..9).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(
            waits,
            [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]
        );
        backoff.reset();
        assert_eq!(backoff.next(0.5), Duration::from_millis(125));
        assert_eq!(backoff.next(0.0), Duration::ZERO);
    }
}
