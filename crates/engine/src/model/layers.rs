//! The modules a decoder is made of.

use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::ops;
use crate::kernel::{KernelPath, Packed, Shape};

/// A linear layer without bias, in whichever form the artifact holds it.
#[derive(Module, Debug)]
pub(crate) enum Projection {
    /// int8 tiles, our kernel.
    Packed(PackedMatrix),
    /// f32, Burn's matrix product.
    Dense(DenseMatrix),
}

/// int8 tiles and their f16 scales; see [`crate::kernel`].
#[derive(Module, Debug)]
pub(crate) struct PackedMatrix {
    bytes: Param<Tensor<1, Int>>,
    scales: Param<Tensor<1>>,
    n: usize,
    k: usize,
    #[module(skip)]
    path: KernelPath,
}

/// `[out, in]` in f32.
#[derive(Module, Debug)]
pub(crate) struct DenseMatrix {
    weight: Param<Tensor<2>>,
}

/// A root-mean-square norm with a learnt scale.
#[derive(Module, Debug)]
pub(crate) struct RmsNorm {
    weight: Param<Tensor<1>>,
    eps: f64,
}

impl Projection {
    pub(super) fn packed(packed: Packed, path: KernelPath, device: &Device) -> Self {
        let Shape { n, k } = packed.shape;
        let bytes = TensorData::from_bytes_vec(packed.bytes, [n * k], DType::U8);
        let scales = TensorData::new(packed.scales, [n * k / crate::kernel::BLOCK]);
        Self::Packed(PackedMatrix {
            bytes: param(Tensor::from_data(bytes, (device, DType::U8))),
            scales: param(Tensor::from_data(scales, (device, DType::F16))),
            n,
            k,
            path,
        })
    }

    pub(super) fn dense(weights: Vec<f32>, shape: Shape, device: &Device) -> Self {
        let data = TensorData::new(weights, [shape.n, shape.k]);
        Self::Dense(DenseMatrix {
            weight: param(Tensor::from_data(data, device)),
        })
    }

    /// `x · wᵀ` for `x` of `[tokens, in]`.
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Packed(w) => ops::packed_linear(x, w.tensors(), w.shape(), w.path),
            Self::Dense(w) => x.matmul(w.weight.val().transpose()),
        }
    }

    /// Rows by number: the embedding of tokens.
    pub(super) fn rows(&self, ids: &[u32], device: &Device) -> Tensor<2> {
        match self {
            Self::Packed(w) => ops::packed_rows(w.tensors(), w.shape(), ids),
            Self::Dense(w) => {
                let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
                let count = ids.len();
                let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), device);
                w.weight.val().select(0, ids)
            }
        }
    }

    /// Whether a row's result is the same alone and among others.
    pub(super) fn is_row_exact(&self) -> bool {
        matches!(self, Self::Packed(_))
    }
}

impl PackedMatrix {
    fn tensors(&self) -> (Tensor<1, Int>, Tensor<1>) {
        (self.bytes.val(), self.scales.val())
    }

    fn shape(&self) -> Shape {
        Shape {
            n: self.n,
            k: self.k,
        }
    }
}

impl RmsNorm {
    pub(super) fn new(weight: Vec<f32>, eps: f32, device: &Device) -> Self {
        let width = weight.len();
        let data = TensorData::new(weight, [width]);
        Self {
            weight: param(Tensor::from_data(data, device)),
            eps: f64::from(eps),
        }
    }

    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::rms_norm(x, self.weight.val(), self.eps as f32)
    }
}

fn param<T: burn::module::Parameter>(tensor: T) -> Param<T> {
    Param::initialized(ParamId::new(), tensor)
}
