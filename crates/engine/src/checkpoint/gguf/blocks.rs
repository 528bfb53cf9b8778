//! How values lie in a GGUF file: plain floats, or blocks of small integers
//! with their scales.

use std::io;

use half::f16;

use super::k_blocks;
use crate::checkpoint::ReadAt;
use crate::checkpoint::floats::FloatType;

/// Bytes that are read at once; what a read costs in memory beside `out`.
const PIECE: usize = 1 << 18;
/// The values of the largest block.
const MAX_BLOCK: usize = 256;

/// The types that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockType {
    Plain(FloatType),
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Names of the types that exist and are not read, by their number.
const OTHERS: [(u32, &str); 22] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

impl BlockType {
    pub(super) const SUPPORTED: &'static str =
        "F32, F16, BF16, F64, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K";

    /// The type of this number, or what messages call it.
    pub(super) fn of(number: u32) -> Result<Self, String> {
        Ok(match number {
            0 => Self::Plain(FloatType::F32),
            1 => Self::Plain(FloatType::F16),
            28 => Self::Plain(FloatType::F64),
            30 => Self::Plain(FloatType::Bf16),
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            _ => {
                let known = OTHERS.iter().find(|(other, _)| *other == number);
                return Err(known.map_or_else(
                    || format!("number {number}"),
                    |(_, name)| (*name).to_owned(),
                ));
            }
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain(FloatType::F16) => "F16",
            Self::Plain(FloatType::Bf16) => "BF16",
            Self::Plain(FloatType::F32) => "F32",
            Self::Plain(FloatType::F64) => "F64",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Values a block.
    pub(super) fn values(self) -> usize {
        match self {
            Self::Plain(_) => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => MAX_BLOCK,
        }
    }

    /// Bytes a block.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Plain(float) => float.size(),
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => k_blocks::Q4_BYTES,
            Self::Q5K => k_blocks::Q5_BYTES,
            Self::Q6K => k_blocks::Q6_BYTES,
        }
    }

    /// Reads `out.len()` values from the `first`-th on of those that begin at
    /// the byte `offset`. Neither end needs to be a block's.
    pub(super) fn read(
        self,
        file: &dyn ReadAt,
        offset: u64,
        mut first: usize,
        mut out: &mut [f32],
    ) -> io::Result<()> {
        if let Self::Plain(float) = self {
            return float.read(file, offset + (first * float.size()) as u64, out);
        }
        let mut bytes = Vec::new();
        let mut values = [0.0; MAX_BLOCK];
        let values = &mut values[..self.values()];
        while !out.is_empty() {
            let skipped = first % self.values();
            let blocks = (skipped + out.len()).div_ceil(self.values());
            let blocks = blocks.min(PIECE / self.bytes());
            bytes.resize(blocks * self.bytes(), 0);
            let block = (first / self.values()) as u64;
            file.read_exact_at(offset + block * self.bytes() as u64, &mut bytes)?;
            for block in bytes.chunks_exact(self.bytes()) {
                self.decode(block, values);
                let skipped = first % self.values();
                let count = (self.values() - skipped).min(out.len());
                let (now, later) = std::mem::take(&mut out).split_at_mut(count);
                now.copy_from_slice(&values[skipped..skipped + count]);
                first += count;
                out = later;
            }
        }
        Ok(())
    }

    fn decode(self, block: &[u8], out: &mut [f32]) {
        match self {
            Self::Plain(_) => unreachable!("plain floats have no blocks"),
            Self::Q8_0 => {
                let scale = half(block, 0);
                for (value, byte) in out.iter_mut().zip(&block[2..]) {
                    *value = f32::from(byte.cast_signed()) * scale;
                }
            }
            Self::Q4_0 => nibbles(&block[2..], 0, half(block, 0), -8, 0.0, out),
            Self::Q4_1 => nibbles(&block[4..], 0, half(block, 0), 0, half(block, 2), out),
            Self::Q5_0 => nibbles(&block[6..], word(block, 2), half(block, 0), -16, 0.0, out),
            Self::Q5_1 => {
                let (scale, low) = (half(block, 0), half(block, 2));
                nibbles(&block[8..], word(block, 4), scale, 0, low, out);
            }
            Self::Q4K => k_blocks::decode_q4(block, out),
            Self::Q5K => k_blocks::decode_q5(block, out),
            Self::Q6K => k_blocks::decode_q6(block, out),
        }
    }
}

/// The f16 at a byte of a block.
pub(super) fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn word(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Sixteen bytes hold the first sixteen values in their low and the others in
/// their high halves; bit `i` of `fifth` is the fifth bit of value `i`.
fn nibbles(bytes: &[u8], fifth: u32, scale: f32, shift: i32, low: f32, out: &mut [f32]) {
    let (head, tail) = out.split_at_mut(16);
    for (i, byte) in bytes.iter().enumerate().take(16) {
        let bit = |i: usize| ((fifth >> i & 1) << 4) as i32;
        let first = i32::from(byte & 0xf) | bit(i);
        let second = i32::from(byte >> 4) | bit(i + 16);
        head[i] = (first + shift) as f32 * scale + low;
        tail[i] = (second + shift) as f32 * scale + low;
    }
}
