//! Log-probabilities of the distribution the model computed, before anything
//! was done to it.

use super::draw::top;
use super::softmax::{largest, weigh};

/// What is told of a chosen token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Logprobs {
    /// Of the token itself.
    pub(crate) chosen: f32,
    /// Of the likeliest tokens, likeliest first. The chosen one is among them
    /// only if it is that likely.
    pub(crate) top: Vec<(u32, f32)>,
}

/// A softmax's normalisation and its largest terms.
pub(super) struct Distribution {
    largest: f32,
    /// ln Σ exp(logit − largest), summed in f64.
    log_total: f64,
    top: Vec<(u32, f32)>,
}

impl Distribution {
    /// `None` when a logit is NaN or infinite, or all are minus infinity.
    /// `weights` is room to work in.
    pub(super) fn of(logits: &[f32], alternatives: usize, weights: &mut Vec<f32>) -> Option<Self> {
        let largest = logits[largest(logits)?];
        Some(Self {
            largest,
            log_total: ln(weigh(logits, largest, 1.0, weights)),
            top: top(logits, alternatives),
        })
    }

    pub(super) fn logprobs(self, logits: &[f32], chosen: u32) -> Logprobs {
        let logprob = |logit: f32| (f64::from(logit - self.largest) - self.log_total) as f32;
        Logprobs {
            chosen: logprob(logits[chosen as usize]),
            top: self.top.iter().map(|(id, l)| (*id, logprob(*l))).collect(),
        }
    }
}

/// The natural logarithm of a normal number over 0, within two units in the
/// last place, the same bits everywhere: `x = 2ⁿ m` with `m` near 1, and
/// `ln m = 2 artanh((m − 1) / (m + 1))` as a series.
fn ln(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = x.to_bits();
    let mut n = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits((bits & MANTISSA) | 1023 << 52);
    if m > std::f64::consts::SQRT_2 {
        (m, n) = (m / 2.0, n + 1);
    }
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    // |s| is under 0.172, so the first term left out is under 1e-18.
    let mut series = 0.0;
    for odd in (1..=21u32).rev().step_by(2) {
        series = series * square + 1.0 / f64::from(odd);
    }
    n as f64 * std::f64::consts::LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ln_is_close_over_what_sums_can_be() {
        let mut x = 1.0f64;
        while x < 1e9 {
            let error = (ln(x) - x.ln()).abs();
            assert!(
                error <= 4e-16 * x.ln().max(1.0),
                "ln({x}) is off by {error:e}"
            );
            x *= 1.000_37;
        }
        assert_eq!(ln(1.0), 0.0);
        assert!((ln(1e-30) - 1e-30f64.ln()).abs() < 1e-13);
    }

    #[test]
    fn logprobs_are_those_of_the_softmax() {
        let logits = [0.5f32, -1.25, 3.0, f32::NEG_INFINITY, 2.0];
        let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        let expected = |id: usize| (f64::from(logits[id]) - total.ln()) as f32;
        let told = |top, id| {
            let distribution = Distribution::of(&logits, top, &mut Vec::new());
            distribution.unwrap().logprobs(&logits, id)
        };
        let none = told(0, 2);
        assert!(none.top.is_empty());
        let told = told(4, 1);
        assert!((told.chosen - expected(1)).abs() < 1e-6);
        let ids: Vec<u32> = told.top.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [2, 4, 0, 1], "what cannot come is not told");
        for (id, logprob) in told.top {
            assert!((logprob - expected(id as usize)).abs() < 1e-6);
        }
    }
}
