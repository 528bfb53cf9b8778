//! Allowances: what is done beyond the traffic itself (retries, hedges) is a
//! share of it, plus a floor for when there is little.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tiermesh_core::Time;

/// For how long of the floor an allowance saves up.
const SAVED: Duration = Duration::from_secs(10);
/// One of what is allowed, in the units an allowance is kept in.
const ONE: u64 = 1_000_000;

/// How much is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Of every hundred requests.
    pub share_percent: u32,
    /// And so many a second, whatever the traffic; ten seconds of them are
    /// saved up.
    pub floor_per_s: u32,
}

/// An allowance as it is used: a bucket of micro-units.
#[derive(Debug)]
pub(crate) struct Bucket {
    terms: Allowance,
    state: Mutex<(u64, Time)>,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(terms: Allowance) -> Self {
        Self {
            state: Mutex::new((Self::most(terms), Time::ZERO)),
            terms,
        }
    }

    fn most(terms: Allowance) -> u64 {
        u64::from(terms.floor_per_s) * SAVED.as_secs() * ONE
    }

    /// A request came: it earns its share.
    pub(crate) fn earn(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let share = u64::from(self.terms.share_percent) * ONE / 100;
        state.0 = (state.0 + share).min(Self::most(self.terms).max(ONE));
    }

    /// Takes one, or says how long until there is one.
    ///
    /// # Errors
    /// The time to wait; a minute where waiting alone does not help.
    pub(crate) fn take(&self, now: Time) -> Result<(), Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (held, at) = *state;
        let earned = u64::try_from(now.since(at).as_micros()).unwrap_or(u64::MAX);
        let earned = earned.saturating_mul(u64::from(self.terms.floor_per_s));
        let most = Self::most(self.terms).max(held);
        let held = held.saturating_add(earned).min(most);
        if held >= ONE {
            *state = (held - ONE, now.max(at));
            return Ok(());
        }
        *state = (held, now.max(at));
        match u64::from(self.terms.floor_per_s) {
            0 => Err(Duration::from_secs(60)),
            rate => Err(Duration::from_micros((ONE - held).div_ceil(rate))),
        }
    }
}

/// The `position`-th lot of a seed (splitmix64): jitter without a global
/// source of randomness.
pub(crate) const fn lot(seed: u64, position: u64) -> u64 {
    let mut x = seed.wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Full jitter: anything up to `base` doubled `round` times, at most `most`.
pub(crate) fn jitter(seed: u64, round: u32, base: Duration, most: Duration) -> Duration {
    let bound = base.saturating_mul(1 << round.min(16)).min(most);
    let us = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(lot(seed, u64::from(round)) % us.saturating_add(1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_us(ms * 1_000)
    }

    #[test]
    fn an_allowance_is_a_floor_and_a_share() {
        let terms = Allowance {
            share_percent: 20,
            floor_per_s: 2,
        };
        let bucket = Bucket::new(terms);
        let now = at(1);
        for _ in 0..20 {
            bucket.take(now).unwrap();
        }
        let wait = bucket.take(now).unwrap_err();
        assert!(wait <= Duration::from_millis(500), "{wait:?}");
        for _ in 0..5 {
            bucket.earn();
        }
        bucket.take(now).unwrap();
        assert!(bucket.take(now).is_err());
        bucket.take(now + wait).unwrap();
    }

    #[test]
    fn an_hour_of_quiet_saves_up_ten_seconds() {
        let bucket = Bucket::new(Allowance {
            share_percent: 0,
            floor_per_s: 3,
        });
        let now = at(3_600_000);
        let taken = (0..1_000).filter(|_| bucket.take(now).is_ok()).count();
        assert_eq!(taken, 30);
    }

    #[test]
    fn jitter_is_full_bounded_and_drawn_from_the_seed() {
        let (base, most) = (Duration::from_millis(20), Duration::from_millis(500));
        let drawn: Vec<_> = (0..12).map(|round| jitter(7, round, base, most)).collect();
        assert_eq!(drawn[3], jitter(7, 3, base, most));
        for (round, wait) in (0_u32..).zip(&drawn) {
            assert!(*wait <= most.min(base * (1 << round.min(16))));
        }
        let spread: std::collections::BTreeSet<_> =
            (0..100).map(|seed| jitter(seed, 4, base, most)).collect();
        assert!(spread.len() > 90, "{}", spread.len());
    }
}
