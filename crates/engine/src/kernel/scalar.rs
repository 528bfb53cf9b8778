//! One number after the other: the definition the other paths are held to.

use super::activation::Activations;
use super::layout::{Encoding, ROWS, TileRow};
use super::pack::{float_at, half_at};

pub(super) fn quantized<const T: usize>(
    x: &Activations,
    first: usize,
    w: TileRow<'_>,
    encoding: Encoding,
) -> [[f32; ROWS]; T] {
    let weight = |tile: &[u8], row: usize, input: usize| {
        let (group, byte) = (input / 4, input % 4);
        match encoding {
            Encoding::Q8 => i32::from(tile[group * ROWS * 4 + row * 4 + byte]) - 128,
            _ => {
                let both = tile[group % 4 * ROWS * 4 + row * 4 + byte];
                i32::from(both >> (group / 4 * 4) & 15) - 8
            }
        }
    };
    std::array::from_fn(|t| {
        let (values, scales, _) = x.row(first + t);
        let mut sums = [0.0f32; ROWS];
        for (at, tile) in w.bytes.chunks_exact(encoding.tile_bytes()).enumerate() {
            for (row, sum) in sums.iter_mut().enumerate() {
                let mut dot = 0;
                for (input, x) in values[at].iter().enumerate() {
                    dot += weight(tile, row, input) * i32::from(*x);
                }
                let weight_scale = half_at(w.scales, at * ROWS + row).to_f32();
                *sum += dot as f32 * (scales[at] * weight_scale);
            }
        }
        sums
    })
}

/// f16 or f32 weights.
pub(super) fn floats<const T: usize>(
    rows: [&[f32]; T],
    w: TileRow<'_>,
    encoding: Encoding,
) -> [[f32; ROWS]; T] {
    let weight = |index: usize| match encoding {
        Encoding::F32 => float_at(w.bytes, index),
        _ => half_at(w.bytes, index).to_f32(),
    };
    rows.map(|x| {
        let mut sums = [0.0f32; ROWS];
        for (input, x) in x.iter().enumerate() {
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum += x * weight(input * ROWS + row);
            }
        }
        sums
    })
}
