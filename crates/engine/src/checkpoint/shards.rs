//! A checkpoint in several safetensors files and the index that maps tensors
//! to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path};

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::read_at::{DiskFile, read_whole};
use super::safetensors::SafetensorsFile;
use super::{CheckpointError, TensorSource};

pub(super) const INDEX: &str = "model.safetensors.index.json";
const MAX_INDEX: u64 = 1 << 24;
/// Each shard stays open; processes commonly may have 1,024 files. The largest
/// published checkpoints have fewer than two hundred.
const MAX_SHARDS: usize = 512;
const SUFFIX: &str = ".safetensors";

/// The tensors of all shards.
pub(super) struct Shards {
    files: Vec<SafetensorsFile>,
    /// Which of `files` has a tensor.
    places: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(map: D) -> Result<Self, D::Error> {
        map.deserialize_map(Entries).map(Self)
    }
}

/// A map would lose the first of two entries for one tensor.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object from tensors to files")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some((tensor, file)) = map.next_entry::<String, String>()? {
            if let Some(first) = entries.insert(tensor.clone(), file) {
                return Err(A::Error::custom(format!(
                    "tensor {tensor} is mapped twice, first to {first:?}"
                )));
            }
        }
        Ok(entries)
    }
}

impl Shards {
    /// Opens every shard that the index in `directory` names.
    pub(super) fn open(directory: &Path) -> Result<Self, CheckpointError> {
        let json = read_whole(&directory.join(INDEX), INDEX, MAX_INDEX)?;
        let index: Index =
            serde_json::from_slice(&json).map_err(|source| CheckpointError::Json {
                file: INDEX.to_owned(),
                source,
            })?;
        let map = index.weight_map.0;
        for (tensor, shard) in &map {
            if let Some(problem) = refusal(shard) {
                return Err(wrong(tensor, shard, problem));
            }
        }
        let names: BTreeSet<&str> = map.values().map(String::as_str).collect();
        if names.is_empty() {
            return Err(CheckpointError::header(
                INDEX,
                "weight_map is empty",
                "a file for every tensor",
            ));
        }
        if names.len() > MAX_SHARDS {
            return Err(CheckpointError::Shards {
                index: INDEX,
                found: names.len(),
                most: MAX_SHARDS,
            });
        }
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            let path = directory.join(name);
            if !path.exists() {
                let tensor = map.iter().find(|(_, shard)| *shard == name);
                let tensor = tensor.map_or("", |(tensor, _)| tensor);
                return Err(wrong(tensor, name, "there is no such file"));
            }
            files.push(SafetensorsFile::open(name, DiskFile::open(&path, name)?)?);
        }
        let places = place(&map, &files)?;
        Ok(Self { files, places })
    }

    fn file(&self, tensor: &str) -> Option<&SafetensorsFile> {
        self.files.get(*self.places.get(tensor)?)
    }
}

/// What is wrong with a shard's name. Only files beside the index are opened,
/// whatever the index says.
fn refusal(shard: &str) -> Option<&'static str> {
    let mut components = Path::new(shard).components();
    let plain = matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(_)), None)
    );
    if !plain || shard.contains(['/', '\\', '\0']) {
        return Some("a shard is a plain file name in the same directory");
    }
    if shard == INDEX || shard.ends_with(".index.json") {
        return Some("an index is no shard");
    }
    if !shard.ends_with(SUFFIX) {
        return Some("a shard's name ends in .safetensors");
    }
    None
}

/// Checks the index against what the shards really have.
fn place(
    map: &BTreeMap<String, String>,
    files: &[SafetensorsFile],
) -> Result<BTreeMap<String, usize>, CheckpointError> {
    let mut places = BTreeMap::new();
    for (at, file) in files.iter().enumerate() {
        for tensor in file.names() {
            // What the index leaves out is still the checkpoint's; the
            // reference implementation loads it as well.
            if let Some(shard) = map.get(tensor)
                && shard != file.name()
            {
                let problem = format!("{} has it", file.name());
                return Err(wrong(tensor, shard, problem));
            }
            if let Some(first) = places.insert(tensor.to_owned(), at) {
                let problem = format!("{} has it", file.name());
                return Err(wrong(tensor, files[first].name(), problem));
            }
        }
    }
    for (tensor, shard) in map {
        if !places.contains_key(tensor) {
            return Err(wrong(tensor, shard, "that file does not have it"));
        }
    }
    Ok(places)
}

fn wrong(tensor: &str, shard: &str, problem: impl Into<String>) -> CheckpointError {
    CheckpointError::Index {
        index: INDEX,
        tensor: tensor.to_owned(),
        shard: shard.to_owned(),
        problem: problem.into(),
    }
}

impl TensorSource for Shards {
    fn names(&self) -> Vec<&str> {
        self.places.keys().map(String::as_str).collect()
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.file(name)?.shape(name)
    }

    fn dtype_name(&self, name: &str) -> Option<&str> {
        self.file(name)?.dtype_name(name)
    }

    fn read(&self, name: &str, first: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        let file = self.file(name).ok_or_else(|| CheckpointError::Missing {
            file: INDEX.to_owned(),
            tensor: name.to_owned(),
        })?;
        file.read(name, first, out)
    }
}
