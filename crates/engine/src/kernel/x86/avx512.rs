//! AVX-512 with VNNI: `T` tokens against `W` tile rows, so that a word of
//! activations is broadcast once for all of them.

use std::arch::x86_64::*;

use super::super::layout::{Encoding, ROWS, TileRow};
use super::page::load;
use super::{Cell, GROUPS, Row};

/// Brings a line of the tiles that come next into the core's second cache while
/// these are computed with. One token is bound by memory anyway, and reads in
/// one stream.
#[inline(always)]
fn fetch<const T: usize>(ahead: TileRow<'_>, at: usize) {
    if T > 1 {
        let line = ahead.bytes.as_ptr().wrapping_add(at);
        // SAFETY: every x86-64 has SSE; a prefetch reads nothing, wherever it
        // points.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
    }
}

/// Results by tile row, then by token.
type Out<const T: usize, const W: usize> = [[[f32; ROWS]; T]; W];

/// `sum + a × b`, rounded once if `FUSED` and twice if not.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_product<const FUSED: bool>(sum: __m512, a: __m512, b: __m512) -> __m512 {
    match FUSED {
        true => _mm512_fmadd_ps(a, b, sum),
        false => _mm512_add_ps(sum, _mm512_mul_ps(a, b)),
    }
}

/// Adds a block's dot products, scaled, to the sums. A macro, since a function
/// with this many registers' worth of arguments goes through memory. In an
/// unsafe block: `block` must be below the number of blocks of every row and of
/// each of `w`.
macro_rules! accumulate {
    ($sums:ident, $dots:ident, $rows:ident, $w:ident, $block:ident) => {
        let mut scales = [_mm512_setzero_ps(); W];
        for i in 0..W {
            // Sixteen f16 are 32 bytes for each block; read unaligned.
            let at = $w[i].scales.as_ptr().add($block * ROWS * 2);
            scales[i] = _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()));
        }
        for t in 0..T {
            let scale = _mm512_set1_ps(*$rows[t].scales.get_unchecked($block));
            for i in 0..W {
                let factor = _mm512_mul_ps(scale, scales[i]);
                let dot = _mm512_cvtepi32_ps($dots[i][t]);
                $sums[i][t] = add_product::<FUSED>($sums[i][t], dot, factor);
            }
        }
    };
}

/// `vpdpbusd` multiplies the offset weights as they are stored; starting from
/// the correction takes the offset out again.
///
/// # Safety
///
/// The processor has the features; every row has as many blocks as each of
/// `w`, which [`Row::new`] asserts.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn q8<const T: usize, const W: usize, const FUSED: bool>(
    rows: [Row<'_>; T],
    w: [TileRow<'_>; W],
    ahead: [TileRow<'_>; W],
) -> Out<T, W> {
    let mut sums = [[_mm512_setzero_ps(); T]; W];
    for block in 0..rows[0].values.len() {
        // SAFETY: `block` is in range for corrections as for tiles.
        let mut dots = unsafe { corrections::<T, W>(&rows, block) };
        for group in 0..GROUPS {
            // Plain loops, here and below: the library's `map` is not compiled
            // for these registers.
            let mut weights = [_mm512_setzero_si512(); W];
            for i in 0..W {
                let at = block * Encoding::Q8.tile_bytes() + group * 64;
                // SAFETY: `block` is below the number of tiles, each of which
                // has eight groups of 64 bytes; read unaligned.
                weights[i] = unsafe { _mm512_loadu_si512(w[i].bytes.as_ptr().add(at).cast()) };
                fetch::<T>(ahead[i], at);
            }
            for t in 0..T {
                // SAFETY: block and group are in range.
                let x = _mm512_set1_epi32(unsafe { rows[t].word(block, group) });
                for i in 0..W {
                    dots[i][t] = _mm512_dpbusd_epi32(dots[i][t], weights[i], x);
                }
            }
        }
        // SAFETY: `block` is in range for scales as for tiles.
        unsafe {
            accumulate!(sums, dots, rows, w, block);
        }
    }
    stored(sums)
}

/// Low halves are groups 0 to 3, high halves groups 4 to 7.
///
/// # Safety
///
/// As for [`q8`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn q4<const T: usize, const W: usize, const FUSED: bool>(
    rows: [Row<'_>; T],
    w: [TileRow<'_>; W],
    ahead: [TileRow<'_>; W],
) -> Out<T, W> {
    let mask = _mm512_set1_epi8(15);
    let mut sums = [[_mm512_setzero_ps(); T]; W];
    for block in 0..rows[0].values.len() {
        // SAFETY: `block` is in range for corrections as for tiles.
        let mut dots = unsafe { corrections::<T, W>(&rows, block) };
        for group in 0..GROUPS / 2 {
            let (mut low, mut high) = ([mask; W], [mask; W]);
            for i in 0..W {
                let at = block * Encoding::Q4.tile_bytes() + group * 64;
                // SAFETY: `block` is below the number of tiles, each of which
                // has four times 64 bytes; read unaligned.
                let both = unsafe { _mm512_loadu_si512(w[i].bytes.as_ptr().add(at).cast()) };
                fetch::<T>(ahead[i], at);
                low[i] = _mm512_and_si512(both, mask);
                high[i] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask);
            }
            for t in 0..T {
                // SAFETY: block and groups are in range.
                let (first, second) = unsafe {
                    (
                        _mm512_set1_epi32(rows[t].word(block, group)),
                        _mm512_set1_epi32(rows[t].word(block, group + GROUPS / 2)),
                    )
                };
                for i in 0..W {
                    dots[i][t] = _mm512_dpbusd_epi32(dots[i][t], low[i], first);
                    dots[i][t] = _mm512_dpbusd_epi32(dots[i][t], high[i], second);
                }
            }
        }
        // SAFETY: `block` is in range for scales as for tiles.
        unsafe {
            accumulate!(sums, dots, rows, w, block);
        }
    }
    stored(sums)
}

/// Product after product, in the order of inputs.
///
/// # Safety
///
/// The processor has the features; all rows are of one length, and each of `w`
/// has sixteen cells for each of their inputs.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn floats<E: Cell, const T: usize, const W: usize, const FUSED: bool>(
    rows: [&[f32]; T],
    w: [TileRow<'_>; W],
    ahead: [TileRow<'_>; W],
) -> Out<T, W> {
    let mut sums = [[_mm512_setzero_ps(); T]; W];
    for input in 0..rows[0].len() {
        let mut weights = [_mm512_setzero_ps(); W];
        for i in 0..W {
            // SAFETY: sixteen cells for each input are there; read unaligned.
            weights[i] = unsafe { load(w[i].bytes.as_ptr().cast::<E>().add(input * ROWS)) };
            fetch::<T>(ahead[i], input * ROWS * size_of::<E>());
        }
        for t in 0..T {
            // SAFETY: all rows have as many inputs as the first.
            let x = _mm512_set1_ps(unsafe { *rows[t].get_unchecked(input) });
            for i in 0..W {
                sums[i][t] = add_product::<FUSED>(sums[i][t], x, weights[i]);
            }
        }
    }
    stored(sums)
}

/// # Safety
///
/// `block` must be below every row's number of blocks.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn corrections<const T: usize, const W: usize>(
    rows: &[Row<'_>; T],
    block: usize,
) -> [[__m512i; T]; W] {
    let mut dots = [[_mm512_setzero_si512(); T]; W];
    for t in 0..T {
        // SAFETY: the caller's.
        let start = _mm512_set1_epi32(unsafe { *rows[t].corrections.get_unchecked(block) });
        for i in 0..W {
            dots[i][t] = start;
        }
    }
    dots
}

#[inline]
#[target_feature(enable = "avx512f")]
fn stored<const T: usize, const W: usize>(sums: [[__m512; T]; W]) -> Out<T, W> {
    let mut out = [[[0.0; ROWS]; T]; W];
    for i in 0..W {
        for t in 0..T {
            // SAFETY: sixteen f32 are one 64-byte store, unaligned.
            unsafe { _mm512_storeu_ps(out[i][t].as_mut_ptr(), sums[i][t]) };
        }
    }
    out
}
