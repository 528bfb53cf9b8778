//! Time as the mesh counts it: microseconds on one process's monotonic clock.
//!
//! A [`Time`] means nothing in another process. What crosses a wire is always
//! a remaining duration, so clocks never have to agree.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on this process's monotonic clock, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Time(u64);

impl Time {
    /// The clock's origin.
    pub const ZERO: Self = Self(0);

    /// The point `us` microseconds after the clock's origin.
    #[must_use]
    pub const fn from_us(us: u64) -> Self {
        Self(us)
    }

    /// Microseconds since the clock's origin.
    #[must_use]
    pub const fn as_us(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not after.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, rest: Duration) -> Self {
        let us = u64::try_from(rest.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(us))
    }
}

impl Sub<Time> for Time {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}

/// When a request must have answered. Both bounds are optional.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deadline {
    /// The first token is due by then. Missing it is a routing matter: the
    /// stream goes on, because a late answer is still an answer.
    pub first_token: Option<Time>,
    /// The whole stream ends by then, with `DEADLINE_EXCEEDED` if need be.
    pub total: Option<Time>,
}

impl Deadline {
    /// Time left for the whole stream; `None` when unbounded.
    #[must_use]
    pub fn remaining(&self, now: Time) -> Option<Duration> {
        self.total.map(|at| at.since(now))
    }

    /// Time left to the first token; the total bounds it too.
    #[must_use]
    pub fn first_token_remaining(&self, now: Time) -> Option<Duration> {
        let first = self.first_token.map(|at| at.since(now));
        match (first, self.remaining(now)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Whether the whole stream's time is over.
    #[must_use]
    pub fn is_over(&self, now: Time) -> bool {
        self.total.is_some_and(|at| at <= now)
    }

    /// The tighter of this deadline and a total bound.
    #[must_use]
    pub fn capped(mut self, total: Option<Time>) -> Self {
        self.total = match (self.total, total) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self
    }
}

/// Tells the time. Handed in, so that tests and replays own it.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Time;
}

/// The process's monotonic clock, counted from when this value was made.
#[derive(Debug, Clone, Copy)]
pub struct MonotonicClock {
    origin: std::time::Instant,
}

impl MonotonicClock {
    /// A clock whose origin is now.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the clock"
    )]
    pub fn new() -> Self {
        Self {
            origin: std::time::Instant::now(),
        }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }
}
