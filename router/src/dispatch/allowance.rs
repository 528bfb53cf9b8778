//! Allowances: what is done beyond the traffic itself (retries, hedges) is a
//! share of it, plus a floor for when there is little.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tiermesh_core::{PolicyName, Time};

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

/// Each policy's hedges: never more than its share of its requests. What is
/// not used is saved up for [`SAVED_HEDGES`] of them at most.
#[derive(Debug, Default)]
pub(crate) struct Shares(Mutex<BTreeMap<PolicyName, u64>>);

/// Hedges that a policy saves up.
const SAVED_HEDGES: u64 = 16;

impl Shares {
    /// A request of a policy came that hedges this share of them, 0 to 1.
    pub(crate) fn earn(&self, policy: &PolicyName, share: f64) {
        // A share is between 0 and 1: no precision is lost that counts.
        let earned = (share.clamp(0.0, 1.0) * ONE as f64).round() as u64;
        self.change(policy, |held| {
            *held = (*held + earned).min(SAVED_HEDGES * ONE);
        });
    }

    /// Takes one hedge, where the policy has it.
    pub(crate) fn take(&self, policy: &PolicyName) -> bool {
        self.change(policy, |held| {
            let enough = *held >= ONE;
            *held -= if enough { ONE } else { 0 };
            enough
        })
    }

    /// It was not used after all.
    pub(crate) fn give_back(&self, policy: &PolicyName) {
        self.change(policy, |held| {
            *held = (*held + ONE).min(SAVED_HEDGES * ONE);
        });
    }

    /// Forgets policies that are no more. Those there are are bounded.
    pub(crate) fn keep(&self, is_known: impl Fn(&PolicyName) -> bool) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|policy, _| is_known(policy));
    }

    fn change<T>(&self, policy: &PolicyName, by: impl FnOnce(&mut u64) -> T) -> T {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get_mut(policy) {
            Some(held) => by(held),
            None => by(held.entry(policy.clone()).or_default()),
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
    fn a_share_is_never_passed_and_a_quiet_hour_saves_up_little() {
        let (shares, rare) = (Shares::default(), PolicyName::new("rare").unwrap());
        let mut taken = 0;
        for n in 1..=1_000_u32 {
            shares.earn(&rare, 0.125);
            taken += u32::from(shares.take(&rare));
            assert!(f64::from(taken) <= f64::from(n) * 0.125);
        }
        assert_eq!(taken, 125);
        for _ in 0..10_000 {
            shares.earn(&rare, 0.5);
        }
        let saved = (0..100).filter(|_| shares.take(&rare)).count();
        assert_eq!(saved as u64, SAVED_HEDGES);
        let never = PolicyName::new("never").unwrap();
        shares.earn(&never, 0.0);
        assert!(!shares.take(&never));
        shares.earn(&rare, 1.0);
        shares.keep(|policy| *policy != rare);
        assert!(!shares.take(&rare));
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
