//! Activations quantised to int8 per 32 inputs, once a call for all paths.

use super::BLOCK;

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
    values: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
    blocks: usize,
}

impl Activations {
    pub(super) fn quantize(x: &[f32], k: usize) -> Self {
        let mut quantized = Self {
            values: vec![0; x.len()],
            scales: Vec::with_capacity(x.len() / BLOCK),
            sums: Vec::with_capacity(x.len() / BLOCK),
            blocks: k / BLOCK,
        };
        for (block, out) in x
            .chunks_exact(BLOCK)
            .zip(quantized.values.chunks_exact_mut(BLOCK))
        {
            let largest = block
                .iter()
                .fold(0, |m, v| (v.to_bits() & 0x7fff_ffff).max(m));
            let largest_value = f32::from_bits(largest);
            if largest >= NOT_FINITE {
                quantized.scales.push(f32::NAN);
                quantized.sums.push(0);
                continue;
            }
            if largest_value < TINY {
                quantized.scales.push(0.0);
                quantized.sums.push(0);
                continue;
            }
            let inverse = 127.0 / largest_value;
            let mut sum = 0;
            for (value, out) in block.iter().zip(out) {
                // |value × inverse| may exceed 127 by an ulp, which rounds to 127.
                let rounded = ((value * inverse + ROUND) - ROUND) as i32;
                *out = rounded as i8;
                sum += rounded;
            }
            quantized.scales.push(largest_value / 127.0);
            quantized.sums.push(sum);
        }
        quantized
    }

    pub(super) fn tokens(&self) -> usize {
        self.scales.len() / self.blocks
    }

    /// The 32 values of a block.
    pub(super) fn block(&self, token: usize, block: usize) -> &[i8; BLOCK] {
        let at = (token * self.blocks + block) * BLOCK;
        self.values[at..at + BLOCK]
            .try_into()
            .expect("a block has 32 values")
    }

    pub(super) fn scale(&self, token: usize, block: usize) -> f32 {
        self.scales[token * self.blocks + block]
    }

    /// The sum of a block's values: what the weights' offset of 128 adds.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "only VNNI needs it")
    )]
    pub(super) fn sum(&self, token: usize, block: usize) -> i32 {
        self.sums[token * self.blocks + block]
    }
}
