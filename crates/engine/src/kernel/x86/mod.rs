//! The vector paths of x86-64.
#![expect(
    unsafe_code,
    reason = "processor intrinsics, behind proof that the processor has them"
)]
#![expect(
    clippy::needless_range_loop,
    reason = "registers are numbered; iterators over them are not compiled for these features"
)]

mod avx2;
mod avx512;
mod page;

use super::activation::Activations;
use super::layout::{BLOCK, Encoding, ROWS, TileRow};
use super::page::{Cell, PAGE};
use super::path::{KernelPath, Kind};

/// Groups of four inputs in a block: one broadcast word each.
const GROUPS: usize = BLOCK / 4;

/// Runs `work` compiled for the widest registers the processor has. Nothing is
/// fused, so the bits stay the same.
pub(crate) fn wide<W: super::Work>(work: W) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn avx512<W: super::Work>(work: W) {
        work.run();
    }
    #[target_feature(enable = "avx2")]
    fn avx2<W: super::Work>(work: W) {
        work.run();
    }
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
    {
        // SAFETY: the processor was just seen to have all four.
        return unsafe { avx512(work) };
    }
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor was just seen to have AVX2.
        return unsafe { avx2(work) };
    }
    work.run();
}

/// Whether the processor has what the AVX-512 paths of this file need.
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
}

/// Whether it has what the AVX2 paths need.
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")
}

/// None where the processor has neither; the lengths are the caller's, which
/// compared them.
#[inline(always)]
pub(super) fn page_scores<E: Cell, const R: usize>(
    queries: [&[f32]; R],
    keys: &[E],
) -> Option<[[f32; PAGE]; R]> {
    if has_avx512() {
        // SAFETY: the processor was just seen to have AVX-512F.
        return Some(unsafe { page::scores_512(queries, keys) });
    }
    // SAFETY: the processor is seen to have AVX2 and F16C first.
    has_avx2().then(|| unsafe { page::scores_256(queries, keys) })
}

/// Gives the outputs back where the processor has neither; the lengths are the
/// caller's, which compared them.
#[inline(always)]
pub(super) fn page_weigh<'a, E: Cell, const R: usize>(
    weights: [&[f32]; R],
    values: &[E],
    outs: [&'a mut [f32]; R],
) -> Option<[&'a mut [f32]; R]> {
    if has_avx512() {
        // SAFETY: the processor was just seen to have AVX-512F.
        unsafe { page::weigh_512(weights, values, outs) };
    } else if has_avx2() {
        // SAFETY: the processor was just seen to have AVX2 and F16C.
        unsafe { page::weigh_256(weights, values, outs) };
    } else {
        return Some(outs);
    }
    None
}

/// The AVX2 path where AVX-512 would be taken.
#[cfg(test)]
pub(super) fn page_scores_256<E: Cell, const R: usize>(
    queries: [&[f32]; R],
    keys: &[E],
) -> Option<[[f32; PAGE]; R]> {
    // SAFETY: the processor is seen to have AVX2 and F16C first.
    has_avx2().then(|| unsafe { page::scores_256(queries, keys) })
}

/// The AVX2 path where AVX-512 would be taken.
#[cfg(test)]
pub(super) fn page_weigh_256<E: Cell, const R: usize>(
    weights: [&[f32]; R],
    values: &[E],
    outs: [&mut [f32]; R],
) {
    assert!(has_avx2());
    // SAFETY: the processor was just seen to have AVX2 and F16C.
    unsafe { page::weigh_256(weights, values, outs) }
}

/// q8 and q4 weights of `W` tile rows for `T` tokens from `first`. `ahead` are
/// the tile rows that come next.
pub(super) fn quantized<const T: usize, const W: usize>(
    x: &Activations,
    first: usize,
    (w, ahead): ([TileRow<'_>; W], [TileRow<'_>; W]),
    encoding: Encoding,
    path: KernelPath,
) -> [[[f32; ROWS]; T]; W] {
    let rows = std::array::from_fn(|t| Row::new(x, first + t, &w, encoding));
    match (path.kind(), encoding) {
        // SAFETY: a `KernelPath` of this kind exists only where the processor
        // was seen to have AVX-512F, BW and VNNI.
        (Kind::Avx512, Encoding::Q8) => unsafe { avx512::q8::<T, W, false>(rows, w, ahead) },
        // SAFETY: as above.
        (Kind::Avx512, _) => unsafe { avx512::q4::<T, W, false>(rows, w, ahead) },
        // SAFETY: as above; a fused path is made of one that is not.
        (Kind::Avx512Fused, Encoding::Q8) => unsafe { avx512::q8::<T, W, true>(rows, w, ahead) },
        // SAFETY: as above.
        (Kind::Avx512Fused, _) => unsafe { avx512::q4::<T, W, true>(rows, w, ahead) },
        // SAFETY: a path of any other kind that reaches this module was seen
        // to have AVX2 and F16C.
        (_, Encoding::Q8) => w.map(|w| unsafe { avx2::q8(rows, w) }),
        // SAFETY: as above.
        (_, _) => w.map(|w| unsafe { avx2::q4(rows, w) }),
    }
}

/// Cells of `W` tile rows for `T` rows of activations.
pub(super) fn floats<E: Cell, const T: usize, const W: usize>(
    rows: [&[f32]; T],
    (w, ahead): ([TileRow<'_>; W], [TileRow<'_>; W]),
    path: KernelPath,
) -> [[[f32; ROWS]; T]; W] {
    let inputs = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == inputs));
    let bytes = inputs * ROWS * size_of::<E>();
    assert!(w.iter().all(|w| bytes <= w.bytes.len()));
    match path.kind() {
        // SAFETY: as in `quantized`; the lengths were just compared.
        Kind::Avx512 => unsafe { avx512::floats::<E, T, W, false>(rows, w, ahead) },
        // SAFETY: as above; a fused path is made of one that is not.
        Kind::Avx512Fused => unsafe { avx512::floats::<E, T, W, true>(rows, w, ahead) },
        // SAFETY: as in `quantized`; the lengths were just compared.
        _ => w.map(|w| unsafe { avx2::floats::<E, T>(rows, w) }),
    }
}

/// One token's blocks, as many as the tile rows have.
#[derive(Clone, Copy)]
struct Row<'a> {
    values: &'a [[i8; BLOCK]],
    scales: &'a [f32],
    corrections: &'a [i32],
}

impl<'a> Row<'a> {
    /// All three slices are of the number of blocks of each of `w`: what the
    /// vector paths rely on where they read without asking again.
    #[inline(always)]
    fn new(x: &'a Activations, token: usize, w: &[TileRow<'_>], encoding: Encoding) -> Self {
        let (values, scales, corrections) = x.row(token);
        let blocks = values.len();
        assert!(scales.len() == blocks && corrections.len() == blocks);
        for w in w {
            assert_eq!(w.bytes.len(), blocks * encoding.tile_bytes());
            assert_eq!(w.scales.len(), blocks * encoding.scale_bytes());
        }
        Self {
            values,
            scales,
            corrections,
        }
    }

    /// Four inputs as the word that is broadcast to all rows.
    ///
    /// # Safety
    ///
    /// `block` must be below the number of blocks.
    #[inline(always)]
    unsafe fn word(&self, block: usize, group: usize) -> i32 {
        debug_assert!(block < self.values.len() && group < GROUPS);
        // SAFETY: the caller's block is in range, and a block has 32 bytes, so
        // that all eight words of four are inside; read unaligned.
        unsafe {
            let values = self.values.as_ptr().add(block).cast::<i32>();
            values.add(group).read_unaligned()
        }
    }
}
