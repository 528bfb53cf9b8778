//! Reading tensors by name out of safetensors bytes, every mismatch named.

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensorError, SafeTensors};

use crate::kernel::{BLOCK, PackError, Shape};

/// The suffix that holds the scales of a quantised tensor.
pub(crate) const SCALES: &str = ".scales";

/// Why a checkpoint's tensors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// The file is not safetensors.
    #[error("model.safetensors has no valid header")]
    Header(#[source] SafeTensorError),
    /// A tensor the architecture needs is absent.
    #[error("model.safetensors: tensor {name} is missing")]
    Missing {
        /// The tensor.
        name: String,
    },
    /// A tensor's shape is not what `config.json` implies.
    #[error(
        "model.safetensors: tensor {name} has shape {found:?}, config.json implies {expected:?}"
    )]
    Shape {
        /// The tensor.
        name: String,
        /// What the configuration implies.
        expected: Vec<usize>,
        /// What the file has.
        found: Vec<usize>,
    },
    /// A tensor has a type that is not read.
    #[error("model.safetensors: tensor {name} has type {found:?}; supported: {supported}")]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        found: Dtype,
        /// What can be read in its place.
        supported: &'static str,
    },
    /// A tensor's values cannot be packed.
    #[error("model.safetensors: tensor {name} cannot be packed")]
    Pack {
        /// The tensor.
        name: String,
        /// The reason.
        #[source]
        source: PackError,
    },
    /// A weight is NaN or infinite.
    #[error("model.safetensors: tensor {name} holds a value that is not finite")]
    NotFinite {
        /// The tensor.
        name: String,
    },
}

/// A checkpoint's tensors, borrowed from the file's bytes.
pub(crate) struct Tensors<'a>(SafeTensors<'a>);

/// A matrix as the file holds it.
pub(crate) enum Matrix {
    Dense(Vec<f32>),
    Quantized { values: Vec<i8>, scales: Vec<f16> },
}

impl<'a> Tensors<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, TensorError> {
        SafeTensors::deserialize(bytes)
            .map(Self)
            .map_err(TensorError::Header)
    }

    /// A vector of floats.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, TensorError> {
        let view = self.view(name, &[len])?;
        floats(name, &view)
    }

    /// A matrix of floats, or of int8 with a scale for each 32 inputs.
    pub(crate) fn matrix(&self, name: &str, shape: Shape) -> Result<Matrix, TensorError> {
        let view = self.view(name, &[shape.n, shape.k])?;
        if view.dtype() != Dtype::I8 {
            return Ok(Matrix::Dense(floats(name, &view)?));
        }
        let scales_name = format!("{name}{SCALES}");
        let scales = self.view(&scales_name, &[shape.n, shape.k / BLOCK])?;
        if scales.dtype() != Dtype::F16 {
            let found = scales.dtype();
            return Err(TensorError::Type {
                name: scales_name,
                found,
                supported: "F16",
            });
        }
        Ok(Matrix::Quantized {
            values: view.data().iter().map(|b| b.cast_signed()).collect(),
            scales: scales
                .data()
                .chunks_exact(2)
                .map(|b| f16::from_le_bytes([b[0], b[1]]))
                .collect(),
        })
    }

    fn view(&self, name: &str, expected: &[usize]) -> Result<TensorView<'a>, TensorError> {
        let view = self.0.tensor(name).map_err(|_| TensorError::Missing {
            name: name.to_owned(),
        })?;
        if view.shape() != expected {
            return Err(TensorError::Shape {
                name: name.to_owned(),
                expected: expected.to_vec(),
                found: view.shape().to_vec(),
            });
        }
        Ok(view)
    }
}

fn floats(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, TensorError> {
    let data = view.data();
    let pairs = || data.chunks_exact(2).map(|b| [b[0], b[1]]);
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => data
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        found => {
            let supported = "F32, F16, BF16, and I8 for matrices";
            return Err(TensorError::Type {
                name: name.to_owned(),
                found,
                supported,
            });
        }
    };
    if values.iter().any(|v| !v.is_finite()) {
        return Err(TensorError::NotFinite {
            name: name.to_owned(),
        });
    }
    Ok(values)
}
