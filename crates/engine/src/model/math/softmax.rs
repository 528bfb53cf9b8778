//! Scores to weights, in a fixed order.

use super::sum_lanes;
use crate::kernel::Work;

/// [`softmax`] for wide registers.
pub(super) struct Softmax<'a> {
    pub(super) scores: &'a mut [f32],
    pub(super) softcap: Option<f32>,
}

impl Work for Softmax<'_> {
    #[inline(always)]
    fn run(self) {
        softmax(self.scores, self.softcap);
    }
}

/// Replaces scores by `exp(score − max)`, divided by their sum.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32], softcap: Option<f32>) {
    let total = exponentials(scores, softcap);
    for score in scores {
        *score /= total;
    }
}

/// Replaces scores by `exp(score − max)` and returns their sum.
#[inline(always)]
fn exponentials(scores: &mut [f32], softcap: Option<f32>) -> f32 {
    if let Some(cap) = softcap {
        for score in &mut *scores {
            *score = cap * super::tanh(*score / cap);
        }
    }
    let mut largest = [f32::NEG_INFINITY; 8];
    for chunk in scores.chunks(8) {
        for (largest, score) in largest.iter_mut().zip(chunk) {
            *largest = largest.max(*score);
        }
    }
    let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut lanes = [0.0f32; 8];
    for chunk in scores.chunks_mut(8) {
        for (score, lane) in chunk.iter_mut().zip(&mut lanes) {
            *score = super::exp(*score - largest);
            *lane += *score;
        }
    }
    sum_lanes(lanes)
}
