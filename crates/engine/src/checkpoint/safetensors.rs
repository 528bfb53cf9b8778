//! One safetensors file: a header of JSON, then the tensors' bytes.
//!
//! The header is checked whole when the file is opened; afterwards each read
//! is a positioned read of the range that was asked for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use safetensors::tensor::Dtype;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::floats::FloatType;
use super::{CheckpointError, ReadAt, TensorSource};

/// The format's own bound on its header, in bytes.
const MAX_HEADER: u64 = 100_000_000;
/// The bytes that say how long the header is.
const LENGTH: u64 = 8;
/// More axes than any weight has; a bound on what an entry may hold.
const MAX_RANK: usize = 8;
const SUPPORTED: &str = "F32, F16, BF16 and F64";

/// The tensors of one safetensors file.
pub struct SafetensorsFile {
    file: Box<dyn ReadAt>,
    name: String,
    tensors: BTreeMap<String, Tensor>,
}

struct Tensor {
    dtype: Dtype,
    /// How messages call the type.
    dtype_name: String,
    shape: Vec<usize>,
    /// The product of the shape.
    values: usize,
    /// Of its first byte in the file.
    offset: u64,
}

impl SafetensorsFile {
    /// Reads and checks the header of `file`, which errors call `name`.
    ///
    /// # Errors
    ///
    /// When the header is not what the format demands or does not fit the
    /// file, naming the tensor.
    pub fn open(name: &str, file: impl ReadAt + 'static) -> Result<Self, CheckpointError> {
        let size = file.size();
        let mut length = [0; LENGTH as usize];
        if size < LENGTH {
            return Err(CheckpointError::header(
                name,
                format!("it has {size} bytes"),
                "at least the 8 that say how long the header is",
            ));
        }
        let read = |offset, out: &mut [u8]| {
            file.read_exact_at(offset, out)
                .map_err(|source| CheckpointError::Read {
                    file: name.to_owned(),
                    source,
                })
        };
        read(0, &mut length)?;
        let length = u64::from_le_bytes(length);
        let most = MAX_HEADER.min(size - LENGTH);
        if length > most {
            return Err(CheckpointError::header(
                name,
                format!("the header is said to have {length} bytes"),
                format!("at most {most}, as the file has {size}"),
            ));
        }
        // It fits: `length` is at most a hundred million.
        let mut header = vec![0; length as usize];
        read(LENGTH, &mut header)?;
        let entries = parse(name, &header)?;
        let tensors = lay_out(name, entries, LENGTH + length, size)?;
        Ok(Self {
            file: Box::new(file),
            name: name.to_owned(),
            tensors,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn tensor(&self, name: &str) -> Result<&Tensor, CheckpointError> {
        self.tensors
            .get(name)
            .ok_or_else(|| CheckpointError::Missing {
                file: self.name.clone(),
                tensor: name.to_owned(),
            })
    }
}

impl TensorSource for SafetensorsFile {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| &*tensor.shape)
    }

    fn dtype_name(&self, name: &str) -> Option<&str> {
        self.tensors.get(name).map(|tensor| &*tensor.dtype_name)
    }

    fn read(&self, name: &str, first: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        let tensor = self.tensor(name)?;
        let kind = match tensor.dtype {
            Dtype::F16 => FloatType::F16,
            Dtype::BF16 => FloatType::Bf16,
            Dtype::F32 => FloatType::F32,
            Dtype::F64 => FloatType::F64,
            _ => {
                return Err(CheckpointError::Type {
                    file: self.name.clone(),
                    tensor: name.to_owned(),
                    found: tensor.dtype_name.clone(),
                    supported: SUPPORTED,
                });
            }
        };
        check_range(&self.name, name, first, out.len(), tensor.values)?;
        // No overflow: the whole tensor lies inside the file.
        let offset = tensor.offset + (first * kind.size()) as u64;
        kind.read(&*self.file, offset, out)
            .map_err(|source| CheckpointError::Read {
                file: self.name.clone(),
                source,
            })
    }
}

/// Refuses to read past a tensor's end.
pub(super) fn check_range(
    file: &str,
    tensor: &str,
    first: usize,
    count: usize,
    has: usize,
) -> Result<(), CheckpointError> {
    if first.checked_add(count).is_some_and(|end| end <= has) {
        return Ok(());
    }
    Err(CheckpointError::Range {
        file: file.to_owned(),
        tensor: tensor.to_owned(),
        first,
        count,
        has,
    })
}

/// A tensor's entry as the header has it.
#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

fn parse(name: &str, header: &[u8]) -> Result<BTreeMap<String, RawTensor>, CheckpointError> {
    let json = |source| CheckpointError::Json {
        file: format!("the header of {name}"),
        source,
    };
    let mut json_header = serde_json::Deserializer::from_slice(header);
    let entries = Header.deserialize(&mut json_header).map_err(json)?;
    json_header.end().map_err(json)?;
    Ok(entries)
}

/// A map would keep the last of two tensors of one name and lose the first.
struct Header;

impl<'de> DeserializeSeed<'de> for Header {
    type Value = BTreeMap<String, RawTensor>;

    fn deserialize<D: Deserializer<'de>>(self, header: D) -> Result<Self::Value, D::Error> {
        header.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Header {
    type Value = BTreeMap<String, RawTensor>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            match entries.entry(name) {
                Entry::Occupied(taken) => {
                    return Err(A::Error::custom(format!(
                        "two tensors are called {}",
                        taken.key()
                    )));
                }
                Entry::Vacant(free) => {
                    let tensor = map.next_value().map_err(|error| {
                        A::Error::custom(format!("tensor {}: {error}", free.key()))
                    })?;
                    free.insert(tensor);
                }
            }
        }
        Ok(entries)
    }
}

/// Places the tensors, which must fill the file from `start` to `size` without
/// a gap and without an overlap.
fn lay_out(
    file: &str,
    entries: BTreeMap<String, RawTensor>,
    start: u64,
    size: u64,
) -> Result<BTreeMap<String, Tensor>, CheckpointError> {
    let data = size - start;
    let mut tensors = BTreeMap::new();
    let mut extents = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let (begin, end) = entry.data_offsets;
        extents.push((begin, end, name.clone()));
        let tensor = check(file, &name, entry, data)?;
        let offset = start + begin;
        tensors.insert(name, Tensor { offset, ..tensor });
    }
    // Empty tensors sort before what begins where they are.
    extents.sort_unstable();
    let mut filled = 0;
    for (begin, end, name) in extents {
        if begin != filled {
            return Err(CheckpointError::tensor(
                file,
                &name,
                format!("its bytes begin at {begin} of the data"),
                format!("{filled}, where those of the tensor before it end"),
            ));
        }
        filled = end;
    }
    if filled != data {
        return Err(CheckpointError::header(
            file,
            format!("the tensors end at {filled} of the data"),
            format!("{data}, where the file ends"),
        ));
    }
    Ok(tensors)
}

/// Checks one tensor for itself; its offset is left to the caller.
fn check(file: &str, name: &str, entry: RawTensor, data: u64) -> Result<Tensor, CheckpointError> {
    let wrong =
        |found: String, expected: String| Err(CheckpointError::tensor(file, name, found, expected));
    let dtype: Result<Dtype, serde::de::value::Error> =
        Dtype::deserialize(entry.dtype.as_str().into_deserializer());
    let Ok(dtype) = dtype else {
        return wrong(
            format!("its type is {:?}", entry.dtype),
            "a type of the safetensors format, as F16".to_owned(),
        );
    };
    if entry.shape.len() > MAX_RANK {
        return wrong(
            format!("it has {} axes", entry.shape.len()),
            format!("at most {MAX_RANK}"),
        );
    }
    let (begin, end) = entry.data_offsets;
    if begin > end || end > data {
        return wrong(
            format!("its bytes are {begin} to {end} of the data"),
            format!("a range inside the {data} bytes of data"),
        );
    }
    let shape: Option<Vec<usize>> = entry
        .shape
        .iter()
        .map(|axis| usize::try_from(*axis).ok())
        .collect();
    let values = shape.as_ref().and_then(|shape| {
        shape
            .iter()
            .try_fold(1usize, |n, axis| n.checked_mul(*axis))
    });
    let bytes = values
        .and_then(|values| values.checked_mul(dtype.bitsize()))
        .filter(|bits| bits % 8 == 0)
        .map(|bits| (bits / 8) as u64);
    let (Some(shape), Some(values)) = (shape, values) else {
        return wrong(
            format!("its shape is {:?}", entry.shape),
            "a shape whose product fits 64 bits".to_owned(),
        );
    };
    if bytes != Some(end - begin) {
        return wrong(
            format!("it has {} bytes", end - begin),
            format!("shape {shape:?} times the size of {dtype}"),
        );
    }
    Ok(Tensor {
        dtype,
        dtype_name: entry.dtype,
        shape,
        values,
        offset: 0,
    })
}
