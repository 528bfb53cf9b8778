//! The path every processor has, in the shape LLVM turns into vectors.

use half::f16;

use super::{Activations, BLOCK, ROWS, TILE, TileRow};

pub(super) fn tile_products<const T: usize>(
    x: &Activations,
    first: usize,
    w: TileRow<'_>,
) -> [[f32; ROWS]; T] {
    let mut sums = [[0.0f32; ROWS]; T];
    let tiles = w.bytes.chunks_exact(TILE).zip(w.scales.chunks_exact(ROWS));
    for (block, (bytes, scales)) in tiles.enumerate() {
        let mut weight_scales = [0.0f32; ROWS];
        for (wide, narrow) in weight_scales.iter_mut().zip(scales) {
            *wide = widen(*narrow);
        }
        for (offset, sums) in sums.iter_mut().enumerate() {
            let dots = dot(bytes, x.block(first + offset, block));
            let scale = x.scale(first + offset, block);
            for row in 0..ROWS {
                sums[row] += dots[row] as f32 * (scale * weight_scales[row]);
            }
        }
    }
    sums
}

/// Sixteen exact integer dot products of 32 terms.
fn dot(bytes: &[u8], x: &[i8; BLOCK]) -> [i32; ROWS] {
    let mut dots = [0i32; ROWS];
    for (group, word) in bytes.chunks_exact(ROWS * 4).zip(x.chunks_exact(4)) {
        let x = [0, 1, 2, 3].map(|i| i32::from(word[i]));
        for (dot, w) in dots.iter_mut().zip(group.chunks_exact(4)) {
            for i in 0..4 {
                *dot += (i32::from(w[i]) - 128) * x[i];
            }
        }
    }
    dots
}

/// A finite, non-negative f16 as f32, exactly, without a branch or a table:
/// moving the bits up leaves the exponent 112 too small.
fn widen(value: f16) -> f32 {
    const TWO_POW_112: f32 = f32::from_bits((127 + 112) << 23);
    f32::from_bits(u32::from(value.to_bits()) << 13) * TWO_POW_112
}
