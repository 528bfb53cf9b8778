//! Sixteen positions of keys or values against some query rows.
//!
//! Products are added one after the other, never fused, in the order of
//! dimensions (scores) or of positions (values): the bits do not depend on the
//! path or on which rows share a call.

use super::widen;

/// Positions of a page.
pub(crate) const PAGE: usize = 16;

/// A number of a page: f32, f16 as its bits, or an integer of eight bits.
pub(crate) trait Cell: Copy + Send + Sync + 'static {
    fn widen(self) -> f32;
}

impl Cell for u16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        widen(self)
    }
}

impl Cell for i8 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }
}

impl Cell for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

/// `scores[r][p] = Σ queries[r][d] × keys[d][p]` for keys `[dims, 16]`.
///
/// # Panics
///
/// When a query is not of `dims` values: a bug of the caller.
#[inline(always)]
pub(crate) fn scores<E: Cell, const R: usize>(
    queries: [&[f32]; R],
    keys: &[E],
) -> [[f32; PAGE]; R] {
    let dims = keys.len() / PAGE;
    assert!(queries.iter().all(|q| q.len() == dims) && keys.len() == dims * PAGE);
    #[cfg(target_arch = "x86_64")]
    if let Some(scores) = super::x86::page_scores(queries, keys) {
        return scores;
    }
    plain_scores(queries, keys)
}

/// `outs[r][d] += Σ weights[r][p] × values[p][d]` for values `[positions, dims]`.
///
/// # Panics
///
/// When weights or outputs do not fit the values: a bug of the caller.
#[inline(always)]
pub(crate) fn weigh<E: Cell, const R: usize>(
    weights: [&[f32]; R],
    values: &[E],
    outs: [&mut [f32]; R],
) {
    let dims = outs[0].len();
    assert!(outs.iter().all(|out| out.len() == dims));
    let positions = weights[0].len();
    assert!(weights.iter().all(|w| w.len() == positions));
    assert!(values.len() >= positions * dims);
    #[cfg(target_arch = "x86_64")]
    let Some(outs) = super::x86::page_weigh(weights, values, outs) else {
        return;
    };
    plain_weigh(weights, values, outs, 0);
}

pub(super) fn plain_scores<E: Cell, const R: usize>(
    queries: [&[f32]; R],
    keys: &[E],
) -> [[f32; PAGE]; R] {
    let mut sums = [[0.0f32; PAGE]; R];
    for (d, keys) in keys.chunks_exact(PAGE).enumerate() {
        for (sums, query) in sums.iter_mut().zip(&queries) {
            for (sum, key) in sums.iter_mut().zip(keys) {
                *sum += query[d] * key.widen();
            }
        }
    }
    sums
}

/// From dimension `first` on.
pub(super) fn plain_weigh<E: Cell, const R: usize>(
    weights: [&[f32]; R],
    values: &[E],
    outs: [&mut [f32]; R],
    first: usize,
) {
    let dims = outs[0].len();
    for (weights, out) in weights.into_iter().zip(outs) {
        for (weight, values) in weights.iter().zip(values.chunks_exact(dims)) {
            for (out, value) in out[first..].iter_mut().zip(&values[first..]) {
                *out += weight * value.widen();
            }
        }
    }
}
