//! From tensors by name to the modules that compute with them.

use burn::tensor::Device;

use super::device;
use super::layers::{GpuLinear, LayerNorm, PackedLinear, Projection, RmsNorm};
use super::stack::Norm;
use crate::artifact::TensorError;
use crate::gpu;
use crate::kernel::{Encoding, KernelPath, PackedMatrix, Shape, pack};

/// How matrices are held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// Packed tiles for this code path; float matrices are packed on the way in.
    Packed(Encoding, KernelPath),
    /// f32, as the file has them. For comparison with other programs.
    Dense,
    /// f32 on the graphics adapter, from a file with matrices encoded so; what
    /// stays on the processor is packed for this path.
    Gpu(Option<Encoding>, KernelPath),
}

impl Precision {
    /// How the same model's matrices are held on the processor.
    pub(super) fn on_host(self) -> Self {
        match self {
            Self::Gpu(Some(encoding), path) => Self::Packed(encoding, path),
            Self::Gpu(None, _) => Self::Dense,
            host => host,
        }
    }

    /// How the file's matrices are encoded; none are f32.
    pub(crate) fn encoding(self) -> Option<Encoding> {
        match self.on_host() {
            Self::Packed(encoding, _) => Some(encoding),
            _ => None,
        }
    }
}

/// A matrix as its file holds it.
pub(crate) enum Matrix {
    Dense(Vec<f32>),
    Packed(PackedMatrix),
}

/// Tensors by the architecture's names.
pub(crate) trait Weights {
    /// A matrix of a linear layer, or an embedding.
    fn matrix(&self, name: &str, shape: Shape) -> Result<Matrix, TensorError>;

    /// A norm or a bias.
    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, TensorError>;

    /// A small table of floats.
    fn table(&self, name: &str, shape: Shape) -> Result<Vec<f32>, TensorError>;
}

/// Makes modules from named tensors.
pub(super) struct Builder<'a> {
    pub(super) weights: &'a dyn Weights,
    pub(super) precision: Precision,
    pub(super) device: Device,
}

/// One matrix of a projection.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) outputs: usize,
    pub(super) bias: bool,
}

impl<'a> Builder<'a> {
    pub(super) fn new(weights: &'a dyn Weights, precision: Precision) -> Self {
        let device = match precision {
            // A path on the adapter is proof that it was opened.
            Precision::Gpu(..) => gpu::open().map_or_else(|_| device(), |a| a.device.clone()),
            _ => device(),
        };
        Self {
            weights,
            precision,
            device,
        }
    }

    /// The same for what stays on the processor.
    pub(super) fn on_host(&self) -> Self {
        Self::new(self.weights, self.precision.on_host())
    }

    /// Matrices with the same inputs as one projection, their outputs side by
    /// side.
    pub(super) fn projection(&self, parts: &[Part], k: usize) -> Result<Projection, TensorError> {
        match self.precision {
            Precision::Packed(encoding, path) => {
                let packed = self.packed_linear(parts, k, (encoding, path))?;
                Ok(Projection::Packed(packed))
            }
            Precision::Dense => {
                let mut values = Vec::new();
                for part in parts {
                    let shape = Shape { n: part.outputs, k };
                    values.extend(self.dense(&format!("{}.weight", part.name), shape)?);
                }
                let n = parts.iter().map(|part| part.outputs).sum();
                Ok(Projection::dense(
                    values,
                    Shape { n, k },
                    self.bias(parts)?,
                    &self.device,
                ))
            }
            Precision::Gpu(..) => Ok(Projection::Gpu(self.gpu_linear(parts, k)?)),
        }
    }

    /// [`Self::projection`] on the graphics adapter, unpacked and sent there
    /// piece by piece.
    fn gpu_linear(&self, parts: &[Part], k: usize) -> Result<GpuLinear, TensorError> {
        let piece = gpu::open().map_or(usize::MAX, |adapter| adapter.piece_bytes);
        let most = (piece / (k * size_of::<f32>())).max(1);
        let mut linear = GpuLinear::new(self.bias(parts)?, &self.device);
        let mut rows = Vec::new();
        for part in parts {
            let name = format!("{}.weight", part.name);
            let shape = Shape { n: part.outputs, k };
            let matrix = self.weights.matrix(&name, shape)?;
            for row in 0..shape.n {
                match &matrix {
                    Matrix::Dense(weights) => rows.extend_from_slice(&weights[row * k..][..k]),
                    Matrix::Packed(matrix) => crate::kernel::unpack_row(matrix, row, &mut rows),
                }
                if rows.len() == most * k {
                    linear.push(std::mem::take(&mut rows), k, &self.device);
                }
            }
        }
        if !rows.is_empty() {
            linear.push(rows, k, &self.device);
        }
        Ok(linear)
    }

    /// Waits until the device has all that was sent there.
    pub(super) fn finish(&self) -> Result<(), TensorError> {
        if !gpu::holds(&self.device) {
            return Ok(());
        }
        let sent = self.device.sync();
        sent.map_err(|error| TensorError::Adapter {
            reason: error.to_string(),
        })
    }

    /// [`Self::projection`] where matrices are packed in any case.
    pub(super) fn packed_linear(
        &self,
        parts: &[Part],
        k: usize,
        (encoding, path): (Encoding, KernelPath),
    ) -> Result<PackedLinear, TensorError> {
        let packed = |part: &Part| {
            let shape = Shape { n: part.outputs, k };
            self.packed(&format!("{}.weight", part.name), shape, encoding)
        };
        Ok(PackedLinear {
            parts: parts.iter().map(packed).collect::<Result<_, _>>()?,
            path,
            bias: self.bias(parts)?,
        })
    }

    /// The biases of all parts side by side, zeros where a part has none.
    fn bias(&self, parts: &[Part]) -> Result<Option<Vec<f32>>, TensorError> {
        if parts.iter().all(|part| !part.bias) {
            return Ok(None);
        }
        let mut all = Vec::new();
        for part in parts {
            match part.bias {
                true => {
                    let name = format!("{}.bias", part.name);
                    all.extend(self.weights.vector(&name, part.outputs)?);
                }
                false => all.resize(all.len() + part.outputs, 0.0),
            }
        }
        Ok(Some(all))
    }

    fn packed(
        &self,
        name: &str,
        shape: Shape,
        encoding: Encoding,
    ) -> Result<PackedMatrix, TensorError> {
        match self.weights.matrix(name, shape)? {
            Matrix::Packed(matrix) => Ok(matrix),
            Matrix::Dense(weights) => {
                pack(&weights, shape, encoding).map_err(|source| TensorError::Pack {
                    name: name.to_owned(),
                    source,
                })
            }
        }
    }

    fn dense(&self, name: &str, shape: Shape) -> Result<Vec<f32>, TensorError> {
        Ok(match self.weights.matrix(name, shape)? {
            Matrix::Dense(weights) => weights,
            Matrix::Packed(matrix) => {
                let mut values = Vec::with_capacity(shape.n * shape.k);
                for row in 0..shape.n {
                    crate::kernel::unpack_row(&matrix, row, &mut values);
                }
                values
            }
        })
    }

    /// A root-mean-square norm whose weights are stored less `offset`.
    pub(super) fn rms_norm(
        &self,
        name: &str,
        width: usize,
        (offset, eps): (f32, f32),
    ) -> Result<RmsNorm, TensorError> {
        let mut weight = self.weights.vector(name, width)?;
        weight.iter_mut().for_each(|w| *w += offset);
        Ok(RmsNorm::new(weight, eps, &self.device))
    }

    pub(super) fn layer_norm(
        &self,
        name: &str,
        width: usize,
        eps: f32,
    ) -> Result<LayerNorm, TensorError> {
        let weight = self.weights.vector(&format!("{name}.weight"), width)?;
        let bias = self.weights.vector(&format!("{name}.bias"), width)?;
        Ok(LayerNorm::new(weight, bias, eps, &self.device))
    }

    /// A layer norm as a [`stack`](super::stack) reads it.
    pub(super) fn norm(&self, name: &str, width: usize, eps: f32) -> Result<Norm, TensorError> {
        Ok(Norm {
            weight: self.weights.vector(&format!("{name}.weight"), width)?,
            bias: self.weights.vector(&format!("{name}.bias"), width)?,
            eps,
        })
    }
}
