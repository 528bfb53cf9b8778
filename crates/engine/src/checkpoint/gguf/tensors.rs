//! A GGUF file's tensors in Hugging Face's form: by its names, with what the
//! conversion did to the values undone.

use std::collections::BTreeMap;

use super::architecture::{Architecture, Place};
use super::header::TensorInfo;
use super::shape::Shape;
use crate::checkpoint::safetensors::check_range;
use crate::checkpoint::{CheckpointError, ReadAt, TensorSource};

/// The tensors of one GGUF file.
pub(super) struct GgufTensors {
    file: Box<dyn ReadAt>,
    name: String,
    tensors: BTreeMap<String, Tensor>,
}

struct Tensor {
    info: TensorInfo,
    change: Change,
}

/// What the conversion from Hugging Face's form did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Nothing,
    /// Rotary embeddings turn neighbours there and halves here: within each
    /// head of `head` rows, row `2i + j` is Hugging Face's `i + j * head / 2`.
    Interleaved {
        head: usize,
    },
    /// Gemma's norms multiply by one more than their weight; the file has the
    /// sum.
    PlusOne,
}

impl Change {
    /// The file's row that is Hugging Face's `row`.
    fn source(self, row: usize) -> usize {
        let Self::Interleaved { head } = self else {
            return row;
        };
        let (start, within) = (row / head * head, row % head);
        start + within % (head / 2) * 2 + within / (head / 2)
    }
}

impl GgufTensors {
    /// Names and checks the tensors of a header.
    pub(super) fn new(
        name: &str,
        file: Box<dyn ReadAt>,
        tensors: BTreeMap<String, TensorInfo>,
        architecture: Architecture,
        shape: &Shape,
    ) -> Result<Self, CheckpointError> {
        let mut named = BTreeMap::new();
        for (tensor, info) in tensors {
            let Some(place) = architecture.place(&tensor) else {
                return Err(CheckpointError::tensor(
                    name,
                    &tensor,
                    "it has no place in the model",
                    format!("the tensors of a {}", architecture.prefix()),
                ));
            };
            let Place::Weight {
                name: hugging,
                layer,
            } = place
            else {
                continue;
            };
            if layer.is_some_and(|layer| layer >= shape.layers) {
                return Err(CheckpointError::tensor(
                    name,
                    &tensor,
                    "it is of a layer that the model does not have",
                    format!("layers below {}, as block_count says", shape.layers),
                ));
            }
            let change = change(name, &tensor, &hugging, &info, architecture, shape)?;
            named.insert(hugging, Tensor { info, change });
        }
        Ok(Self {
            file,
            name: name.to_owned(),
            tensors: named,
        })
    }
}

fn change(
    file: &str,
    tensor: &str,
    hugging: &str,
    info: &TensorInfo,
    architecture: Architecture,
    shape: &Shape,
) -> Result<Change, CheckpointError> {
    if architecture.is_gemma() && hugging.ends_with("norm.weight") {
        return Ok(Change::PlusOne);
    }
    let heads = if hugging.contains(".q_proj.") {
        shape.heads
    } else if hugging.contains(".k_proj.") {
        shape.kv_heads
    } else {
        return Ok(Change::Nothing);
    };
    if architecture != Architecture::Llama {
        return Ok(Change::Nothing);
    }
    let rows = info.shape.first().copied().unwrap_or(1);
    let head = usize::try_from(heads)
        .ok()
        .filter(|heads| rows.is_multiple_of(*heads))
        .map(|heads| rows / heads)
        .filter(|head| head.is_multiple_of(2) && *head > 0);
    match head {
        Some(head) => Ok(Change::Interleaved { head }),
        None => Err(CheckpointError::tensor(
            file,
            tensor,
            format!("it has {rows} rows"),
            format!("{heads} heads of an even size"),
        )),
    }
}

impl TensorSource for GgufTensors {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| &*tensor.info.shape)
    }

    fn dtype_name(&self, name: &str) -> Option<&str> {
        self.tensors.get(name).map(|tensor| tensor.info.kind.name())
    }

    fn read(&self, name: &str, first: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        let tensor = self
            .tensors
            .get(name)
            .ok_or_else(|| CheckpointError::Missing {
                file: self.name.clone(),
                tensor: name.to_owned(),
            })?;
        let info = &tensor.info;
        check_range(&self.name, name, first, out.len(), info.values)?;
        let read = |first, out: &mut [f32]| {
            info.kind
                .read(&*self.file, info.offset, first, out)
                .map_err(|source| CheckpointError::Read {
                    file: self.name.clone(),
                    source,
                })
        };
        match tensor.change {
            Change::Nothing => read(first, out),
            Change::PlusOne => {
                read(first, out)?;
                out.iter_mut().for_each(|value| *value -= 1.0);
                Ok(())
            }
            Change::Interleaved { .. } => {
                // A vector's rows have one value.
                let width = info.shape.iter().skip(1).product();
                rows(width, first, out, |row, column, out| {
                    read(tensor.change.source(row) * width + column, out)
                })
            }
        }
    }
}

/// Reads row by row: `each` gets a row, the first column and where the values
/// go.
fn rows(
    width: usize,
    mut first: usize,
    mut out: &mut [f32],
    mut each: impl FnMut(usize, usize, &mut [f32]) -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    while !out.is_empty() {
        let column = first % width;
        let count = (width - column).min(out.len());
        let (now, later) = std::mem::take(&mut out).split_at_mut(count);
        each(first / width, column, now)?;
        first += count;
        out = later;
    }
    Ok(())
}
