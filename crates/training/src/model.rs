//! A Llama-family causal language model in Burn, as Hugging Face defines it.
//!
//! The query, key and value projections are one matrix here, and so are gate and up: fewer,
//! larger products. [`crate::weights`] splits them into Hugging Face's names.

use burn::module::{Module, Param};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};

/// The shape of a model; the numbers of a Hugging Face `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Longest sequence, in tokens.
    pub max_positions: usize,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f64,
}

impl Shape {
    /// 2.4 million parameters: 2.7 MB in int8, and an hour of training on two cores.
    pub const BRAND_EXTRACTOR: Self = Self {
        hidden: 192,
        layers: 4,
        heads: 6,
        kv_heads: 3,
        head_dim: 32,
        feed_forward: 512,
        vocab: 4096,
        max_positions: 512,
        rope_theta: 10_000.0,
        norm_eps: 1e-5,
    };

    /// Trainable numbers in a model of this shape; the output layer shares the embedding.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads);
        let feed_forward = 3 * self.hidden * self.feed_forward;
        let layer = attention + feed_forward + 2 * self.hidden;
        self.vocab * self.hidden + self.layers * layer + self.hidden
    }
}

/// Root-mean-square normalisation with a learned scale.
#[derive(Module, Debug)]
pub struct Norm {
    /// One scale per channel.
    pub weight: Param<Tensor<1>>,
    eps: f64,
}

impl Norm {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let rms = (x.clone().square().mean_dim(1) + self.eps).sqrt();
        (x / rms) * self.weight.val().unsqueeze()
    }
}

/// One decoder layer. Matrices are `[in, out]`.
#[derive(Module, Debug)]
pub struct Layer {
    /// Before attention.
    pub norm_attention: Norm,
    /// Query, key and value heads side by side.
    pub qkv: Param<Tensor<2>>,
    /// Heads back to the residual stream.
    pub output: Param<Tensor<2>>,
    /// Before the feed-forward layer.
    pub norm_feed_forward: Norm,
    /// Gate and up side by side.
    pub gate_up: Param<Tensor<2>>,
    /// Back to the residual stream.
    pub down: Param<Tensor<2>>,
}

/// The whole model.
#[derive(Module, Debug)]
pub struct Llama {
    /// `[vocab, hidden]`; also the output layer.
    pub embedding: Param<Tensor<2>>,
    /// The decoder.
    pub layers: Vec<Layer>,
    /// Before the output layer.
    pub norm: Norm,
    #[module(skip)]
    shape: Shape,
}

/// What attention needs to know of positions, for one batch shape.
struct Positions {
    cos: Tensor<4>,
    sin: Tensor<4>,
    /// True where a query may not look.
    future: Tensor<4, Bool>,
}

impl Llama {
    /// A model with normally distributed weights from `seed`.
    #[must_use]
    pub fn init(shape: Shape, seed: u64, device: &Device) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut matrix = |rows: usize, columns: usize, deviation: f64| {
            let values: Vec<f32> = (0..rows * columns)
                .map(|_| (normal(&mut rng) * deviation) as f32)
                .collect();
            parameter(values, [rows, columns], device)
        };
        let heads = shape.heads * shape.head_dim;
        let qkv = heads + 2 * shape.kv_heads * shape.head_dim;
        let inner = 1.0 / (shape.hidden as f64).sqrt();
        let depth = 1.0 / (2.0 * shape.layers as f64).sqrt();
        let embedding = matrix(shape.vocab, shape.hidden, 0.05);
        let layers = (0..shape.layers)
            .map(|_| Layer {
                norm_attention: ones(shape, device),
                qkv: matrix(shape.hidden, qkv, inner),
                output: matrix(heads, shape.hidden, depth / (heads as f64).sqrt()),
                norm_feed_forward: ones(shape, device),
                gate_up: matrix(shape.hidden, 2 * shape.feed_forward, inner),
                down: matrix(
                    shape.feed_forward,
                    shape.hidden,
                    depth / (shape.feed_forward as f64).sqrt(),
                ),
            })
            .collect();
        Self {
            embedding,
            layers,
            norm: ones(shape, device),
            shape,
        }
    }

    /// The shape the model was built with.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Final hidden states `[batch * length, hidden]` of `tokens`, row-major `[batch, length]`.
    #[must_use]
    pub fn hidden(&self, tokens: &[i32], length: usize, device: &Device) -> Tensor<2> {
        let batch = tokens.len() / length;
        let ids = Tensor::<1, Int>::from_data(TensorData::from(tokens), device);
        let positions = Positions::new(&self.shape, length, device);
        let mut x = self.embedding.val().select(0, ids);
        for layer in &self.layers {
            x = layer.forward(x, [batch, length], &self.shape, &positions);
        }
        self.norm.forward(x)
    }

    /// Logits `[rows.len(), vocab]` at the given rows of [`Llama::hidden`].
    #[must_use]
    pub fn logits(&self, hidden: Tensor<2>, rows: &[i32], device: &Device) -> Tensor<2> {
        let rows = Tensor::<1, Int>::from_data(TensorData::from(rows), device);
        hidden
            .select(0, rows)
            .matmul(self.embedding.val().transpose())
    }
}

impl Layer {
    fn forward(
        &self,
        x: Tensor<2>,
        batch_length: [usize; 2],
        shape: &Shape,
        positions: &Positions,
    ) -> Tensor<2> {
        let normed = self.norm_attention.forward(x.clone());
        let x = x + self.attend(normed, batch_length, shape, positions);
        let normed = self.norm_feed_forward.forward(x.clone());
        let both = normed.matmul(self.gate_up.val());
        let gate = both.clone().narrow(1, 0, shape.feed_forward);
        let up = both.narrow(1, shape.feed_forward, shape.feed_forward);
        x + (activation::silu(gate) * up).matmul(self.down.val())
    }

    fn attend(
        &self,
        x: Tensor<2>,
        [batch, length]: [usize; 2],
        shape: &Shape,
        positions: &Positions,
    ) -> Tensor<2> {
        let (dim, kv) = (shape.head_dim, shape.kv_heads);
        let group = shape.heads / kv;
        let qkv = x
            .matmul(self.qkv.val())
            .reshape([batch, length, shape.heads + 2 * kv, dim]);
        let rotated = positions.rotate(qkv.clone().narrow(2, 0, shape.heads + kv));
        // Query head h reads key head h / group, so a group's queries stack along the rows.
        let query = (rotated.clone().narrow(2, 0, shape.heads))
            .reshape([batch, length, kv, group, dim])
            .permute([0, 2, 3, 1, 4])
            .reshape([batch, kv, group * length, dim]);
        let key = rotated.narrow(2, shape.heads, kv).permute([0, 2, 3, 1]);
        let value = qkv.narrow(2, shape.heads + kv, kv).permute([0, 2, 1, 3]);
        let scores = query.matmul(key).div_scalar((dim as f64).sqrt());
        let future = positions.future.clone().repeat_dim(2, group);
        let weights = activation::softmax(scores.mask_fill(future, -1e9), 3);
        let heads = weights
            .matmul(value)
            .reshape([batch, kv, group, length, dim])
            .permute([0, 3, 1, 2, 4])
            .reshape([batch * length, shape.heads * dim]);
        heads.matmul(self.output.val())
    }
}

impl Positions {
    fn new(shape: &Shape, length: usize, device: &Device) -> Self {
        let half = shape.head_dim / 2;
        let angles: Vec<f64> = (0..length)
            .flat_map(|position| {
                (0..shape.head_dim).map(move |i| {
                    let exponent = 2.0 * (i % half) as f64 / shape.head_dim as f64;
                    position as f64 / shape.rope_theta.powf(exponent)
                })
            })
            .collect();
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|&angle| f(angle) as f32).collect();
            let data = TensorData::new(values, [1, length, 1, shape.head_dim]);
            Tensor::<4>::from_data(data, device)
        };
        let future = Tensor::<2, Bool>::tril_mask([length, length], 0, device);
        Self {
            cos: table(f64::cos),
            sin: table(f64::sin),
            future: future.unsqueeze(),
        }
    }

    /// Rotates halves, as Hugging Face does (`rotate_half`), `[batch, length, heads, dim]`.
    fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let first = x.clone().narrow(3, 0, half);
        let second = x.clone().narrow(3, half, half);
        let turned = Tensor::cat(vec![second.neg(), first], 3);
        x * self.cos.clone() + turned * self.sin.clone()
    }
}

fn ones(shape: Shape, device: &Device) -> Norm {
    Norm {
        weight: parameter(vec![1.0; shape.hidden], [shape.hidden], device),
        eps: shape.norm_eps,
    }
}

/// A trainable tensor with these values.
pub(crate) fn parameter<const D: usize>(
    values: Vec<f32>,
    dims: [usize; D],
    device: &Device,
) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::from_data(TensorData::new(values, dims), device))
}

/// A standard normal number (Box–Muller).
fn normal(rng: &mut fastrand::Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.f64()).cos()
}
