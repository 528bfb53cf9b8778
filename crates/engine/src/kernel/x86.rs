//! The vector paths of x86-64. The only unsafe code of this crate.
#![expect(
    unsafe_code,
    reason = "processor intrinsics, behind proof that the processor has them"
)]

use std::arch::x86_64::*;

use super::{Activations, BLOCK, KernelPath, ROWS, TILE, TileRow, path::Kind};

/// Runs `work` compiled for AVX2 where the processor has it. Nothing is fused,
/// so the bits stay the same.
pub(crate) fn wide<W: super::Work>(work: W) {
    #[target_feature(enable = "avx2")]
    fn avx2<W: super::Work>(work: W) {
        work.run();
    }
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor was just seen to have AVX2.
        return unsafe { avx2(work) };
    }
    work.run();
}

/// Groups of four inputs in a block: one broadcast word each.
const GROUPS: usize = BLOCK / 4;

pub(super) fn tile_products_avx2<const T: usize>(
    x: &Activations,
    first: usize,
    w: TileRow<'_>,
    path: KernelPath,
) -> [[f32; ROWS]; T] {
    assert_eq!(path.kind(), Kind::Avx2);
    // SAFETY: a `KernelPath` of this kind exists only where the processor was
    // seen to have AVX2 and F16C.
    unsafe { avx2(x, first, w) }
}

pub(super) fn tile_products_avx512<const T: usize>(
    x: &Activations,
    first: usize,
    w: TileRow<'_>,
    path: KernelPath,
) -> [[f32; ROWS]; T] {
    assert_eq!(path.kind(), Kind::Avx512Vnni);
    // SAFETY: a `KernelPath` of this kind exists only where the processor was
    // seen to have AVX-512F and AVX-512 VNNI.
    unsafe { avx512_vnni(x, first, w) }
}

/// Four inputs as the word that is broadcast to all rows.
fn word(x: &[i8; BLOCK], group: usize) -> i32 {
    let at = group * 4;
    i32::from_le_bytes([
        x[at] as u8,
        x[at + 1] as u8,
        x[at + 2] as u8,
        x[at + 3] as u8,
    ])
}

/// `maddubs` multiplies unsigned by signed and saturates at 16 bits: |x| times
/// w with x's sign moved over is at most 2 × 127 × 127, which fits.
#[target_feature(enable = "avx2,f16c")]
fn avx2<const T: usize>(x: &Activations, first: usize, w: TileRow<'_>) -> [[f32; ROWS]; T] {
    let offset = _mm256_set1_epi8(i8::MIN);
    let ones = _mm256_set1_epi16(1);
    let mut low = [_mm256_setzero_ps(); T];
    let mut high = [_mm256_setzero_ps(); T];
    let tiles = w.bytes.chunks_exact(TILE).zip(w.scales.chunks_exact(ROWS));
    for (block, (bytes, scales)) in tiles.enumerate() {
        let mut dots_low = [_mm256_setzero_si256(); T];
        let mut dots_high = [_mm256_setzero_si256(); T];
        let rows: [&[i8; BLOCK]; T] = std::array::from_fn(|t| x.block(first + t, block));
        for group in 0..GROUPS {
            let group_bytes = &bytes[group * 64..][..64];
            // SAFETY: 64 bytes from the start of a slice of 64, read unaligned.
            let (w_low, w_high) = unsafe {
                let at = group_bytes.as_ptr().cast::<__m256i>();
                (_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1)))
            };
            let w_low = _mm256_xor_si256(w_low, offset);
            let w_high = _mm256_xor_si256(w_high, offset);
            for t in 0..T {
                let x = _mm256_set1_epi32(word(rows[t], group));
                let magnitude = _mm256_abs_epi8(x);
                let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w_low, x));
                dots_low[t] = _mm256_add_epi32(dots_low[t], _mm256_madd_epi16(pairs, ones));
                let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w_high, x));
                dots_high[t] = _mm256_add_epi32(dots_high[t], _mm256_madd_epi16(pairs, ones));
            }
        }
        assert_eq!(scales.len(), ROWS);
        // SAFETY: sixteen f16 are 32 bytes, read unaligned.
        let (s_low, s_high) = unsafe {
            let at = scales.as_ptr().cast::<__m128i>();
            (_mm_loadu_si128(at), _mm_loadu_si128(at.add(1)))
        };
        let (s_low, s_high) = (_mm256_cvtph_ps(s_low), _mm256_cvtph_ps(s_high));
        for t in 0..T {
            let scale = _mm256_set1_ps(x.scale(first + t, block));
            let add = |sum, dots, s| {
                let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dots), _mm256_mul_ps(scale, s));
                _mm256_add_ps(sum, scaled)
            };
            low[t] = add(low[t], dots_low[t], s_low);
            high[t] = add(high[t], dots_high[t], s_high);
        }
    }
    std::array::from_fn(|t| {
        let mut out = [0.0; ROWS];
        // SAFETY: sixteen f32 are two 32-byte stores, unaligned.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), low[t]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), high[t]);
        }
        out
    })
}

/// `vpdpbusd` multiplies the offset weights as they are stored; starting from
/// −128 × Σx takes the offset out again.
#[target_feature(enable = "avx512f,avx512vnni")]
fn avx512_vnni<const T: usize>(x: &Activations, first: usize, w: TileRow<'_>) -> [[f32; ROWS]; T] {
    let mut sums = [_mm512_setzero_ps(); T];
    let tiles = w.bytes.chunks_exact(TILE).zip(w.scales.chunks_exact(ROWS));
    for (block, (bytes, scales)) in tiles.enumerate() {
        let rows: [&[i8; BLOCK]; T] = std::array::from_fn(|t| x.block(first + t, block));
        let mut dots: [__m512i; T] =
            std::array::from_fn(|t| _mm512_set1_epi32(-128 * x.sum(first + t, block)));
        for group in 0..GROUPS {
            let group_bytes = &bytes[group * 64..][..64];
            // SAFETY: 64 bytes of a slice of 64, read unaligned.
            let weights = unsafe { _mm512_loadu_si512(group_bytes.as_ptr().cast::<__m512i>()) };
            for t in 0..T {
                let x = _mm512_set1_epi32(word(rows[t], group));
                dots[t] = _mm512_dpbusd_epi32(dots[t], weights, x);
            }
        }
        assert_eq!(scales.len(), ROWS);
        // SAFETY: sixteen f16 are 32 bytes, read unaligned.
        let scales = unsafe { _mm256_loadu_si256(scales.as_ptr().cast::<__m256i>()) };
        let scales = _mm512_cvtph_ps(scales);
        for t in 0..T {
            let scale = _mm512_mul_ps(_mm512_set1_ps(x.scale(first + t, block)), scales);
            sums[t] = _mm512_add_ps(sums[t], _mm512_mul_ps(_mm512_cvtepi32_ps(dots[t]), scale));
        }
    }
    std::array::from_fn(|t| {
        let mut out = [0.0; ROWS];
        // SAFETY: sixteen f32 are one 64-byte store, unaligned.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sums[t]) };
        out
    })
}
