//! AVX-512 with VNNI.

use std::arch::x86_64::*;

use super::super::layout::{Encoding, ROWS, TileRow};
use super::{GROUPS, Row};

/// `vpdpbusd` multiplies the offset weights as they are stored; starting from
/// the correction takes the offset out again.
///
/// # Safety
///
/// The processor has the features; every row has as many blocks as `w`, which
/// [`Row::new`] asserts.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn q8<const T: usize>(rows: [Row<'_>; T], w: TileRow<'_>) -> [[f32; ROWS]; T] {
    let mut sums = [_mm512_setzero_ps(); T];
    for block in 0..rows[0].values.len() {
        // SAFETY: `block` is below the number of tiles.
        let tile = unsafe { w.bytes.as_ptr().add(block * Encoding::Q8.tile_bytes()) };
        // Plain loops, here and below: the library's `map` is not compiled for
        // these registers.
        let mut dots = [_mm512_setzero_si512(); T];
        for t in 0..T {
            // SAFETY: as above, for all rows.
            dots[t] = unsafe { correction(&rows[t], block) };
        }
        for group in 0..GROUPS {
            // SAFETY: a tile has eight groups of 64 bytes; read unaligned.
            let weights = unsafe { _mm512_loadu_si512(tile.add(group * 64).cast()) };
            for t in 0..T {
                // SAFETY: block and group are in range.
                let x = _mm512_set1_epi32(unsafe { rows[t].word(block, group) });
                dots[t] = _mm512_dpbusd_epi32(dots[t], weights, x);
            }
        }
        // SAFETY: `block` is in range for scales as for tiles.
        unsafe { accumulate(&mut sums, dots, &rows, w, block) };
    }
    stored(sums)
}

/// Low halves are groups 0 to 3, high halves groups 4 to 7.
///
/// # Safety
///
/// As for [`q8`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn q4<const T: usize>(rows: [Row<'_>; T], w: TileRow<'_>) -> [[f32; ROWS]; T] {
    let mask = _mm512_set1_epi8(15);
    let mut sums = [_mm512_setzero_ps(); T];
    for block in 0..rows[0].values.len() {
        // SAFETY: `block` is below the number of tiles.
        let tile = unsafe { w.bytes.as_ptr().add(block * Encoding::Q4.tile_bytes()) };
        // Plain loops, here and below: the library's `map` is not compiled for
        // these registers.
        let mut dots = [_mm512_setzero_si512(); T];
        for t in 0..T {
            // SAFETY: as above, for all rows.
            dots[t] = unsafe { correction(&rows[t], block) };
        }
        for group in 0..GROUPS / 2 {
            // SAFETY: a tile has four times 64 bytes; read unaligned.
            let both = unsafe { _mm512_loadu_si512(tile.add(group * 64).cast()) };
            let low = _mm512_and_si512(both, mask);
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask);
            for t in 0..T {
                // SAFETY: block and groups are in range.
                let (first, second) = unsafe {
                    (
                        rows[t].word(block, group),
                        rows[t].word(block, group + GROUPS / 2),
                    )
                };
                dots[t] = _mm512_dpbusd_epi32(dots[t], low, _mm512_set1_epi32(first));
                dots[t] = _mm512_dpbusd_epi32(dots[t], high, _mm512_set1_epi32(second));
            }
        }
        // SAFETY: `block` is in range for scales as for tiles.
        unsafe { accumulate(&mut sums, dots, &rows, w, block) };
    }
    stored(sums)
}

/// Product after product, in the order of inputs.
///
/// # Safety
///
/// The processor has the features; all rows are of one length, and `w` has
/// sixteen f16 for each of their inputs.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn f16<const T: usize>(rows: [&[f32]; T], w: TileRow<'_>) -> [[f32; ROWS]; T] {
    let mut sums = [_mm512_setzero_ps(); T];
    for input in 0..rows[0].len() {
        // SAFETY: 32 bytes for each input are there; read unaligned.
        let narrow = unsafe { _mm256_loadu_si256(w.bytes.as_ptr().add(input * ROWS * 2).cast()) };
        let weights = _mm512_cvtph_ps(narrow);
        for t in 0..T {
            // SAFETY: all rows have as many inputs as the first.
            let x = _mm512_set1_ps(unsafe { *rows[t].get_unchecked(input) });
            sums[t] = _mm512_add_ps(sums[t], _mm512_mul_ps(x, weights));
        }
    }
    stored(sums)
}

/// # Safety
///
/// `block` must be below the row's number of blocks.
#[target_feature(enable = "avx512f")]
unsafe fn correction(row: &Row<'_>, block: usize) -> __m512i {
    // SAFETY: the caller's.
    _mm512_set1_epi32(unsafe { *row.corrections.get_unchecked(block) })
}

/// # Safety
///
/// `block` must be below the number of blocks of every row and of `w`.
#[target_feature(enable = "avx512f")]
unsafe fn accumulate<const T: usize>(
    sums: &mut [__m512; T],
    dots: [__m512i; T],
    rows: &[Row<'_>; T],
    w: TileRow<'_>,
    block: usize,
) {
    // SAFETY: sixteen f16 are 32 bytes for each block; read unaligned.
    let scales = unsafe { _mm256_loadu_si256(w.scales.as_ptr().add(block * ROWS * 2).cast()) };
    let scales = _mm512_cvtph_ps(scales);
    for t in 0..T {
        // SAFETY: the caller's.
        let scale = _mm512_set1_ps(unsafe { *rows[t].scales.get_unchecked(block) });
        let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[t]), _mm512_mul_ps(scale, scales));
        sums[t] = _mm512_add_ps(sums[t], scaled);
    }
}

#[target_feature(enable = "avx512f")]
fn stored<const T: usize>(sums: [__m512; T]) -> [[f32; ROWS]; T] {
    let mut out = [[0.0; ROWS]; T];
    for t in 0..T {
        // SAFETY: sixteen f32 are one 64-byte store, unaligned.
        unsafe { _mm512_storeu_ps(out[t].as_mut_ptr(), sums[t]) };
    }
    out
}
