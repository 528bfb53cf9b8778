//! A Llama-family decoder in Burn.
//!
//! Tensors are `[tokens, width]`; one call handles one stream. The linear
//! layers, attention and norms of a packed model give each row the same bits
//! whatever comes with it in the call, so reading tokens as a prompt and
//! writing them one at a time leave the same state. A dense (f32) model uses
//! Burn's matrix product, which does not promise that:
//! [`Llama::is_row_exact`] tells them apart.

mod build;
mod cache;
mod layers;
pub(crate) mod math;
mod ops;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

pub(crate) use build::Precision;
pub(crate) use cache::KvCache;
use layers::{Projection, RmsNorm};
use math::AttendSpec;

/// The decoder: embedding, layers, norm and head.
#[derive(Module, Debug)]
pub(crate) struct Llama {
    embedding: Projection,
    layers: Vec<Layer>,
    norm: RmsNorm,
    /// Absent where the embedding serves as the head too.
    head: Option<Projection>,
    #[module(skip)]
    shape: Dimensions,
}

#[derive(Module, Debug)]
struct Layer {
    attention_norm: RmsNorm,
    /// Query, key and value in one matrix: one kernel call instead of three.
    qkv: Projection,
    output: Projection,
    mlp_norm: RmsNorm,
    /// Gate and up in one matrix.
    gate_up: Projection,
    down: Projection,
}

/// What the forward pass needs of the configuration.
#[derive(Clone, Debug)]
struct Dimensions {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Radians a position, for each pair of a head's dimensions.
    frequencies: Vec<f32>,
}

impl Llama {
    /// The logits after the last of `ids`, which extend what `cache` holds.
    pub(crate) fn forward(&self, ids: &[u32], cache: &mut KvCache) -> Vec<f32> {
        let last = self.hidden(ids, cache).narrow(0, ids.len() - 1, 1);
        self.logits(last)
    }

    /// Reads `ids` into `cache`; what would come after them is not asked.
    pub(crate) fn read(&self, ids: &[u32], cache: &mut KvCache) {
        self.hidden(ids, cache);
    }

    /// The logits after each of `ids`, row by row. For tests.
    #[cfg(test)]
    pub(crate) fn forward_all(&self, ids: &[u32], cache: &mut KvCache) -> Vec<f32> {
        let hidden = self.hidden(ids, cache);
        self.logits(hidden)
    }

    /// An empty cache for this model.
    pub(crate) fn cache(&self) -> KvCache {
        let width = self.shape.kv_heads * self.shape.head_dim;
        KvCache::new(self.layers.len(), width, &device())
    }

    /// Whether reading many tokens at once gives the bits of reading them one
    /// by one.
    pub(crate) fn is_row_exact(&self) -> bool {
        self.embedding.is_row_exact()
    }

    fn hidden(&self, ids: &[u32], cache: &mut KvCache) -> Tensor<2> {
        let device = device();
        let start = cache.reserve(ids.len());
        let angles = Angles::new(start, ids.len(), &self.shape.frequencies, &device);
        let mut x = self.embedding.rows(ids, &device);
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = layer.attention_norm.forward(x.clone());
            let attended = layer.attend(normed, &angles, (cache, index), &self.shape);
            x = x + attended;
            let gate_up = layer.gate_up.forward(layer.mlp_norm.forward(x.clone()));
            x = x + layer.down.forward(ops::swiglu(gate_up));
        }
        cache.commit(ids.len());
        x
    }

    fn logits(&self, hidden: Tensor<2>) -> Vec<f32> {
        let hidden = self.norm.forward(hidden);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let logits = head.forward(hidden).into_data();
        logits.try_into_vec().expect("the head's output is f32")
    }
}

impl Layer {
    fn attend(
        &self,
        x: Tensor<2>,
        angles: &Angles,
        (cache, index): (&mut KvCache, usize),
        shape: &Dimensions,
    ) -> Tensor<2> {
        let Dimensions {
            heads,
            kv_heads,
            head_dim,
            ..
        } = *shape;
        let [tokens, _] = x.dims();
        let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let qkv = self.qkv.forward(x);
        let turning = qkv.clone().slice([0..tokens, 0..q_width + kv_width]);
        let turned = angles.rotate(turning.reshape([tokens, heads + kv_heads, head_dim]));
        let turned = turned.reshape([tokens, q_width + kv_width]);
        let q = turned.clone().slice([0..tokens, 0..q_width]);
        let k = turned.slice([0..tokens, q_width..q_width + kv_width]);
        let v = qkv.slice([0..tokens, q_width + kv_width..q_width + 2 * kv_width]);
        let (keys, values) = cache.extend(index, k, v);
        let spec = AttendSpec {
            heads,
            kv_heads,
            head_dim,
            start: cache.len(),
        };
        self.output.forward(ops::attend(q, keys, values, spec))
    }
}

/// Cosines and sines of the positions of one call, `[tokens, 1, head_dim / 2]`.
struct Angles {
    cos: Tensor<3>,
    sin: Tensor<3>,
}

impl Angles {
    fn new(start: usize, tokens: usize, frequencies: &[f32], device: &Device) -> Self {
        let half = frequencies.len();
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in start..start + tokens {
            for frequency in frequencies {
                // The angle is f32, as in Hugging Face's Llama; from there f64
                // keeps the system's math library out of the result's bits.
                let (s, c) = f64::from(position as f32 * frequency).sin_cos();
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
        let tensor = |v| Tensor::from_data(TensorData::new(v, [tokens, 1, half]), device);
        Self {
            cos: tensor(cos),
            sin: tensor(sin),
        }
    }

    /// Rotates the first half of each head against the second, as Hugging
    /// Face's Llama does. (Burn's own encoding pairs neighbours.)
    fn rotate(&self, x: Tensor<3>) -> Tensor<3> {
        let [tokens, heads, size] = x.dims();
        let first = x.clone().slice([0..tokens, 0..heads, 0..size / 2]);
        let second = x.slice([0..tokens, 0..heads, size / 2..size]);
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
        let turned_first = first.clone() * cos.clone() - second.clone() * sin.clone();
        let turned_second = second * cos + first * sin;
        Tensor::cat(vec![turned_first, turned_second], 2)
    }
}

/// The one device this crate computes on.
fn device() -> Device {
    Device::flex()
}

#[cfg(test)]
mod tests;
