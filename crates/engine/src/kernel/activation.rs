//! Activations as the tiles meet them: int8 per 32 inputs, or f32.

use super::layout::{BLOCK, Encoding};
use super::{Work, wide};

/// Blocks whose largest value is below this are stored as zeros: dividing by
/// something smaller would overflow.
const TINY: f32 = 1e-30;
/// Adding and subtracting 1.5 × 2²³ rounds a small f32 to the nearest integer,
/// ties to even, on every processor.
const ROUND: f32 = 12_582_912.0;
/// The exponent bits of an f32: at or above them a value is not finite.
const NOT_FINITE: u32 = 0x7f80_0000;

/// Quantised rows. The scale of a block that holds a NaN or an infinity is
/// NaN, so that it reaches the logits instead of becoming a plausible number.
pub(super) struct Activations {
    values: Vec<[i8; BLOCK]>,
    scales: Vec<f32>,
    /// What each block's dot products start from: the weights' offset times
    /// the block's sum, taken away.
    corrections: Vec<i32>,
    blocks: usize,
}

impl Activations {
    /// Quantises rows of `k` values for weights of this encoding.
    pub(super) fn quantize(x: &[f32], k: usize, encoding: Encoding) -> Self {
        let blocks = k.div_ceil(BLOCK);
        let count = x.len() / k * blocks;
        let mut quantized = Self {
            values: vec![[0; BLOCK]; count],
            scales: vec![0.0; count],
            corrections: vec![0; count],
            blocks,
        };
        wide(Quantize {
            x,
            k,
            offset: encoding.offset(),
            out: &mut quantized,
        });
        quantized
    }

    pub(super) fn tokens(&self) -> usize {
        self.scales.len() / self.blocks
    }

    /// The blocks of one token: values, scales and corrections.
    #[inline(always)]
    pub(super) fn row(&self, token: usize) -> (&[[i8; BLOCK]], &[f32], &[i32]) {
        let at = token * self.blocks..(token + 1) * self.blocks;
        (
            &self.values[at.clone()],
            &self.scales[at.clone()],
            &self.corrections[at],
        )
    }
}

struct Quantize<'a> {
    x: &'a [f32],
    k: usize,
    offset: i32,
    out: &'a mut Activations,
}

impl Work for Quantize<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { x, k, offset, out } = self;
        let mut at = 0;
        for row in x.chunks_exact(k) {
            for part in row.chunks(BLOCK) {
                let whole: Result<&[f32; BLOCK], _> = part.try_into();
                let (scale, sum) = match whole {
                    Ok(block) => quantize_block(block, &mut out.values[at]),
                    Err(_) => {
                        let mut block = [0.0; BLOCK];
                        block[..part.len()].copy_from_slice(part);
                        quantize_block(&block, &mut out.values[at])
                    }
                };
                out.scales[at] = scale;
                out.corrections[at] = -offset * sum;
                at += 1;
            }
        }
    }
}

/// Writes a row as integers of eight bits, and returns what they are multiplied
/// with to be the row again: NaN if a value is not finite.
pub(crate) fn quantize_row(row: &[f32], out: &mut [i8]) -> f32 {
    struct Row<'a>(&'a [f32], &'a mut [i8], &'a mut f32);
    impl Work for Row<'_> {
        #[inline(always)]
        fn run(self) {
            (*self.2, _) = quantize_block(self.0, self.1);
        }
    }
    let mut scale = 0.0;
    wide(Row(row, out, &mut scale));
    scale
}

/// Fills `out` and returns the scale and the sum of what was written.
#[inline(always)]
fn quantize_block(block: &[f32], out: &mut [i8]) -> (f32, i32) {
    let mut largest = 0;
    for value in block {
        largest = largest.max(value.to_bits() & 0x7fff_ffff);
    }
    let largest_value = f32::from_bits(largest);
    if largest >= NOT_FINITE {
        out.fill(0);
        return (f32::NAN, 0);
    }
    if largest_value < TINY {
        out.fill(0);
        return (0.0, 0);
    }
    let inverse = 127.0 / largest_value;
    let mut sum = 0;
    for (value, out) in block.iter().zip(out) {
        // |value × inverse| may exceed 127 by an ulp, which rounds to 127. The
        // low bits of 1.5 × 2²³ + n are n itself: no conversion is needed.
        let rounded = (value * inverse + ROUND).to_bits() as i32 - ROUND.to_bits() as i32;
        *out = rounded as i8;
        sum += rounded;
    }
    (largest_value / 127.0, sum)
}
