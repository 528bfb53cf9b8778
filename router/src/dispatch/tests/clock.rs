//! The time as tests see it.

use tiermesh_core::{Clock, Time};

/// Tokio's clock, which tests pause.
pub(crate) struct TokioClock(pub(crate) tokio::time::Instant);

impl Clock for TokioClock {
    fn now(&self) -> Time {
        Time::from_us(1_000_000) + self.0.elapsed()
    }
}
