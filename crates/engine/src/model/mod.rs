//! Decoders and encoders in Burn.
//!
//! Tensors are `[tokens, width]`; one call handles the tokens of one or more
//! streams, one stream after the other. The linear layers, attention and norms
//! of a packed model give each row the same bits whatever comes with it in the
//! call, so reading tokens as a prompt and writing them one at a time leave the
//! same state. A dense (f32) model uses Burn's matrix product, which does not
//! promise that: [`Decoder::is_row_exact`] tells them apart.

mod build;
mod cache;
mod decoder;
mod encoder;
mod layers;
pub(crate) mod math;
mod ops;
mod plain;
mod stack;

use burn::tensor::Device;

pub(crate) use build::{Matrix, Precision, Weights};
pub(crate) use cache::{KvCache, KvLayout, KvType, PAGE, Page, PagePool};
pub(crate) use decoder::{Decoder, Input};
pub(crate) use encoder::Encoder;
pub(crate) use math::Activation;

/// The processor: where everything is computed that is not on a graphics
/// adapter.
fn device() -> Device {
    Device::flex()
}

#[cfg(test)]
mod tests;
