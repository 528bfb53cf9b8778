//! The path of aarch64 and the rest: a portable vector library's types, which
//! become NEON there and SSE2 on an x86-64 without more.

use wide::{i8x16, i16x16, i32x8};

use super::activation::Activations;
use super::layout::{BLOCK, Encoding, ROWS, TileRow};
use super::widen;

/// Four rows of four inputs are one vector.
const QUARTERS: usize = ROWS / 4;

pub(super) fn quantized<const T: usize>(
    x: &Activations,
    first: usize,
    w: TileRow<'_>,
    encoding: Encoding,
) -> [[f32; ROWS]; T] {
    let rows: [_; T] = std::array::from_fn(|t| x.row(first + t));
    let mut sums = [[0.0f32; ROWS]; T];
    let tiles = w.bytes.chunks_exact(encoding.tile_bytes());
    for (at, (tile, scales)) in tiles.zip(w.scales.chunks_exact(ROWS * 2)).enumerate() {
        let mut weight_scales = [0.0f32; ROWS];
        for (wide, narrow) in weight_scales.iter_mut().zip(scales.chunks_exact(2)) {
            *wide = widen(u16::from_le_bytes([narrow[0], narrow[1]]));
        }
        let mut dots = [[i32x8::ZERO; QUARTERS]; T];
        for group in 0..BLOCK / 4 {
            let weights = weights(tile, group, encoding);
            for (dots, (values, ..)) in dots.iter_mut().zip(&rows) {
                let word = &values[at][group * 4..][..4];
                let word = [0, 1, 2, 3].map(|i| i16::from(word[i]));
                let x = i16x16::from(std::array::from_fn::<i16, 16, _>(|i| word[i % 4]));
                for (dot, weights) in dots.iter_mut().zip(weights) {
                    *dot += weights.dot(x);
                }
            }
        }
        for ((sums, dots), (_, scales, _)) in sums.iter_mut().zip(dots).zip(&rows) {
            for (quarter, dots) in dots.into_iter().enumerate() {
                // A row's inputs are in two neighbouring lanes.
                let pairs = dots.to_array();
                for row in 0..4 {
                    let dot = pairs[2 * row] + pairs[2 * row + 1];
                    let row = quarter * 4 + row;
                    sums[row] += dot as f32 * (scales[at] * weight_scales[row]);
                }
            }
        }
    }
    sums
}

/// A group of a tile: sixteen rows by four inputs.
#[inline(always)]
fn weights(tile: &[u8], group: usize, encoding: Encoding) -> [i16x16; QUARTERS] {
    let at = match encoding {
        Encoding::Q8 => group,
        _ => group % 4,
    };
    let bytes = &tile[at * ROWS * 4..][..ROWS * 4];
    let shift = group / 4 * 4;
    std::array::from_fn(|quarter| {
        let bytes = &bytes[quarter * 16..][..16];
        let signed: [i8; 16] = std::array::from_fn(|i| match encoding {
            Encoding::Q8 => (bytes[i] ^ 0x80).cast_signed(),
            _ => ((bytes[i] >> shift) & 15).cast_signed() - 8,
        });
        i16x16::from_i8x16(i8x16::from(signed))
    })
}

/// f16 weights, in loops the compiler turns into vectors.
pub(super) fn halves<const T: usize>(rows: [&[f32]; T], w: TileRow<'_>) -> [[f32; ROWS]; T] {
    floats::<2, T>(rows, w, |bytes| widen(u16::from_le_bytes(bytes)))
}

/// f32 weights, likewise.
pub(super) fn singles<const T: usize>(rows: [&[f32]; T], w: TileRow<'_>) -> [[f32; ROWS]; T] {
    floats::<4, T>(rows, w, f32::from_le_bytes)
}

/// Weights of `B` bytes each.
#[inline(always)]
fn floats<const B: usize, const T: usize>(
    rows: [&[f32]; T],
    w: TileRow<'_>,
    read: impl Fn([u8; B]) -> f32,
) -> [[f32; ROWS]; T] {
    let mut sums = [[0.0f32; ROWS]; T];
    let inputs = w.bytes.chunks_exact(ROWS * B).take(rows[0].len());
    for (input, bytes) in inputs.enumerate() {
        let mut weights = [0.0f32; ROWS];
        let (cells, _) = bytes.as_chunks::<B>();
        for (weight, cell) in weights.iter_mut().zip(cells) {
            *weight = read(*cell);
        }
        for (sums, x) in sums.iter_mut().zip(rows) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += x[input] * weight;
            }
        }
    }
    sums
}
