//! From rows of numbers to tiles, and back for one row.
//!
//! A tile holds sixteen rows by 32 inputs. Inputs come in eight groups of
//! four, and a group is 64 bytes, four for each row, so that one load meets a
//! broadcast word of activations and no horizontal sum is needed. Q4 keeps
//! group `g` in the low and group `g + 4` in the high halves of 64 bytes. F16
//! and F32 have no groups: sixteen rows' weights of one input lie together.

use half::f16;

use super::layout::{BLOCK, Encoding, PackedMatrix, ROWS, Shape, Storage};

/// Why a matrix cannot be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// A weight is NaN or infinite, or too large for an f16 scale.
    #[error("row {row} has a weight that is not finite or too large for the encoding")]
    NotFinite {
        /// The row it is in.
        row: usize,
    },
}

/// Packs rows as they come, a tile row at a time: what an importer needs to
/// quantise a matrix that it never holds whole.
pub(crate) struct Packer {
    encoding: Encoding,
    k: usize,
    row: usize,
}

impl Packer {
    /// A packer whose first row is the matrix's `row`.
    pub(crate) fn new(encoding: Encoding, k: usize, row: usize) -> Self {
        Self { encoding, k, row }
    }

    /// Packs up to sixteen rows of `k` values into a tile row that is zero;
    /// missing rows stay rows of zeros.
    pub(crate) fn tile_row(
        &mut self,
        rows: &[f32],
        tiles: &mut [u8],
        scales: &mut [u8],
    ) -> Result<(), PackError> {
        let (encoding, k) = (self.encoding, self.k);
        debug_assert!(rows.len() <= ROWS * k && rows.len().is_multiple_of(k));
        for lane in 0..ROWS {
            let mut block = [0.0; BLOCK];
            for (at, tile) in tiles.chunks_exact_mut(encoding.tile_bytes()).enumerate() {
                let row = rows.get(lane * k..(lane + 1) * k).unwrap_or(&[]);
                let source = row.get(at * BLOCK..).unwrap_or(&[]);
                let source = &source[..source.len().min(BLOCK)];
                block[..source.len()].copy_from_slice(source);
                block[source.len()..].fill(0.0);
                let row = self.row + lane;
                if block.iter().any(|v| !v.is_finite()) {
                    return Err(PackError::NotFinite { row });
                }
                let scale = match encoding {
                    Encoding::Q8 => pack_q8(&block, lane, tile),
                    Encoding::Q4 => pack_q4(&block, lane, tile),
                    Encoding::F16 => pack_f16(&block, lane, tile),
                    Encoding::F32 => pack_f32(&block, lane, tile),
                };
                if !scale.is_finite() {
                    return Err(PackError::NotFinite { row });
                }
                if encoding.scale_bytes() > 0 {
                    let place = at * encoding.scale_bytes() + lane * 2;
                    scales[place..place + 2].copy_from_slice(&scale.to_le_bytes());
                }
            }
        }
        self.row += ROWS;
        Ok(())
    }
}

/// Packs a whole matrix of f32 weights, `[n, k]`.
pub(crate) fn pack(
    weights: &[f32],
    shape: Shape,
    encoding: Encoding,
) -> Result<PackedMatrix, PackError> {
    let Shape { n, k } = shape;
    assert_eq!(weights.len(), n * k, "weights of {shape:?}");
    let mut tiles = Storage::zeroed(shape.bytes(encoding));
    let mut scales = Storage::zeroed(shape.scale_bytes(encoding));
    let fresh = "made above, shared with nobody";
    let tile_bytes = tiles.heap_mut().expect(fresh);
    let scale_bytes = scales.heap_mut().expect(fresh);
    let (width, scale_width) = (
        shape.blocks() * encoding.tile_bytes(),
        shape.blocks() * encoding.scale_bytes(),
    );
    let mut packer = Packer::new(encoding, k, 0);
    for (tile, rows) in weights.chunks(ROWS * k).enumerate() {
        packer.tile_row(
            rows,
            &mut tile_bytes[tile * width..][..width],
            &mut scale_bytes[tile * scale_width..][..scale_width],
        )?;
    }
    Ok(PackedMatrix::new(encoding, shape, tiles, scales))
}

/// The scale is rounded to f16 before the weights are divided by it, so that
/// the error is theirs alone. −128 is never used: one path needs −w too.
fn pack_q8(block: &[f32; BLOCK], lane: usize, tile: &mut [u8]) -> f16 {
    let largest = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let scale = f16::from_f32(largest / 127.0);
    let divisor = scale.to_f32();
    for (at, value) in block.iter().enumerate() {
        let q = match divisor == 0.0 {
            true => 0.0,
            false => nearest(value / divisor).clamp(-127.0, 127.0),
        };
        tile[at / 4 * ROWS * 4 + lane * 4 + at % 4] = (q as i32 + 128) as u8;
    }
    scale
}

/// Sixteen levels, −8 to 7 times a scale of either sign. Of a few scales around
/// the one that reaches the largest weight exactly, the one with the least
/// squared error is taken; a block that was 4 bits before comes back as it was.
fn pack_q4(block: &[f32; BLOCK], lane: usize, tile: &mut [u8]) -> f16 {
    let peak = block
        .iter()
        .fold(0.0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let quantized = |value: f32, scale: f32| match scale == 0.0 {
        true => 0.0,
        false => nearest(value / scale).clamp(-8.0, 7.0),
    };
    let mut best = (f32::INFINITY, f16::ZERO);
    for levels in [-8.0, 7.0, -7.0, -7.5, 7.5, -8.4, -8.8, 6.6, -6.6] {
        let scale = f16::from_f32(peak / levels);
        let wide = scale.to_f32();
        let error: f32 = block
            .iter()
            .map(|v| {
                let off = v - quantized(*v, wide) * wide;
                off * off
            })
            .sum();
        if error < best.0 {
            best = (error, scale);
        }
    }
    // Squares of very small or very large blocks may underflow or overflow.
    let scale = match best.0.is_finite() && best.1 != f16::ZERO {
        true => best.1,
        false => f16::from_f32(peak / -8.0),
    };
    let wide = scale.to_f32();
    for (at, value) in block.iter().enumerate() {
        let level = (quantized(*value, wide) as i32 + 8) as u8;
        let (group, byte) = (at / 4, at % 4);
        let place = group % 4 * ROWS * 4 + lane * 4 + byte;
        tile[place] |= level << (group / 4 * 4);
    }
    scale
}

/// The nearest whole number, ties to even, of a value far below 2²²; without a
/// call into a library, which `round_ties_even` is where the target is old.
fn nearest(value: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    (value + ROUND) - ROUND
}

fn pack_f16(block: &[f32; BLOCK], lane: usize, tile: &mut [u8]) -> f16 {
    let mut largest = f16::ZERO;
    for (at, value) in block.iter().enumerate() {
        let narrow = f16::from_f32(*value);
        if !narrow.is_finite() {
            largest = narrow;
        }
        let place = (at * ROWS + lane) * 2;
        tile[place..place + 2].copy_from_slice(&narrow.to_le_bytes());
    }
    largest
}

fn pack_f32(block: &[f32; BLOCK], lane: usize, tile: &mut [u8]) -> f16 {
    for (at, value) in block.iter().enumerate() {
        let place = (at * ROWS + lane) * 4;
        tile[place..place + 4].copy_from_slice(&value.to_le_bytes());
    }
    f16::ZERO
}

/// The f32 at this place of a byte slice.
pub(super) fn float_at(bytes: &[u8], index: usize) -> f32 {
    let at = 4 * index;
    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The f16 at this place of a byte slice.
pub(super) fn half_at(bytes: &[u8], index: usize) -> f16 {
    f16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]])
}

/// Row `row` as f32: the embedding of one token.
pub(crate) fn unpack_row(w: &PackedMatrix, row: usize, out: &mut Vec<f32>) {
    let (tile, lane) = (row / ROWS, row % ROWS);
    let end = out.len() + w.shape.k;
    let row = w.tile_row(tile);
    let bytes = row.bytes.chunks_exact(w.encoding.tile_bytes());
    for (at, tile) in bytes.enumerate() {
        match w.encoding {
            Encoding::F16 => {
                out.extend((0..BLOCK).map(|i| half_at(tile, i * ROWS + lane).to_f32()))
            }
            Encoding::F32 => out.extend((0..BLOCK).map(|i| float_at(tile, i * ROWS + lane))),
            Encoding::Q8 => {
                let scale = half_at(row.scales, at * ROWS + lane).to_f32();
                for group in tile.chunks_exact(ROWS * 4) {
                    let word = &group[lane * 4..][..4];
                    out.extend(word.iter().map(|b| (i32::from(*b) - 128) as f32 * scale));
                }
            }
            Encoding::Q4 => {
                let scale = half_at(row.scales, at * ROWS + lane).to_f32();
                for group in 0..BLOCK / 4 {
                    let word = &tile[group % 4 * ROWS * 4 + lane * 4..][..4];
                    let level = |b: &u8| i32::from(b >> (group / 4 * 4) & 15) - 8;
                    out.extend(word.iter().map(|b| level(b) as f32 * scale));
                }
            }
        }
    }
    out.truncate(end);
}
