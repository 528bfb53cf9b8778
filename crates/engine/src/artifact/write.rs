//! Writing an artifact's weights: a file whose places are known before the
//! first value is read, so that nothing is held that is not being packed.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;

use rayon::prelude::*;
use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};

use super::packed::{SCALES, tiles_as};
use super::source::Source;
use super::{ImportError, ImportProgress, TensorError};
use crate::config::{TensorKind, TensorSpec};
use crate::kernel::{Encoding, Packer, ROWS, Shape};

/// Values that are read and packed at a time, at most, but for a single row
/// of tiles.
const CHUNK: usize = 4 << 20;
/// Tensors begin at multiples of a cache line.
const ALIGN: usize = 64;

/// Where everything goes.
pub(super) struct Layout {
    header: Vec<u8>,
    tensors: Vec<Placed>,
    values: u64,
}

struct Placed {
    spec: TensorSpec,
    /// How it is packed; as F32 if not at all.
    encoding: Option<Encoding>,
    /// Places of the values and of the scales in the file.
    at: usize,
    scales_at: usize,
}

impl Layout {
    /// Tiles come first, then scales, then floats: so tiles lie on cache lines
    /// without gaps, which the format does not allow.
    pub(super) fn new(specs: Vec<TensorSpec>, encoding: Option<Encoding>) -> Self {
        let mut tensors: Vec<Placed> = specs
            .into_iter()
            .map(|spec| Placed {
                encoding: encoding.filter(|_| matches!(spec.kind, TensorKind::Matrix(_))),
                spec,
                at: 0,
                scales_at: 0,
            })
            .collect();
        let mut entries = Map::new();
        let mut end = 0;
        let mut place = |name: String, (dtype, shape): (Dtype, Vec<usize>), bytes: usize| {
            let entry = json!({
                "dtype": dtype, "shape": shape, "data_offsets": [end, end + bytes],
            });
            entries.insert(name, entry);
            end += bytes;
            end - bytes
        };
        for tensor in &mut tensors {
            if let (Some(encoding), TensorKind::Matrix(shape)) = (tensor.encoding, tensor.spec.kind)
            {
                let bytes = shape.bytes(encoding);
                tensor.at = place(tensor.spec.name.clone(), tiles_as(encoding, shape), bytes);
            }
        }
        for tensor in &mut tensors {
            if let (Some(encoding), TensorKind::Matrix(shape)) = (tensor.encoding, tensor.spec.kind)
                && encoding.scale_bytes() > 0
            {
                let name = format!("{}{SCALES}", tensor.spec.name);
                let cells = vec![shape.tiles(), shape.blocks(), ROWS];
                tensor.scales_at = place(name, (Dtype::F16, cells), shape.scale_bytes(encoding));
            }
        }
        for tensor in tensors
            .iter_mut()
            .filter(|tensor| tensor.encoding.is_none())
        {
            let shape = tensor.spec.shape();
            let bytes = shape.iter().product::<usize>() * 4;
            tensor.at = place(tensor.spec.name.clone(), (Dtype::F32, shape), bytes);
        }
        let values = |tensor: &Placed| tensor.spec.shape().iter().product::<usize>() as u64;
        Self {
            header: header(&entries),
            values: tensors.iter().map(values).sum(),
            tensors,
        }
    }

    /// Reads, packs and writes tensor after tensor.
    pub(super) fn write(
        &self,
        source: &Source,
        file: &mut File,
        progress: &mut dyn FnMut(ImportProgress<'_>) -> ControlFlow<()>,
    ) -> Result<(), ImportError> {
        let mut out = Output {
            file,
            data: self.header.len(),
        };
        out.file
            .write_all(&self.header)
            .map_err(ImportError::Weights)?;
        let mut done = 0;
        for tensor in &self.tensors {
            let mut report = |values: usize| {
                done += values as u64;
                let told = progress(ImportProgress {
                    tensor: &tensor.spec.name,
                    done_values: done,
                    total_values: self.values,
                });
                match told {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => Err(ImportError::Cancelled),
                }
            };
            match (tensor.encoding, tensor.spec.kind) {
                (Some(encoding), TensorKind::Matrix(shape)) => {
                    packed(source, tensor, (encoding, shape), &mut out, &mut report)?;
                }
                _ => floats(source, tensor, &mut out, &mut report)?,
            }
        }
        Ok(())
    }
}

/// The length and the entries, filled up with spaces.
fn header(entries: &Map<String, Value>) -> Vec<u8> {
    let mut json = serde_json::to_vec(entries).expect("entries are plain data");
    json.resize((8 + json.len()).next_multiple_of(ALIGN) - 8, b' ');
    [&(json.len() as u64).to_le_bytes()[..], &json].concat()
}

struct Output<'a> {
    file: &'a mut File,
    data: usize,
}

impl Output<'_> {
    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), ImportError> {
        let place = SeekFrom::Start((self.data + at) as u64);
        self.file.seek(place).map_err(ImportError::Weights)?;
        self.file.write_all(bytes).map_err(ImportError::Weights)
    }
}

fn floats(
    source: &Source,
    tensor: &Placed,
    out: &mut Output<'_>,
    report: &mut dyn FnMut(usize) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let all: usize = tensor.spec.shape().iter().product();
    let mut values = vec![0.0; all.min(CHUNK)];
    for first in (0..all).step_by(CHUNK) {
        let values = &mut values[..CHUNK.min(all - first)];
        source.read(&tensor.spec.name, first, values)?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        out.write(tensor.at + first * 4, &bytes)?;
        report(values.len())?;
    }
    Ok(())
}

fn packed(
    source: &Source,
    tensor: &Placed,
    (encoding, shape): (Encoding, Shape),
    out: &mut Output<'_>,
    report: &mut dyn FnMut(usize) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let Shape { n, k } = shape;
    let width = shape.blocks() * encoding.tile_bytes();
    let scale_width = shape.blocks() * encoding.scale_bytes();
    let rows = (CHUNK / k / ROWS).max(1) * ROWS;
    let mut values = vec![0.0; rows.min(n) * k];
    for first in (0..n).step_by(rows) {
        let count = rows.min(n - first);
        let values = &mut values[..count * k];
        source.read(&tensor.spec.name, first * k, values)?;
        let tiles = count.div_ceil(ROWS);
        let mut bytes = vec![0; tiles * width];
        let mut scales = vec![0; tiles * scale_width];
        let pack = |(index, (rows, tile)): (usize, (&[f32], &mut [u8]))| {
            let mut scales = vec![0; scale_width];
            Packer::new(encoding, k, first + index * ROWS).tile_row(rows, tile, &mut scales)?;
            Ok(scales)
        };
        let packed: Result<Vec<Vec<u8>>, _> = values
            .par_chunks(ROWS * k)
            .zip(bytes.par_chunks_mut(width))
            .enumerate()
            .map(pack)
            .collect();
        let packed = packed.map_err(|source| TensorError::Pack {
            name: tensor.spec.name.clone(),
            source,
        })?;
        for (to, from) in scales.chunks_exact_mut(scale_width.max(1)).zip(&packed) {
            to.copy_from_slice(from);
        }
        let tile = first / ROWS;
        out.write(tensor.at + tile * width, &bytes)?;
        out.write(tensor.scales_at + tile * scale_width, &scales)?;
        report(count * k)?;
    }
    Ok(())
}
