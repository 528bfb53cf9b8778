//! AVX2: eight rows a register, so a tile row has two halves. Few tokens take
//! both halves in one pass over memory; more take one half after the other, so
//! that sums stay in the sixteen registers there are.

use std::arch::x86_64::*;

use super::super::layout::{Encoding, ROWS, TileRow};
use super::page::load_half;
use super::{Cell, GROUPS, Row};

/// # Safety
///
/// The processor has AVX2 and F16C; every row has as many blocks as `w`, which
/// [`Row::new`] asserts.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn q8<const T: usize>(rows: [Row<'_>; T], w: TileRow<'_>) -> [[f32; ROWS]; T] {
    // SAFETY: the caller's; halves are 0 and 1.
    unsafe {
        if T <= 2 {
            let both = q8_halves::<T, 2>(&rows, w, 0);
            return both.map(|[low, high]| store(low, high));
        }
        let low = q8_halves::<T, 1>(&rows, w, 0);
        let high = q8_halves::<T, 1>(&rows, w, 1);
        std::array::from_fn(|t| store(low[t][0], high[t][0]))
    }
}

/// # Safety
///
/// As for [`q8`].
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn q4<const T: usize>(rows: [Row<'_>; T], w: TileRow<'_>) -> [[f32; ROWS]; T] {
    // SAFETY: the caller's; halves are 0 and 1.
    unsafe {
        if T <= 2 {
            let both = q4_halves::<T, 2>(&rows, w, 0);
            return both.map(|[low, high]| store(low, high));
        }
        let low = q4_halves::<T, 1>(&rows, w, 0);
        let high = q4_halves::<T, 1>(&rows, w, 1);
        std::array::from_fn(|t| store(low[t][0], high[t][0]))
    }
}

/// `maddubs` multiplies unsigned by signed and saturates at 16 bits: |x| times
/// w with x's sign moved over is at most 2 × 127 × 127, which fits.
///
/// # Safety
///
/// As for [`q8`]; `first + H` is at most 2.
#[target_feature(enable = "avx2,f16c")]
unsafe fn q8_halves<const T: usize, const H: usize>(
    rows: &[Row<'_>; T],
    w: TileRow<'_>,
    first: usize,
) -> [[__m256; H]; T] {
    let offset = _mm256_set1_epi8(i8::MIN);
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_ps(); H]; T];
    for block in 0..rows[0].values.len() {
        // SAFETY: `block` is below the number of tiles.
        let tile = unsafe { w.bytes.as_ptr().add(block * Encoding::Q8.tile_bytes()) };
        let mut dots = [[_mm256_setzero_si256(); H]; T];
        for group in 0..GROUPS {
            let mut weights = [offset; H];
            for h in 0..H {
                // SAFETY: a group has two halves of 32 bytes; read unaligned.
                let raw = unsafe { load(tile.add(group * 64 + (first + h) * 32)) };
                weights[h] = _mm256_xor_si256(raw, offset);
            }
            for t in 0..T {
                // SAFETY: block and group are in range.
                let x = _mm256_set1_epi32(unsafe { rows[t].word(block, group) });
                let magnitude = _mm256_abs_epi8(x);
                for h in 0..H {
                    let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(weights[h], x));
                    dots[t][h] = _mm256_add_epi32(dots[t][h], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        // SAFETY: `block` is in range for scales as for tiles.
        unsafe { accumulate(&mut sums, dots, rows, w, (block, first)) };
    }
    sums
}

/// Sixteen levels times 127 leave room in 16 bits for the sum of a whole
/// block: 8 × 2 × 15 × 127 is 30,480.
///
/// # Safety
///
/// As for [`q8_halves`].
#[target_feature(enable = "avx2,f16c")]
unsafe fn q4_halves<const T: usize, const H: usize>(
    rows: &[Row<'_>; T],
    w: TileRow<'_>,
    first: usize,
) -> [[__m256; H]; T] {
    let mask = _mm256_set1_epi8(15);
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_ps(); H]; T];
    for block in 0..rows[0].values.len() {
        // SAFETY: `block` is below the number of tiles.
        let tile = unsafe { w.bytes.as_ptr().add(block * Encoding::Q4.tile_bytes()) };
        let mut narrow = [[_mm256_setzero_si256(); H]; T];
        for group in 0..GROUPS / 2 {
            let (mut low, mut high) = ([mask; H], [mask; H]);
            for h in 0..H {
                // SAFETY: four times two halves of 32 bytes; read unaligned.
                let both = unsafe { load(tile.add(group * 64 + (first + h) * 32)) };
                low[h] = _mm256_and_si256(both, mask);
                high[h] = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
            }
            for (group, weights) in [(group, low), (group + GROUPS / 2, high)] {
                for t in 0..T {
                    // SAFETY: block and group are in range.
                    let x = _mm256_set1_epi32(unsafe { rows[t].word(block, group) });
                    for h in 0..H {
                        let pairs = _mm256_maddubs_epi16(weights[h], x);
                        narrow[t][h] = _mm256_add_epi16(narrow[t][h], pairs);
                    }
                }
            }
        }
        let mut dots = [[_mm256_setzero_si256(); H]; T];
        for t in 0..T {
            // SAFETY: `block` is in range for corrections as for tiles.
            let start = _mm256_set1_epi32(unsafe { *rows[t].corrections.get_unchecked(block) });
            for h in 0..H {
                dots[t][h] = _mm256_add_epi32(start, _mm256_madd_epi16(narrow[t][h], ones));
            }
        }
        // SAFETY: `block` is in range for scales as for tiles.
        unsafe { accumulate(&mut sums, dots, rows, w, (block, first)) };
    }
    sums
}

/// Product after product, in the order of inputs.
///
/// # Safety
///
/// The processor has AVX2 and F16C; all rows are of one length, and `w` has
/// sixteen cells for each of their inputs.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn floats<E: Cell, const T: usize>(
    rows: [&[f32]; T],
    w: TileRow<'_>,
) -> [[f32; ROWS]; T] {
    let mut low = [_mm256_setzero_ps(); T];
    let mut high = [_mm256_setzero_ps(); T];
    for input in 0..rows[0].len() {
        // SAFETY: sixteen cells for each input are there; read unaligned.
        let (first, second) = unsafe {
            let at = w.bytes.as_ptr().cast::<E>().add(input * ROWS);
            (load_half(at), load_half(at.add(8)))
        };
        for t in 0..T {
            // SAFETY: all rows have as many inputs as the first.
            let x = _mm256_set1_ps(unsafe { *rows[t].get_unchecked(input) });
            low[t] = _mm256_add_ps(low[t], _mm256_mul_ps(x, first));
            high[t] = _mm256_add_ps(high[t], _mm256_mul_ps(x, second));
        }
    }
    std::array::from_fn(|t| store(low[t], high[t]))
}

/// # Safety
///
/// `block` must be below the number of blocks of every row and of `w`, and
/// `first + H` at most 2.
#[target_feature(enable = "avx2,f16c")]
unsafe fn accumulate<const T: usize, const H: usize>(
    sums: &mut [[__m256; H]; T],
    dots: [[__m256i; H]; T],
    rows: &[Row<'_>; T],
    w: TileRow<'_>,
    (block, first): (usize, usize),
) {
    let mut scales = [_mm256_setzero_ps(); H];
    for h in 0..H {
        // SAFETY: eight f16 are 16 bytes for each half of a block.
        scales[h] = unsafe { halves(w.scales.as_ptr().add(block * ROWS * 2 + (first + h) * 16)) };
    }
    for t in 0..T {
        // SAFETY: the caller's.
        let scale = _mm256_set1_ps(unsafe { *rows[t].scales.get_unchecked(block) });
        for h in 0..H {
            let factor = _mm256_mul_ps(scale, scales[h]);
            let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[t][h]), factor);
            sums[t][h] = _mm256_add_ps(sums[t][h], scaled);
        }
    }
}

/// # Safety
///
/// 32 bytes from `at` must be readable.
#[target_feature(enable = "avx2")]
unsafe fn load(at: *const u8) -> __m256i {
    // SAFETY: the caller's; read unaligned.
    unsafe { _mm256_loadu_si256(at.cast()) }
}

/// Eight f16 as f32.
///
/// # Safety
///
/// 16 bytes from `at` must be readable.
#[target_feature(enable = "avx2,f16c")]
unsafe fn halves(at: *const u8) -> __m256 {
    // SAFETY: the caller's; read unaligned.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
}

#[target_feature(enable = "avx2")]
fn store(low: __m256, high: __m256) -> [f32; ROWS] {
    let mut out = [0.0; ROWS];
    // SAFETY: sixteen f32 are two 32-byte stores, unaligned.
    unsafe {
        _mm256_storeu_ps(out.as_mut_ptr(), low);
        _mm256_storeu_ps(out.as_mut_ptr().add(8), high);
    }
    out
}
