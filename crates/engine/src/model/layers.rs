//! The modules models are made of.

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::ops;
use crate::kernel::{KernelPath, PackedMatrix, Shape};

/// A linear layer in whichever form the artifact holds it.
#[derive(Module, Debug)]
pub(crate) enum Projection {
    /// Tiles, our kernel.
    Packed(PackedLinear),
    /// f32, Burn's matrix product.
    Dense(DenseLinear),
    /// f32 on the graphics adapter.
    Gpu(GpuLinear),
}

/// Packed matrices with the same inputs; see [`crate::kernel`]. The bytes are
/// not parameters of Burn's: they stay where they are, in a mapped file, and
/// every process that maps it shares them.
#[derive(Module, Debug)]
pub(crate) struct PackedLinear {
    #[module(skip)]
    pub(super) parts: Vec<PackedMatrix>,
    #[module(skip)]
    pub(super) path: KernelPath,
    #[module(skip)]
    pub(super) bias: Option<Vec<f32>>,
}

/// `[out, in]` in f32.
#[derive(Module, Debug)]
pub(crate) struct DenseLinear {
    weight: Param<Tensor<2>>,
    bias: Option<Param<Tensor<1>>>,
}

/// `[out, in]` in f32 on the graphics adapter, in pieces that fit its buffers:
/// their outputs stand side by side.
#[derive(Module, Debug)]
pub(crate) struct GpuLinear {
    pieces: Vec<Param<Tensor<2>>>,
    bias: Option<Param<Tensor<1>>>,
}

/// A root-mean-square norm with a learnt scale.
#[derive(Module, Debug)]
pub(crate) struct RmsNorm {
    weight: Param<Tensor<1>>,
    eps: f64,
}

/// A norm by mean and deviation, with a learnt scale and shift.
#[derive(Module, Debug)]
pub(crate) struct LayerNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    eps: f64,
}

impl Projection {
    pub(super) fn dense(
        weights: Vec<f32>,
        shape: Shape,
        bias: Option<Vec<f32>>,
        device: &Device,
    ) -> Self {
        let data = TensorData::new(weights, [shape.n, shape.k]);
        Self::Dense(DenseLinear {
            weight: param(Tensor::from_data(data, device)),
            bias: bias.map(|bias| vector(bias, device)),
        })
    }

    /// `x · wᵀ + bias` for `x` of `[tokens, in]`.
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Packed(layer) => ops::packed_linear(x, layer),
            Self::Dense(layer) => {
                let out = x.matmul(layer.weight.val().transpose());
                match &layer.bias {
                    Some(bias) => out + bias.val().unsqueeze(),
                    None => out,
                }
            }
            Self::Gpu(layer) => layer.forward(x),
        }
    }

    /// Rows by number: the embedding of tokens. `device` is the processor, where
    /// embeddings are in any case.
    pub(super) fn rows(&self, ids: &[u32], device: &Device) -> Tensor<2> {
        match self {
            Self::Packed(layer) => ops::packed_rows(layer, ids, device),
            Self::Dense(layer) => {
                let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
                let count = ids.len();
                let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), device);
                layer.weight.val().select(0, ids)
            }
            Self::Gpu(_) => unreachable!("embeddings are built on the processor"),
        }
    }

    /// Whether a row's result is the same alone and among others.
    pub(super) fn is_row_exact(&self) -> bool {
        matches!(self, Self::Packed(_))
    }
}

impl GpuLinear {
    /// No outputs yet.
    pub(super) fn new(bias: Option<Vec<f32>>, device: &Device) -> Self {
        Self {
            pieces: Vec::new(),
            bias: bias.map(|bias| vector(bias, device)),
        }
    }

    /// Adds rows of `k` weights.
    pub(super) fn push(&mut self, rows: Vec<f32>, k: usize, device: &Device) {
        let n = rows.len() / k;
        let data = TensorData::new(rows, [n, k]);
        self.pieces.push(param(Tensor::from_data(data, device)));
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let piece = |w: &Param<Tensor<2>>| x.clone().matmul(w.val().transpose());
        let out = match &self.pieces[..] {
            [whole] => piece(whole),
            pieces => Tensor::cat(pieces.iter().map(piece).collect(), 1),
        };
        match &self.bias {
            Some(bias) => out + bias.val().unsqueeze(),
            None => out,
        }
    }
}

impl RmsNorm {
    pub(super) fn new(weight: Vec<f32>, eps: f32, device: &Device) -> Self {
        Self {
            weight: vector(weight, device),
            eps: f64::from(eps),
        }
    }

    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::rms_norm(x, self.weight.val(), self.eps as f32)
    }
}

impl LayerNorm {
    pub(super) fn new(weight: Vec<f32>, bias: Vec<f32>, eps: f32, device: &Device) -> Self {
        Self {
            weight: vector(weight, device),
            bias: vector(bias, device),
            eps: f64::from(eps),
        }
    }

    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::layer_norm(x, self.weight.val(), self.bias.val(), self.eps as f32)
    }
}

fn vector(values: Vec<f32>, device: &Device) -> Param<Tensor<1>> {
    let width = values.len();
    param(Tensor::from_data(TensorData::new(values, [width]), device))
}

fn param<T: burn::module::Parameter>(tensor: T) -> Param<T> {
    Param::initialized(ParamId::new(), tensor)
}
