//! What every logit of a vocabulary goes through, in wide registers where the
//! processor has them, and with the same bits where it has not.

use crate::kernel::{Work, wide};
use crate::model::math::exp;

const LANES: usize = 16;

/// The largest logit's place; of equals the first. `None` when a logit is NaN
/// or infinite, or all are minus infinity.
pub(super) fn largest(logits: &[f32]) -> Option<usize> {
    let mut found = (f32::NEG_INFINITY, false);
    wide(Largest {
        logits,
        found: &mut found,
    });
    let (largest, broken) = found;
    if broken || !largest.is_finite() {
        return None;
    }
    logits.iter().position(|logit| *logit == largest)
}

struct Largest<'a> {
    logits: &'a [f32],
    /// The largest, and whether any is NaN or infinite.
    found: &'a mut (f32, bool),
}

impl Work for Largest<'_> {
    #[inline(always)]
    fn run(self) {
        let (mut lanes, mut broken) = ([f32::NEG_INFINITY; LANES], [0u32; LANES]);
        let mut see = |lane: usize, logit: f32| {
            let larger = logit > lanes[lane];
            lanes[lane] = if larger { logit } else { lanes[lane] };
            let usable = logit < f32::INFINITY;
            broken[lane] |= if usable { 0 } else { 1 };
        };
        let chunks = self.logits.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, logit) in chunk.iter().enumerate() {
                see(lane, *logit);
            }
        }
        for (lane, logit) in rest.iter().enumerate() {
            see(lane, *logit);
        }
        let largest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
        *self.found = (largest, broken.into_iter().any(|seen| seen != 0));
    }
}

/// Puts `exp((logit − largest) / temperature)` into `weights`, 0 for a logit
/// that is minus infinity, and returns the sum.
pub(super) fn weigh(logits: &[f32], largest: f32, temperature: f32, weights: &mut Vec<f32>) -> f64 {
    weights.resize(logits.len(), 0.0);
    let mut total = 0.0;
    wide(Weigh {
        logits,
        largest,
        temperature,
        weights,
        total: &mut total,
    });
    total
}

struct Weigh<'a> {
    logits: &'a [f32],
    largest: f32,
    temperature: f32,
    weights: &'a mut [f32],
    total: &'a mut f64,
}

impl Work for Weigh<'_> {
    #[inline(always)]
    fn run(self) {
        for (logit, weight) in self.logits.iter().zip(self.weights.iter_mut()) {
            let possible = *logit > f32::NEG_INFINITY;
            let exp = weight_of(*logit, self.largest, self.temperature);
            *weight = if possible { exp } else { 0.0 };
        }
        // A loop of its own: wide registers take one of them at a time.
        let mut lanes = [0.0f64; LANES];
        let chunks = self.weights.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, weight) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(*weight);
            }
        }
        for (weight, lane) in rest.iter().zip(&mut lanes) {
            *lane += f64::from(*weight);
        }
        *self.total = lanes.into_iter().sum();
    }
}

/// A logit's probability over the likeliest one's.
#[inline(always)]
pub(super) fn weight_of(logit: f32, largest: f32, temperature: f32) -> f32 {
    exp((logit - largest) / temperature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_registers_do_not_change_bits() {
        let noise = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1_048_576.0 - 8.0;
        let mut logits: Vec<f32> = (0..1003).map(noise).collect();
        logits[17] = f32::NEG_INFINITY;
        let (mut weights, mut narrow) = (Vec::new(), vec![0.0; logits.len()]);
        let total = weigh(&logits, 8.0, 0.7, &mut weights);
        let mut narrow_total = 0.0;
        Weigh {
            logits: &logits,
            largest: 8.0,
            temperature: 0.7,
            weights: &mut narrow,
            total: &mut narrow_total,
        }
        .run();
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&weights), bits(&narrow));
        assert_eq!(total.to_bits(), narrow_total.to_bits());
        assert_eq!(weights[17], 0.0);
    }

    #[test]
    fn the_first_of_the_largest_is_found_wherever_it_is() {
        for at in 0..40 {
            let mut logits = vec![-1.0; 41];
            logits[at] = 5.0;
            logits[40] = 5.0;
            assert_eq!(largest(&logits), Some(at));
            logits[at] = f32::NAN;
            assert_eq!(largest(&logits), None);
            logits[at] = f32::INFINITY;
            assert_eq!(largest(&logits), None);
        }
        assert_eq!(largest(&[]), None);
        assert_eq!(largest(&[f32::NEG_INFINITY; 9]), None);
        assert_eq!(largest(&[f32::NEG_INFINITY, -0.0, 0.0]), Some(1));
    }
}
