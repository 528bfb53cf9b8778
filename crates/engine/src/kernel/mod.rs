//! The packed linear layer: one layout, several code paths, the same bits.
//!
//! A weight matrix `[n, k]` is cut into tiles of 16 output rows by 32 inputs
//! ([`layout`] has the encodings, [`pack`] the order inside a tile). Under q8
//! and q4 each row of a tile has an f16 scale, and activations are quantised
//! per 32 inputs to int8 with an f32 scale; f16 and f32 weights
//! meet f32 activations.
//!
//! Every path computes the dot product of a quantised block exactly, in
//! integers, and then `acc += dot as f32 * (activation_scale * weight_scale)`
//! in f32 from the first block to the last, never fused; floats add product
//! after product in the order of inputs. A row's result therefore depends on
//! neither the path, the number of tokens in the call, nor the number of
//! threads: prefill and decode agree bit for bit.

mod activation;
mod layout;
mod linear;
mod pack;
pub(crate) mod page;
mod path;
mod portable;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use activation::quantize_row;
#[cfg(test)]
pub(crate) use layout::BLOCK;
pub(crate) use layout::{Encoding, PackedMatrix, ROWS, Shape, Storage};
pub(crate) use linear::{linear, linear_here};
pub use pack::PackError;
pub(crate) use pack::{Packer, pack, unpack_row};
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

/// An f16's bits as f32, exactly, in operations that vectorise: moving the
/// bits up leaves the exponent 112 too small, and infinity and NaN need theirs
/// filled up.
#[inline(always)]
pub(crate) fn widen(bits: u16) -> f32 {
    const TWO_POW_112: f32 = f32::from_bits((127 + 112) << 23);
    let bits = u32::from(bits);
    let magnitude = bits & 0x7fff;
    let finite = (f32::from_bits(magnitude << 13) * TWO_POW_112).to_bits();
    let special = 0x7f80_0000 | magnitude << 13;
    let value = if magnitude >= 0x7c00 { special } else { finite };
    f32::from_bits(value | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests;
