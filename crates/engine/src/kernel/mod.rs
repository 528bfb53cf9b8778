//! The packed int8 linear layer: one layout, several code paths, the same bits.
//!
//! A weight matrix `[n, k]` is cut into tiles of 16 output rows by 32 inputs.
//! A tile is 512 bytes ordered `[k / 4][row][4]`, each byte the weight plus
//! 128, so that one 64-byte load holds four inputs of all sixteen rows and
//! meets a broadcast word of activations without a horizontal sum. Each row
//! of a tile has one f16 scale. Activations are quantised per 32 inputs to
//! int8 with an f32 scale.
//!
//! Every path computes the dot product of a block exactly, in integers, and
//! then `acc += dot as f32 * (activation_scale * weight_scale)` in f32 from
//! the first block to the last, never fused. A row's result therefore depends
//! on neither the path, the number of tokens in the call, nor the number of
//! threads: prefill and decode agree bit for bit.

mod activation;
mod pack;
mod path;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::f16;
use rayon::prelude::*;

use activation::Activations;
pub use pack::PackError;
pub(crate) use pack::{Packed, pack, quantize_rows, unpack_row};
pub use path::{KernelChoice, KernelPath, KernelUnavailable, UnknownKernel};

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::wide;

/// Plain loops that gain from wide registers. To be compiled for them,
/// `run` and what it calls must be `#[inline(always)]`.
pub(crate) trait Work {
    fn run(self);
}

/// Elsewhere the compiler's target says all there is to know.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn wide<W: Work>(work: W) {
    work.run();
}

/// Output rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Inputs of a tile, and of a scale.
pub(crate) const BLOCK: usize = 32;
/// Bytes of a tile.
const TILE: usize = ROWS * BLOCK;
/// Tokens that share one pass over a tile.
const GROUP: usize = 4;
/// Below this many multiplications a call is not worth waking other threads.
const PARALLEL_FROM: usize = 1 << 20;

/// Outputs and inputs of a linear layer, both already checked by [`pack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) n: usize,
    pub(crate) k: usize,
}

impl Shape {
    fn tiles(self) -> usize {
        self.n / ROWS
    }

    fn blocks(self) -> usize {
        self.k / BLOCK
    }
}

/// A borrowed packed matrix.
#[derive(Clone, Copy)]
pub(crate) struct PackedRef<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) scales: &'a [f16],
    pub(crate) shape: Shape,
}

/// One tile row of a matrix: sixteen outputs, all inputs.
#[derive(Clone, Copy)]
struct TileRow<'a> {
    bytes: &'a [u8],
    scales: &'a [f16],
}

impl<'a> PackedRef<'a> {
    fn tile_row(self, tile: usize) -> TileRow<'a> {
        let blocks = self.shape.blocks();
        TileRow {
            bytes: &self.bytes[tile * blocks * TILE..(tile + 1) * blocks * TILE],
            scales: &self.scales[tile * blocks * ROWS..(tile + 1) * blocks * ROWS],
        }
    }
}

/// `out[t, n] = x[t, k] · wᵀ` for a packed `w`.
///
/// # Panics
///
/// When `x` or `w` is not of the size its shape says: a bug of the caller,
/// since shapes are fixed at load.
pub(crate) fn linear(x: &[f32], w: PackedRef<'_>, path: KernelPath) -> Vec<f32> {
    let Shape { n, k } = w.shape;
    assert_eq!(x.len() % k, 0, "activations must be whole rows of {k}");
    assert_eq!(w.bytes.len(), n * k, "packed bytes must match {n}x{k}");
    assert_eq!(w.scales.len(), n * k / BLOCK, "scales must match {n}x{k}");
    let activations = Activations::quantize(x, k);
    let tokens = activations.tokens();
    let mut out = vec![0.0; tokens * n];

    let threads = match rayon::current_thread_index() {
        Some(_) => rayon::current_num_threads(),
        None => 1,
    };
    if threads == 1 || tokens * n * k < PARALLEL_FROM {
        run_tiles(&activations, w, path, 0..w.shape.tiles(), &mut out);
        return out;
    }
    // Each thread fills a narrow matrix of its own tiles; the copies are small
    // beside the products, and no thread writes where another one does.
    let per_thread = w.shape.tiles().div_ceil(threads);
    let parts: Vec<(usize, Vec<f32>)> = (0..w.shape.tiles())
        .into_par_iter()
        .step_by(per_thread)
        .map(|first| {
            let last = (first + per_thread).min(w.shape.tiles());
            let mut part = vec![0.0; tokens * (last - first) * ROWS];
            run_tiles(&activations, w, path, first..last, &mut part);
            (first * ROWS, part)
        })
        .collect();
    for (column, part) in parts {
        let width = part.len() / tokens.max(1);
        for (row, values) in part.chunks_exact(width).enumerate() {
            out[row * n + column..][..width].copy_from_slice(values);
        }
    }
    out
}

/// Fills `out`, `[tokens, 16 × tiles.len()]`, tile row by tile row, so that a
/// tile row stays in cache while all tokens pass over it.
fn run_tiles(
    x: &Activations,
    w: PackedRef<'_>,
    path: KernelPath,
    tiles: std::ops::Range<usize>,
    out: &mut [f32],
) {
    let width = tiles.len() * ROWS;
    for (index, tile) in tiles.enumerate() {
        let tile_row = w.tile_row(tile);
        let mut store = |token: usize, results: &[[f32; ROWS]]| {
            for (offset, result) in results.iter().enumerate() {
                let at = (token + offset) * width + index * ROWS;
                out[at..at + ROWS].copy_from_slice(result);
            }
        };
        let grouped = x.tokens() / GROUP * GROUP;
        for token in (0..grouped).step_by(GROUP) {
            store(token, &tile_products::<GROUP>(x, token, tile_row, path));
        }
        for token in grouped..x.tokens() {
            store(token, &tile_products::<1>(x, token, tile_row, path));
        }
    }
}

/// The sixteen outputs of a tile row for `T` tokens from `first`.
fn tile_products<const T: usize>(
    x: &Activations,
    first: usize,
    w: TileRow<'_>,
    path: KernelPath,
) -> [[f32; ROWS]; T] {
    match path.kind() {
        path::Kind::Portable => portable::tile_products(x, first, w),
        #[cfg(target_arch = "x86_64")]
        path::Kind::Avx2 => x86::tile_products_avx2(x, first, w, path),
        #[cfg(target_arch = "x86_64")]
        path::Kind::Avx512Vnni => x86::tile_products_avx512(x, first, w, path),
        #[cfg(not(target_arch = "x86_64"))]
        path::Kind::Avx2 | path::Kind::Avx512Vnni => portable::tile_products(x, first, w),
    }
}

#[cfg(test)]
mod tests;
