//! The weights of an artifact: tensors of a mapped safetensors file.

use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::TensorError;
use crate::kernel::{Encoding, PackedMatrix, ROWS, Shape, Storage};
use crate::model::{Matrix, Weights};

/// The suffix that holds the scales of a quantised tensor.
pub(super) const SCALES: &str = ".scales";

/// How an encoding's tiles are typed in the file, and their shape.
pub(super) fn tiles_as(encoding: Encoding, shape: Shape) -> (Dtype, Vec<usize>) {
    let (dtype, size) = match encoding {
        Encoding::Q8 | Encoding::Q4 => (Dtype::U8, 1),
        Encoding::F16 => (Dtype::F16, 2),
        Encoding::F32 => (Dtype::F32, 4),
    };
    let cells = encoding.tile_bytes() / size;
    (dtype, vec![shape.tiles(), shape.blocks(), cells])
}

pub(super) struct PackedWeights {
    map: Arc<Mmap>,
    metadata: Metadata,
    /// Where the tensors begin.
    data: usize,
}

impl PackedWeights {
    pub(super) fn parse(map: Arc<Mmap>) -> Result<Self, TensorError> {
        // The whole file, so that offsets are held against its length.
        SafeTensors::deserialize(&map).map_err(TensorError::Header)?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(TensorError::Header)?;
        Ok(Self {
            map,
            metadata,
            data: header + 8,
        })
    }

    fn info(&self, name: &str, expected: &[usize]) -> Result<&TensorInfo, TensorError> {
        self.metadata
            .info(name)
            .ok_or_else(|| TensorError::Missing {
                name: name.to_owned(),
                expected: expected.to_vec(),
            })
    }

    /// Where a tensor of this type and shape lies.
    fn range(
        &self,
        name: &str,
        (dtype, expected): (Dtype, &[usize]),
    ) -> Result<Range<usize>, TensorError> {
        let info = self.info(name, expected)?;
        if info.dtype != dtype {
            return Err(TensorError::Type {
                name: name.to_owned(),
                found: format!("{:?}", info.dtype),
                supported: match dtype {
                    Dtype::F32 => "F32",
                    Dtype::F16 => "F16",
                    _ => "U8",
                },
            });
        }
        if info.shape != expected {
            return Err(TensorError::Shape {
                name: name.to_owned(),
                expected: expected.to_vec(),
                found: info.shape.clone(),
            });
        }
        Ok(self.data + info.data_offsets.0..self.data + info.data_offsets.1)
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TensorError> {
        let range = self.range(name, (Dtype::F32, shape))?;
        let bytes = self.map[range].chunks_exact(4);
        let values: Vec<f32> = bytes
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        match values.iter().all(|v| v.is_finite()) {
            true => Ok(values),
            false => Err(TensorError::NotFinite {
                name: name.to_owned(),
            }),
        }
    }

    fn packed(
        &self,
        name: &str,
        shape: Shape,
        encoding: Encoding,
    ) -> Result<PackedMatrix, TensorError> {
        let (dtype, tiles) = tiles_as(encoding, shape);
        let tiles = Storage::mapped(&self.map, self.range(name, (dtype, &tiles))?);
        let scales = match encoding {
            Encoding::F16 | Encoding::F32 => Storage::zeroed(0),
            Encoding::Q8 | Encoding::Q4 => {
                let name = format!("{name}{SCALES}");
                let expected = [shape.tiles(), shape.blocks(), ROWS];
                Storage::mapped(&self.map, self.range(&name, (Dtype::F16, &expected))?)
            }
        };
        Ok(PackedMatrix::new(encoding, shape, tiles, scales))
    }
}

impl Weights for PackedWeights {
    fn matrix(&self, name: &str, shape: Shape) -> Result<Matrix, TensorError> {
        let info = self.info(name, &[shape.n, shape.k])?;
        let encoding = match (info.dtype, info.shape.last()) {
            (Dtype::F32, _) => return Ok(Matrix::Dense(self.floats(name, &[shape.n, shape.k])?)),
            (Dtype::F16, _) => Encoding::F16,
            (_, Some(cells)) if *cells == Encoding::Q4.tile_bytes() => Encoding::Q4,
            _ => Encoding::Q8,
        };
        self.packed(name, shape, encoding).map(Matrix::Packed)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, TensorError> {
        self.floats(name, &[len])
    }

    fn table(&self, name: &str, shape: Shape) -> Result<Vec<f32>, TensorError> {
        self.floats(name, &[shape.n, shape.k])
    }
}
