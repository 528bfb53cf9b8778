//! Another program's checkpoint, held against what its configuration implies.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::manifest::{FileEntry, Quantization};
use super::side::SideFile;
use super::{
    Artifact, ArtifactError, CONFIG, Files, GENERATION, OPTIONAL, SIDE_FILE, TOKENIZER,
    TensorError, WEIGHTS, hex,
};
use crate::checkpoint::{Checkpoint, TensorSource};
use crate::config::{ModelConfig, TensorKind, TensorSpec};
use crate::kernel::Shape;
use crate::model::{Matrix, Weights};
use crate::tokenizer::TextTokenizer;

pub(super) struct Source {
    pub(super) checkpoint: Checkpoint,
    pub(super) config: ModelConfig,
    pub(super) tokenizer: TextTokenizer,
    pub(super) side: SideFile,
}

impl Source {
    /// Opens a checkpoint and checks everything but the values of its weights.
    pub(super) fn open(path: &Path) -> Result<Self, ArtifactError> {
        let checkpoint = Checkpoint::open(path)?;
        let side = match checkpoint.side.get(SIDE_FILE) {
            Some(json) => serde_json::from_slice(json).map_err(|source| ArtifactError::Json {
                file: SIDE_FILE,
                source,
            })?,
            None => SideFile::default(),
        };
        let config = ModelConfig::parse(&checkpoint.config_json)?;
        let tokenizer = TextTokenizer::parse(&checkpoint.tokenizer_json)?;
        let vocab = config.vocab();
        if let Some(token) = tokenizer.largest_id().filter(|id| *id as usize >= vocab) {
            return Err(ArtifactError::Vocabulary { token, vocab });
        }
        let source = Self {
            checkpoint,
            config,
            tokenizer,
            side,
        };
        source.check_tensors()?;
        Ok(source)
    }

    /// The checkpoint's name for a tensor of the architecture.
    pub(super) fn name(&self, name: &str) -> String {
        let tensors = &*self.checkpoint.tensors;
        self.config
            .name_in(name, |name| tensors.shape(name).is_some())
    }

    /// Every tensor is there with the shape the configuration implies, and
    /// there is none that nothing is computed from.
    fn check_tensors(&self) -> Result<(), TensorError> {
        let tensors = &*self.checkpoint.tensors;
        let mut known = BTreeSet::new();
        for spec in self.config.tensors() {
            let name = self.name(&spec.name);
            let expected = spec.shape();
            match tensors.shape(&name) {
                None => return Err(TensorError::Missing { name, expected }),
                Some(found) if found != expected => {
                    let found = found.to_vec();
                    return Err(TensorError::Shape {
                        name,
                        expected,
                        found,
                    });
                }
                Some(_) => known.insert(name),
            };
        }
        let extra = |name: &&str| !known.contains(*name) && !self.config.ignores(name);
        match tensors.names().into_iter().find(extra) {
            None => Ok(()),
            Some(name) => Err(TensorError::Extra {
                name: name.to_owned(),
                shape: tensors.shape(name).unwrap_or(&[]).to_vec(),
                architecture: self.config.architecture().to_owned(),
            }),
        }
    }

    /// Reads values of a tensor, by the architecture's name for it.
    pub(super) fn read(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<(), TensorError> {
        read(&*self.checkpoint.tensors, &self.name(name), first, out)
    }

    /// The end tokens of `generation_config.json`, which generation obeys, or
    /// else of `config.json`.
    pub(super) fn default_eos(&self) -> Result<Vec<u32>, ArtifactError> {
        let Some(json) = self.checkpoint.side.get(GENERATION) else {
            return Ok(self.config.eos().to_vec());
        };
        let invalid = |source| ArtifactError::Json {
            file: GENERATION,
            source,
        };
        let Ends { eos_token_id } = serde_json::from_slice(json).map_err(invalid)?;
        Ok(match eos_token_id {
            None => self.config.eos().to_vec(),
            Some(OneOrMany::One(id)) => vec![id],
            Some(OneOrMany::Many(ids)) => ids,
        })
    }

    /// The optional files of an artifact that the checkpoint has.
    pub(super) fn optional(&self) -> Files {
        let has = |name: &'static str| Some((name, self.checkpoint.side.get(name)?.clone()));
        OPTIONAL.into_iter().filter_map(has).collect()
    }

    /// Entries of all files but the weights, and theirs.
    pub(super) fn entries(&self, weights: FileEntry) -> Vec<FileEntry> {
        let mut entries = vec![
            FileEntry::of(CONFIG, &self.checkpoint.config_json),
            FileEntry::of(TOKENIZER, &self.checkpoint.tokenizer_json),
            weights,
        ];
        let optional = self.optional();
        entries.extend(
            optional
                .iter()
                .map(|(name, bytes)| FileEntry::of(name, bytes)),
        );
        entries
    }

    /// Makes it something that loads, its matrices packed as they are asked
    /// for.
    pub(super) fn into_artifact(self, assumed: Quantization) -> Result<Artifact, ArtifactError> {
        let manifest = self
            .side
            .manifest(&self, assumed, self.entries(self.values()?))?;
        Ok(Artifact {
            side: self.optional(),
            manifest,
            config: self.config.clone(),
            tokenizer: self.tokenizer,
            weights: Box::new(Unpacked {
                tensors: self.checkpoint.tensors,
                config: self.config,
            }),
        })
    }

    /// An entry that stands for every value of every tensor, as f32: two
    /// checkpoints that differ anywhere differ in it.
    fn values(&self) -> Result<FileEntry, TensorError> {
        const CHUNK: usize = 1 << 20;
        let (mut hasher, mut bytes) = (Sha256::new(), 0);
        let mut values = vec![0.0; CHUNK];
        for spec in self.config.tensors() {
            let all: usize = spec.shape().iter().product();
            hasher.update(spec.name.as_bytes());
            for first in (0..all).step_by(CHUNK) {
                let values = &mut values[..CHUNK.min(all - first)];
                self.read(&spec.name, first, values)?;
                let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                hasher.update(&raw);
                bytes += raw.len() as u64;
            }
        }
        Ok(FileEntry {
            path: WEIGHTS.to_owned(),
            sha256: hex(&hasher.finalize()),
            bytes,
        })
    }
}

/// What is read of `generation_config.json` here.
#[derive(Deserialize)]
struct Ends {
    eos_token_id: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

/// The weights of a checkpoint that is not ours, read when they are asked for.
struct Unpacked {
    tensors: Box<dyn TensorSource>,
    config: ModelConfig,
}

impl Unpacked {
    fn read(&self, name: &str, values: usize) -> Result<Vec<f32>, TensorError> {
        let tensors = &*self.tensors;
        let name = self
            .config
            .name_in(name, |name| tensors.shape(name).is_some());
        let mut out = vec![0.0; values];
        read(tensors, &name, 0, &mut out)?;
        Ok(out)
    }
}

impl Weights for Unpacked {
    fn matrix(&self, name: &str, shape: Shape) -> Result<Matrix, TensorError> {
        self.read(name, shape.n * shape.k).map(Matrix::Dense)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, TensorError> {
        self.read(name, len)
    }

    fn table(&self, name: &str, shape: Shape) -> Result<Vec<f32>, TensorError> {
        self.read(name, shape.n * shape.k)
    }
}

fn read(
    tensors: &dyn TensorSource,
    name: &str,
    first: usize,
    out: &mut [f32],
) -> Result<(), TensorError> {
    tensors.read(name, first, out)?;
    match out.iter().all(|v| v.is_finite()) {
        true => Ok(()),
        false => Err(TensorError::NotFinite {
            name: name.to_owned(),
        }),
    }
}

/// Asks weights for one tensor, to see that it is there and fits.
pub(super) fn check(weights: &dyn Weights, spec: &TensorSpec) -> Result<(), TensorError> {
    match spec.kind {
        TensorKind::Matrix(shape) => weights.matrix(&spec.name, shape).map(drop),
        TensorKind::Table(shape) => weights.table(&spec.name, shape).map(drop),
        TensorKind::Vector(len) => weights.vector(&spec.name, len).map(drop),
    }
}
