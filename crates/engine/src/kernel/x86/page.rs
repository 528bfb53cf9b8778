//! Pages under AVX-512 and AVX2; [`crate::kernel::page`] says what they are.

use std::arch::x86_64::*;

use super::super::page::{Cell, PAGE, plain_weigh};

/// Sixteen numbers as f32.
///
/// # Safety
///
/// The processor has AVX-512F; sixteen numbers from `at` must be readable.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn load<E: Cell>(at: *const E) -> __m512 {
    // SAFETY: the caller's. Cells of one byte are integers, those of two f16,
    // those of four f32.
    unsafe {
        match size_of::<E>() {
            1 => _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))),
            2 => _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())),
            _ => _mm512_loadu_ps(at.cast()),
        }
    }
}

/// Eight numbers as f32.
///
/// # Safety
///
/// The processor has AVX2 and F16C; eight numbers from `at` must be readable.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn load_half<E: Cell>(at: *const E) -> __m256 {
    // SAFETY: as above.
    unsafe {
        match size_of::<E>() {
            1 => _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast()))),
            2 => _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
            _ => _mm256_loadu_ps(at.cast()),
        }
    }
}

/// # Safety
///
/// The processor has AVX-512F; each query has a value for each 16 keys.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn scores_512<E: Cell, const R: usize>(
    queries: [&[f32]; R],
    keys: &[E],
) -> [[f32; PAGE]; R] {
    let mut sums = [_mm512_setzero_ps(); R];
    for d in 0..keys.len() / PAGE {
        // SAFETY: sixteen keys for each dimension.
        let keys = unsafe { load(keys.as_ptr().add(d * PAGE)) };
        for r in 0..R {
            // SAFETY: a value for each dimension.
            let query = _mm512_set1_ps(unsafe { *queries[r].get_unchecked(d) });
            sums[r] = _mm512_add_ps(sums[r], _mm512_mul_ps(query, keys));
        }
    }
    let mut out = [[0.0; PAGE]; R];
    for r in 0..R {
        // SAFETY: sixteen f32 are 64 bytes.
        unsafe { _mm512_storeu_ps(out[r].as_mut_ptr(), sums[r]) };
    }
    out
}

/// # Safety
///
/// As for [`scores_512`], with AVX2 and F16C.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn scores_256<E: Cell, const R: usize>(
    queries: [&[f32]; R],
    keys: &[E],
) -> [[f32; PAGE]; R] {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    for d in 0..keys.len() / PAGE {
        // SAFETY: sixteen keys for each dimension.
        let (low, high) = unsafe {
            let at = keys.as_ptr().add(d * PAGE);
            (load_half(at), load_half(at.add(8)))
        };
        for r in 0..R {
            // SAFETY: a value for each dimension.
            let query = _mm256_set1_ps(unsafe { *queries[r].get_unchecked(d) });
            sums[r][0] = _mm256_add_ps(sums[r][0], _mm256_mul_ps(query, low));
            sums[r][1] = _mm256_add_ps(sums[r][1], _mm256_mul_ps(query, high));
        }
    }
    let mut out = [[0.0; PAGE]; R];
    for r in 0..R {
        // SAFETY: sixteen f32 are twice 32 bytes.
        unsafe {
            _mm256_storeu_ps(out[r].as_mut_ptr(), sums[r][0]);
            _mm256_storeu_ps(out[r].as_mut_ptr().add(8), sums[r][1]);
        }
    }
    out
}

/// Registers of a row that are summed at a time.
const WIDE: usize = 4;

/// # Safety
///
/// The processor has AVX-512F; all weights are of one length, all outputs of
/// another, and `values` has their product.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn weigh_512<E: Cell, const R: usize>(
    weights: [&[f32]; R],
    values: &[E],
    mut outs: [&mut [f32]; R],
) {
    let dims = outs[0].len();
    let mut first = 0;
    while first + 16 * WIDE <= dims {
        // SAFETY: 64 dimensions from `first` are there, in every row.
        unsafe { weigh_some_512::<E, R, WIDE>(weights, values, &mut outs, first) };
        first += 16 * WIDE;
    }
    while first + 16 <= dims {
        // SAFETY: sixteen dimensions from `first` are there, in every row.
        unsafe { weigh_some_512::<E, R, 1>(weights, values, &mut outs, first) };
        first += 16;
    }
    if first < dims {
        plain_weigh(weights, values, outs, first);
    }
}

/// # Safety
///
/// As for [`weigh_512`]; `first + 16 × W` is at most the outputs' length.
#[target_feature(enable = "avx512f")]
unsafe fn weigh_some_512<E: Cell, const R: usize, const W: usize>(
    weights: [&[f32]; R],
    values: &[E],
    outs: &mut [&mut [f32]; R],
    first: usize,
) {
    let dims = outs[0].len();
    let mut sums = [[_mm512_setzero_ps(); W]; R];
    for r in 0..R {
        for w in 0..W {
            // SAFETY: the caller's.
            sums[r][w] = unsafe { _mm512_loadu_ps(outs[r].as_ptr().add(first + 16 * w)) };
        }
    }
    for position in 0..weights[0].len() {
        let mut row = [_mm512_setzero_ps(); W];
        for w in 0..W {
            // SAFETY: the caller's.
            row[w] = unsafe { load(values.as_ptr().add(position * dims + first + 16 * w)) };
        }
        for r in 0..R {
            // SAFETY: all weights are of one length.
            let weight = _mm512_set1_ps(unsafe { *weights[r].get_unchecked(position) });
            for w in 0..W {
                sums[r][w] = _mm512_add_ps(sums[r][w], _mm512_mul_ps(weight, row[w]));
            }
        }
    }
    for r in 0..R {
        for w in 0..W {
            // SAFETY: the caller's.
            unsafe { _mm512_storeu_ps(outs[r].as_mut_ptr().add(first + 16 * w), sums[r][w]) };
        }
    }
}

/// # Safety
///
/// As for [`weigh_512`], with AVX2 and F16C.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn weigh_256<E: Cell, const R: usize>(
    weights: [&[f32]; R],
    values: &[E],
    outs: [&mut [f32]; R],
) {
    let dims = outs[0].len();
    let mut first = 0;
    while first + 16 <= dims {
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        for r in 0..R {
            // SAFETY: sixteen dimensions from `first` are there, in every row.
            unsafe {
                sums[r][0] = _mm256_loadu_ps(outs[r].as_ptr().add(first));
                sums[r][1] = _mm256_loadu_ps(outs[r].as_ptr().add(first + 8));
            }
        }
        for position in 0..weights[0].len() {
            // SAFETY: as above, in every position.
            let (low, high) = unsafe {
                let at = values.as_ptr().add(position * dims + first);
                (load_half(at), load_half(at.add(8)))
            };
            for r in 0..R {
                // SAFETY: all weights are of one length.
                let weight = _mm256_set1_ps(unsafe { *weights[r].get_unchecked(position) });
                sums[r][0] = _mm256_add_ps(sums[r][0], _mm256_mul_ps(weight, low));
                sums[r][1] = _mm256_add_ps(sums[r][1], _mm256_mul_ps(weight, high));
            }
        }
        for r in 0..R {
            // SAFETY: as above.
            unsafe {
                _mm256_storeu_ps(outs[r].as_mut_ptr().add(first), sums[r][0]);
                _mm256_storeu_ps(outs[r].as_mut_ptr().add(first + 8), sums[r][1]);
            }
        }
        first += 16;
    }
    if first < dims {
        plain_weigh(weights, values, outs, first);
    }
}
