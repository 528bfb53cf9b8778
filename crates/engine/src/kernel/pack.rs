//! From rows of numbers to tiles, and back for one row.

use half::f16;

use super::{BLOCK, PackedRef, ROWS, Shape, TILE};

#[derive(Clone, Debug)]
/// A packed matrix: `n × k` bytes and one scale for each 32 of them.
pub(crate) struct Packed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) scales: Vec<f16>,
    pub(crate) shape: Shape,
}

/// Why a matrix cannot be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The tile shape does not divide the matrix.
    #[error("shape [{n}, {k}] does not tile: outputs must be a multiple of 16, inputs of 32")]
    Shape {
        /// Outputs.
        n: usize,
        /// Inputs.
        k: usize,
    },
    /// Fewer or more numbers than the shape has.
    #[error("holds {found} values where its shape needs {expected}")]
    Length {
        /// Values its shape needs.
        expected: usize,
        /// Values it has.
        found: usize,
    },
    /// −128 has no positive counterpart, which one path needs.
    #[error("value -128 at row {row} is outside -127..=127")]
    OutOfRange {
        /// The row it is in.
        row: usize,
    },
    /// A weight or a scale is NaN, infinite, or a negative scale.
    #[error("row {row} has a weight or scale that is not a finite number in range")]
    NotFinite {
        /// The row it is in.
        row: usize,
    },
}

fn check_shape(shape: Shape) -> Result<(), PackError> {
    let Shape { n, k } = shape;
    if n == 0 || k == 0 || n % ROWS != 0 || k % BLOCK != 0 || n.checked_mul(k).is_none() {
        return Err(PackError::Shape { n, k });
    }
    Ok(())
}

fn check_length(expected: usize, found: usize) -> Result<(), PackError> {
    if expected != found {
        return Err(PackError::Length { expected, found });
    }
    Ok(())
}

/// Quantises `[n, k]` f32 weights: int8 in −127..=127 row by row and one f16
/// scale for each 32 inputs. The scale is rounded to f16 before the weights
/// are divided by it, so that the error is theirs alone.
pub(crate) fn quantize_rows(
    weights: &[f32],
    shape: Shape,
) -> Result<(Vec<i8>, Vec<f16>), PackError> {
    check_shape(shape)?;
    check_length(shape.n * shape.k, weights.len())?;
    let mut values = Vec::with_capacity(weights.len());
    let mut scales = Vec::with_capacity(weights.len() / BLOCK);
    for (index, block) in weights.chunks_exact(BLOCK).enumerate() {
        let row = index * BLOCK / shape.k;
        if block.iter().any(|v| !v.is_finite()) {
            return Err(PackError::NotFinite { row });
        }
        let largest = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let scale = f16::from_f32(largest / 127.0);
        if !scale.is_finite() {
            return Err(PackError::NotFinite { row });
        }
        let divisor = scale.to_f32();
        values.extend(block.iter().map(|v| {
            if divisor == 0.0 {
                return 0;
            }
            (v / divisor).round_ties_even().clamp(-127.0, 127.0) as i8
        }));
        scales.push(scale);
    }
    Ok((values, scales))
}

/// Arranges int8 rows and their scales (`[n, k]`, `[n, k / 32]`) into tiles.
pub(crate) fn pack(values: &[i8], scales: &[f16], shape: Shape) -> Result<Packed, PackError> {
    check_shape(shape)?;
    let Shape { n, k } = shape;
    let blocks = k / BLOCK;
    check_length(n * k, values.len())?;
    check_length(n * blocks, scales.len())?;
    if let Some(at) = values.iter().position(|v| *v == i8::MIN) {
        return Err(PackError::OutOfRange { row: at / k });
    }
    if let Some(at) = scales
        .iter()
        .position(|s| !s.is_finite() || s.is_sign_negative())
    {
        return Err(PackError::NotFinite { row: at / blocks });
    }
    let mut packed = Packed {
        bytes: vec![0; n * k],
        scales: vec![f16::ZERO; n * blocks],
        shape,
    };
    for row in 0..n {
        let (tile, lane) = (row / ROWS, row % ROWS);
        for block in 0..blocks {
            let at = tile * blocks + block;
            packed.scales[at * ROWS + lane] = scales[row * blocks + block];
            let source = &values[row * k + block * BLOCK..][..BLOCK];
            let target = &mut packed.bytes[at * TILE..(at + 1) * TILE];
            for (group, word) in source.chunks_exact(4).enumerate() {
                for (byte, value) in word.iter().enumerate() {
                    target[group * ROWS * 4 + lane * 4 + byte] = value.wrapping_sub(i8::MIN) as u8;
                }
            }
        }
    }
    Ok(packed)
}

/// Row `row` as f32: the embedding of one token.
pub(crate) fn unpack_row(w: PackedRef<'_>, row: usize, out: &mut Vec<f32>) {
    let (tile, lane) = (row / ROWS, row % ROWS);
    let tile = w.tile_row(tile);
    for (bytes, scales) in tile
        .bytes
        .chunks_exact(TILE)
        .zip(tile.scales.chunks_exact(ROWS))
    {
        let scale = scales[lane].to_f32();
        for group in bytes.chunks_exact(ROWS * 4) {
            let word = &group[lane * 4..][..4];
            out.extend(word.iter().map(|b| (i32::from(*b) - 128) as f32 * scale));
        }
    }
}
