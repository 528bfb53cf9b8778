//! Model artifacts: a directory whose every byte is accounted for.
//!
//! ```text
//! manifest.json       what the model is, SHA-256 and size per file, digest
//! config.json         the architecture's shape
//! tokenizer.json      the tokenizer
//! model.safetensors   q8: X.weight as I8 [out, in] with X.weight.scales as
//!                     F16 [out, in / 32], the embedding too; norms as F32.
//!                     f32: everything as F32
//! ```
//!
//! The digest is the SHA-256 of the manifest's canonical JSON with the digest
//! left empty, so it stands for the files, the prompt and the end tokens at
//! once. What is verified is what is used: each file is read once, into
//! memory. A plain Hugging Face directory (no manifest) loads too; its manifest
//! is made up from the files that are there, and its digest says what they
//! are, not what they should be.

pub(crate) mod import;
pub(crate) mod manifest;
pub(crate) mod tensors;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::config::{ConfigError, LlamaConfig};
use crate::tokenizer::{TextTokenizer, TokenizerError};
pub use import::{ImportError, import};
use manifest::{FileEntry, SideFile};
pub use manifest::{Manifest, Quantization};
pub use tensors::TensorError;

pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const CONFIG: &str = "config.json";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// What our importer reads beside a Hugging Face checkpoint.
pub(crate) const SIDE_FILE: &str = "tiermesh.json";

/// The most bytes each file may have. Weights of 32 GiB are 32 billion
/// parameters in int8, beyond what this engine serves.
const LIMITS: [(&str, u64); 5] = [
    (MANIFEST, 1 << 20),
    (SIDE_FILE, 1 << 20),
    (CONFIG, 1 << 20),
    (TOKENIZER, 1 << 26),
    (WEIGHTS, 1 << 35),
];

/// Why a directory does not load as a model.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// A file cannot be read.
    #[error("{file} cannot be read")]
    Read {
        /// The file.
        file: &'static str,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// A file is larger than any file of its kind may be.
    #[error("{file} has more than the {most} bytes it may have")]
    TooLarge {
        /// The file.
        file: &'static str,
        /// The limit.
        most: u64,
    },
    /// A JSON file is not what it should be.
    #[error("{file} cannot be parsed")]
    Json {
        /// The file.
        file: &'static str,
        /// The reason.
        #[source]
        source: serde_json::Error,
    },
    /// The manifest says something that cannot be.
    #[error("{file}: {key} = {value:?} is not allowed; allowed: {allowed}")]
    Field {
        /// The file.
        file: &'static str,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A file's content is not what the manifest says.
    #[error("{file} is corrupt: expected {expected}, found {found}")]
    Corrupt {
        /// The file.
        file: &'static str,
        /// SHA-256 or size by the manifest.
        expected: String,
        /// SHA-256 or size of what is there.
        found: String,
    },
    /// The shape cannot be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tokenizer cannot be built.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The weights do not fit the shape.
    #[error(transparent)]
    Tensors(#[from] TensorError),
}

/// A verified artifact in memory.
pub(crate) struct Artifact {
    pub(crate) manifest: Manifest,
    pub(crate) config: LlamaConfig,
    pub(crate) tokenizer: TextTokenizer,
    pub(crate) weights: Vec<u8>,
}

impl Artifact {
    /// Reads and verifies a directory. `assumed` is how a directory without a
    /// manifest is to be held in memory.
    pub(crate) fn open(directory: &Path, assumed: Quantization) -> Result<Self, ArtifactError> {
        if !directory.join(MANIFEST).exists() {
            return Source::read(directory)?.into_artifact(assumed);
        }
        let bytes = read(directory, MANIFEST)?;
        let manifest = Manifest::parse(&bytes)?;
        let verified = |file| {
            let bytes = read(directory, file)?;
            manifest.verify(file, &bytes)?;
            Ok::<_, ArtifactError>(bytes)
        };
        let config = LlamaConfig::parse(&verified(CONFIG)?)?;
        let tokenizer = TextTokenizer::parse(&verified(TOKENIZER)?)?;
        let weights = verified(WEIGHTS)?;
        manifest.check_against(&config)?;
        Ok(Self {
            config,
            tokenizer,
            weights,
            manifest,
        })
    }
}

/// A Hugging Face directory as it lies there.
pub(crate) struct Source {
    pub(crate) config_json: Vec<u8>,
    pub(crate) tokenizer_json: Vec<u8>,
    pub(crate) weights: Vec<u8>,
    pub(crate) config: LlamaConfig,
    pub(crate) tokenizer: TextTokenizer,
    side: SideFile,
    directory_name: String,
}

impl Source {
    pub(crate) fn read(directory: &Path) -> Result<Self, ArtifactError> {
        let config_json = read(directory, CONFIG)?;
        let tokenizer_json = read(directory, TOKENIZER)?;
        let side = match directory.join(SIDE_FILE).exists() {
            true => serde_json::from_slice(&read(directory, SIDE_FILE)?).map_err(|source| {
                ArtifactError::Json {
                    file: SIDE_FILE,
                    source,
                }
            })?,
            false => SideFile::default(),
        };
        Ok(Self {
            config: LlamaConfig::parse(&config_json)?,
            tokenizer: TextTokenizer::parse(&tokenizer_json)?,
            weights: read(directory, WEIGHTS)?,
            config_json,
            tokenizer_json,
            side,
            directory_name: directory.file_name().map_or_else(
                || "model".to_owned(),
                |name| name.to_string_lossy().into_owned(),
            ),
        })
    }

    /// The manifest of this source with these weights in its place.
    pub(crate) fn manifest(
        &self,
        quantization: Quantization,
        weights: &[u8],
    ) -> Result<Manifest, ArtifactError> {
        let files = [
            (CONFIG, &*self.config_json),
            (TOKENIZER, &*self.tokenizer_json),
            (WEIGHTS, weights),
        ]
        .map(|(path, bytes)| FileEntry::of(path, bytes));
        self.side.manifest(self, quantization, files.to_vec())
    }

    fn into_artifact(self, assumed: Quantization) -> Result<Artifact, ArtifactError> {
        Ok(Artifact {
            manifest: self.manifest(assumed, &self.weights)?,
            config: self.config,
            tokenizer: self.tokenizer,
            weights: self.weights,
        })
    }
}

fn read(directory: &Path, file: &'static str) -> Result<Vec<u8>, ArtifactError> {
    let most = LIMITS
        .iter()
        .find(|(name, _)| *name == file)
        .map_or(0, |(_, most)| *most);
    let mut bytes = Vec::new();
    File::open(directory.join(file))
        .and_then(|opened| opened.take(most + 1).read_to_end(&mut bytes))
        .map_err(|source| ArtifactError::Read { file, source })?;
    if bytes.len() as u64 > most {
        return Err(ArtifactError::TooLarge { file, most });
    }
    Ok(bytes)
}

fn sha256_hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

#[cfg(test)]
mod tests;
