//! What stands before a GGUF file's tensors: keys with values, then a table of
//! tensors. Every count and length is held against what the file still has.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::blocks::BlockType;
use super::cursor::Cursor;
use super::metadata::{Array, Metadata, Value};
use crate::checkpoint::{CheckpointError, ReadAt};

const MAGIC: [u8; 4] = *b"GGUF";
/// Keys and names are short; values may be chat templates.
const MAX_KEY: u64 = 1 << 16;
const MAX_STRING: u64 = 1 << 24;
const MAX_NAME: u64 = 256;
const MAX_DIMENSIONS: u32 = 4;
const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;
/// The fewest bytes that a key with its value, and a tensor's entry, take.
const MIN_PAIR: u64 = 8 + 1 + 4 + 1;
const MIN_ENTRY: u64 = 8 + 1 + 4 + 4 + 8;

/// A tensor as the file has it.
#[derive(Debug)]
pub(super) struct TensorInfo {
    pub(super) kind: BlockType,
    /// Row-major, the other way around than the file's.
    pub(super) shape: Vec<usize>,
    /// The product of the shape.
    pub(super) values: usize,
    /// Of its first byte in the file.
    pub(super) offset: u64,
}

/// The parsed header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: Metadata,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

impl Header {
    pub(super) fn read(name: &str, file: &dyn ReadAt) -> Result<Self, CheckpointError> {
        let mut cursor = Cursor::new(name, file);
        let magic = cursor.array()?;
        if magic != MAGIC {
            return Err(CheckpointError::header(
                name,
                format!("it begins with {:?}", magic.escape_ascii().to_string()),
                "GGUF",
            ));
        }
        let version = cursor.u32()?;
        if !matches!(version, 2 | 3) {
            return Err(CheckpointError::header(
                name,
                format!("it is GGUF of version {version}"),
                "version 2 or 3, little-endian",
            ));
        }
        let tensor_count = cursor.u64()?;
        let pair_count = cursor.u64()?;
        cursor.count("keys", pair_count, MIN_PAIR)?;
        let mut metadata = Metadata::new(name);
        for _ in 0..pair_count {
            read_pair(&mut cursor, &mut metadata)?;
        }
        cursor.count("tensors", tensor_count, MIN_ENTRY)?;
        let alignment = alignment(&metadata)?;
        let mut entries = BTreeMap::new();
        for _ in 0..tensor_count {
            let (tensor, entry) = read_entry(&mut cursor)?;
            match entries.entry(tensor) {
                Entry::Vacant(free) => free.insert(entry),
                Entry::Occupied(taken) => {
                    return Err(CheckpointError::header(
                        name,
                        format!("two tensors are called {}", taken.key()),
                        "one of each name",
                    ));
                }
            };
        }
        let start = cursor.position().next_multiple_of(alignment);
        let tensors = lay_out(name, entries, start, file.size(), alignment)?;
        Ok(Self { metadata, tensors })
    }
}

fn read_pair(cursor: &mut Cursor<'_>, metadata: &mut Metadata) -> Result<(), CheckpointError> {
    let key = cursor.string("a key", MAX_KEY)?;
    let kind = cursor.u32()?;
    let value = read_value(cursor, &key, kind)?;
    metadata.insert(key, value)
}

fn read_value(cursor: &mut Cursor<'_>, key: &str, kind: u32) -> Result<Value, CheckpointError> {
    Ok(match kind {
        0 => Value::Unsigned(u64::from(u8::from_le_bytes(cursor.array()?))),
        1 => signed(i64::from(i8::from_le_bytes(cursor.array()?))),
        2 => Value::Unsigned(u64::from(u16::from_le_bytes(cursor.array()?))),
        3 => signed(i64::from(i16::from_le_bytes(cursor.array()?))),
        4 => Value::Unsigned(u64::from(cursor.u32()?)),
        5 => signed(i64::from(i32::from_le_bytes(cursor.array()?))),
        6 => Value::Float(shortest(f32::from_le_bytes(cursor.array()?))),
        7 => Value::Bool(u8::from_le_bytes(cursor.array()?) != 0),
        8 => Value::Text(cursor.string(key, MAX_STRING)?),
        9 => read_array(cursor, key)?,
        10 => Value::Unsigned(cursor.u64()?),
        11 => signed(i64::from_le_bytes(cursor.array()?)),
        12 => Value::Float(f64::from_le_bytes(cursor.array()?)),
        _ => {
            return Err(cursor.key(
                key,
                format!("a value of type {kind}"),
                "a type from 0 to 12",
            ));
        }
    })
}

fn signed(value: i64) -> Value {
    u64::try_from(value).map_or(Value::Negative(value), Value::Unsigned)
}

/// The number whose shortest decimal form is the f32's: 1e-5 and not
/// 9.999999747378752e-6, which is what a configuration means.
pub(super) fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Arrays of the types that any reader needs; others are passed over.
fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, CheckpointError> {
    let kind = cursor.u32()?;
    let count = cursor.u64()?;
    let size = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => return Err(cursor.key(key, "an array of arrays", "an array of plain values")),
        _ => {
            let found = format!("an array of type {kind}");
            return Err(cursor.key(key, found, "a type from 0 to 12"));
        }
    };
    cursor.count(key, count, size)?;
    // It fits memory: each value takes at least a byte of the file.
    let length = usize::try_from(count).unwrap_or(usize::MAX);
    Ok(Value::Array(match kind {
        4 | 5 => {
            let mut values = Vec::with_capacity(length);
            for _ in 0..count {
                // Both readings agree on what the keys in use hold.
                values.push(i32::from_le_bytes(cursor.array()?));
            }
            Array::Integers(values)
        }
        6 => {
            let mut values = Vec::with_capacity(length);
            for _ in 0..count {
                values.push(f32::from_le_bytes(cursor.array()?));
            }
            Array::Floats(values)
        }
        8 => {
            let mut values = Vec::new();
            for _ in 0..count {
                values.push(cursor.string(key, MAX_STRING)?);
            }
            Array::Texts(values)
        }
        _ => {
            // No overflow: the count was held against the file's size.
            cursor.skip(count * size)?;
            Array::Other
        }
    }))
}

fn alignment(metadata: &Metadata) -> Result<u64, CheckpointError> {
    let alignment = metadata.unsigned(ALIGNMENT)?.unwrap_or(DEFAULT_ALIGNMENT);
    if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT {
        return Ok(alignment);
    }
    Err(metadata.refuse(
        ALIGNMENT,
        alignment.to_string(),
        format!("a power of two up to {MAX_ALIGNMENT}"),
    ))
}

/// A tensor's entry as the file has it.
struct RawTensor {
    kind: BlockType,
    shape: Vec<usize>,
    values: usize,
    bytes: u64,
    offset: u64,
}

fn read_entry(cursor: &mut Cursor<'_>) -> Result<(String, RawTensor), CheckpointError> {
    let tensor = cursor.string("a tensor's name", MAX_NAME)?;
    let count = cursor.u32()?;
    if count > MAX_DIMENSIONS {
        return Err(cursor.tensor(
            &tensor,
            format!("it has {count} dimensions"),
            format!("at most {MAX_DIMENSIONS}"),
        ));
    }
    let mut dimensions = Vec::new();
    for _ in 0..count {
        dimensions.push(cursor.u64()?);
    }
    let kind = cursor.u32()?;
    let offset = cursor.u64()?;
    let kind = BlockType::of(kind).map_err(|found| CheckpointError::Type {
        file: cursor.file_name().to_owned(),
        tensor: tensor.clone(),
        found,
        supported: BlockType::SUPPORTED,
    })?;
    let shape: Option<Vec<usize>> = dimensions
        .iter()
        .rev()
        .map(|axis| usize::try_from(*axis).ok())
        .collect();
    let sized = shape.and_then(|shape| {
        let values = shape
            .iter()
            .try_fold(1usize, |n, axis| n.checked_mul(*axis))?;
        let bytes = (values / kind.values()).checked_mul(kind.bytes())?;
        Some((shape, values, bytes as u64))
    });
    let Some((shape, values, bytes)) = sized else {
        return Err(cursor.tensor(
            &tensor,
            format!("its dimensions are {dimensions:?}"),
            "dimensions whose product fits 64 bits",
        ));
    };
    let row = shape.last().copied().unwrap_or(1);
    if row % kind.values() != 0 {
        return Err(cursor.tensor(
            &tensor,
            format!("a row has {row} values"),
            format!(
                "a multiple of {}, as {} has blocks",
                kind.values(),
                kind.name()
            ),
        ));
    }
    let entry = RawTensor {
        kind,
        shape,
        values,
        bytes,
        offset,
    };
    Ok((tensor, entry))
}

/// Places the tensors in the data that begins at the byte `start`.
fn lay_out(
    file: &str,
    entries: BTreeMap<String, RawTensor>,
    start: u64,
    size: u64,
    alignment: u64,
) -> Result<BTreeMap<String, TensorInfo>, CheckpointError> {
    let data = size.saturating_sub(start);
    let mut extents = Vec::with_capacity(entries.len());
    for (name, entry) in &entries {
        let end = entry.offset.checked_add(entry.bytes);
        let Some(end) = end.filter(|end| *end <= data) else {
            return Err(CheckpointError::tensor(
                file,
                name,
                format!(
                    "it has {} bytes from {} of the data",
                    entry.bytes, entry.offset
                ),
                format!("a range inside the {data} bytes of data"),
            ));
        };
        if entry.offset % alignment != 0 {
            return Err(CheckpointError::tensor(
                file,
                name,
                format!("its bytes begin at {}", entry.offset),
                format!("a multiple of {alignment}"),
            ));
        }
        extents.push((entry.offset, end, name));
    }
    extents.sort_unstable();
    for pair in extents.windows(2) {
        let [(_, end, _), (begin, _, name)] = pair else {
            continue;
        };
        if begin < end {
            return Err(CheckpointError::tensor(
                file,
                name,
                format!("its bytes begin at {begin} of the data"),
                format!("at least {end}, where those of the tensor before it end"),
            ));
        }
    }
    Ok(entries
        .into_iter()
        .map(|(name, entry)| {
            let info = TensorInfo {
                kind: entry.kind,
                shape: entry.shape,
                values: entry.values,
                offset: start + entry.offset,
            };
            (name, info)
        })
        .collect())
}
