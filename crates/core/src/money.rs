//! Money, counted in integers so that sums do not drift.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::iter::Sum;
use std::ops::Add;

/// US dollars, in billionths (10⁻⁹ USD): one token of a cheap model is some
/// tens of them.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
pub struct Usd(u64);

impl Usd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From billionths of a dollar.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// In billionths of a dollar.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// From dollars. `None` for a negative, infinite or absurd (over a
    /// billion) amount, and for NaN.
    #[must_use]
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        if !(0.0..=1e9).contains(&dollars) {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was checked"
        )]
        Some(Self((dollars * 1e9).round() as u64))
    }

    /// In dollars.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "for people and JSON")]
    pub fn as_dollars(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The price of `tokens` at this much per million of them, rounded up.
    #[must_use]
    #[inline]
    pub fn per_million(self, tokens: u64) -> Self {
        if let Some(nanos) = self.0.checked_mul(tokens) {
            return Self(nanos.div_ceil(1_000_000));
        }
        let nanos = u128::from(self.0) * u128::from(tokens);
        Self(u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }
}

impl Add for Usd {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Usd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${:.9}", self.as_dollars())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_that_are_not_money_are_refused() {
        for bad in [f64::NAN, f64::INFINITY, -0.01, 1e10] {
            assert_eq!(Usd::from_dollars(bad), None, "{bad}");
        }
        assert_eq!(Usd::from_dollars(0.000_1), Some(Usd::from_nanos(100_000)));
    }

    #[test]
    fn prices_round_up_and_never_overflow() {
        let price = Usd::from_dollars(0.06).unwrap();
        assert_eq!(price.per_million(1), Usd::from_nanos(60));
        assert_eq!(
            Usd::from_nanos(u64::MAX).per_million(u64::MAX).as_nanos(),
            u64::MAX
        );
    }
}
