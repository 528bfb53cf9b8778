//! Model artifacts: a directory whose every byte is accounted for.
//!
//! ```text
//! manifest.json       what the model is, SHA-256 and size per file, digest
//! config.json         the architecture's shape
//! tokenizer.json      the tokenizer
//! model.safetensors   packed matrices X as they are computed with: X holds
//!                     tiles [n / 16, k / 32, bytes], X.scales f16 scales
//!                     [n / 16, k / 32, 16]; norms, biases and tables as F32
//! generation_config.json, tokenizer_config.json, chat_template.jinja
//!                     where the checkpoint has them
//! ```
//!
//! The digest is the SHA-256 of the manifest's canonical JSON with the digest
//! left empty, so it stands for the files, the prompt and the end tokens at
//! once. Weights are mapped, not read: processes on one machine share them. A
//! checkpoint of another program (no manifest) loads too, packed in memory; its
//! manifest is made up from the files that are there, and its digest says what
//! they are, not what they should be.

mod error;
mod import;
pub(crate) mod manifest;
mod map;
mod packed;
mod side;
mod source;
mod write;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread::Builder;

use sha2::{Digest, Sha256};

use crate::config::ModelConfig;
use crate::model::{Precision, Weights};
use crate::tokenizer::TextTokenizer;
pub use error::{ArtifactError, TensorError};
pub use import::{ImportError, ImportOptions, ImportProgress, import};
pub use manifest::{FileEntry, Manifest, Quantization};
use packed::PackedWeights;
use source::Source;

pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const CONFIG: &str = "config.json";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const GENERATION: &str = "generation_config.json";
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(crate) const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// What our importer reads beside a Hugging Face checkpoint.
pub(crate) const SIDE_FILE: &str = "tiermesh.json";
/// Files an artifact may have besides the three it must.
pub(crate) const OPTIONAL: [&str; 3] = [CHAT_TEMPLATE, GENERATION, TOKENIZER_CONFIG];

/// The most bytes each file that is read whole may have.
const LIMITS: [(&str, u64); 6] = [
    (MANIFEST, 1 << 20),
    (CONFIG, 1 << 20),
    (TOKENIZER, 1 << 26),
    (GENERATION, 1 << 20),
    (TOKENIZER_CONFIG, 1 << 24),
    (CHAT_TEMPLATE, 1 << 20),
];

/// A verified artifact, or another program's checkpoint made into one.
pub(crate) struct Artifact {
    pub(crate) manifest: Manifest,
    pub(crate) config: ModelConfig,
    pub(crate) tokenizer: TextTokenizer,
    /// Optional files by name.
    pub(crate) side: BTreeMap<&'static str, Vec<u8>>,
    pub(crate) weights: Box<dyn Weights>,
}

impl Artifact {
    /// Opens and verifies a directory, or a checkpoint that is none of ours:
    /// `assumed` is how that is to be held in memory.
    pub(crate) fn open(path: &Path, assumed: Quantization) -> Result<Self, ArtifactError> {
        if !path.join(MANIFEST).exists() {
            return Source::open(path)?.into_artifact(assumed);
        }
        let manifest = inspect(path)?;
        let map = map::map(path, WEIGHTS);
        // Hashing the weights and reading the tokenizer take about as long as
        // each other, and most of a start between them.
        let hash = || match &map {
            Ok(map) => manifest.verify(WEIGHTS, map),
            Err(_) => Ok(()),
        };
        let (read, hashed) = std::thread::scope(|scope| {
            let hashing = Builder::new()
                .name("verify-weights".to_owned())
                .spawn_scoped(scope, hash);
            let read = Self::read(path, &manifest);
            let hashed = match hashing {
                Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // The system has no thread to give.
                Err(_) => hash(),
            };
            (read, hashed)
        });
        let (config, tokenizer, side) = read?;
        let map = map?;
        hashed?;
        Ok(Self {
            weights: Box::new(PackedWeights::parse(map)?),
            config,
            tokenizer,
            side,
            manifest,
        })
    }

    /// Everything but the weights.
    fn read(
        path: &Path,
        manifest: &Manifest,
    ) -> Result<(ModelConfig, TextTokenizer, Files), ArtifactError> {
        let mut files = verified(path, manifest)?;
        let config = ModelConfig::parse(&files.remove(CONFIG).unwrap_or_default())?;
        let tokenizer = TextTokenizer::parse(&files.remove(TOKENIZER).unwrap_or_default())?;
        manifest.check_against(&config)?;
        Ok((config, tokenizer, files))
    }

    /// How its matrices are computed with on this code path.
    pub(crate) fn precision(&self, kernel: crate::kernel::KernelPath) -> Precision {
        precision(&self.manifest, &self.config, kernel)
    }
}

/// What an artifact says of itself: everything but tokenizer and weights.
pub(crate) struct Outline {
    pub(crate) manifest: Manifest,
    pub(crate) config: ModelConfig,
    /// The author's settings, where there are some.
    pub(crate) generation: Option<Vec<u8>>,
}

impl Outline {
    /// Reads one; none where there is no manifest.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, ArtifactError> {
        if !path.join(MANIFEST).exists() {
            return Ok(None);
        }
        let manifest = inspect(path)?;
        let file = |name| {
            let bytes = read(path, name)?;
            manifest.verify(name, &bytes)?;
            Ok::<_, ArtifactError>(bytes)
        };
        let generation = manifest.has_file(GENERATION).then(|| file(GENERATION));
        Ok(Some(Self {
            config: ModelConfig::parse(&file(CONFIG)?)?,
            generation: generation.transpose()?,
            manifest,
        }))
    }

    /// How its matrices are computed with on this code path.
    pub(crate) fn precision(&self, kernel: crate::kernel::KernelPath) -> Precision {
        precision(&self.manifest, &self.config, kernel)
    }
}

fn precision(
    manifest: &Manifest,
    config: &ModelConfig,
    kernel: crate::kernel::KernelPath,
) -> Precision {
    let encoding = manifest.quantization().encoding();
    // Encoders stay on the processor.
    if kernel.is_gpu() && matches!(config, ModelConfig::Decoder(_)) {
        return Precision::Gpu(encoding, kernel);
    }
    match encoding {
        Some(encoding) => Precision::Packed(encoding, kernel),
        None => Precision::Dense,
    }
}

/// Reads an artifact's manifest: what it says of itself, its files unread.
///
/// # Errors
///
/// When there is no manifest, or it is damaged.
pub fn inspect(directory: &Path) -> Result<Manifest, ArtifactError> {
    Manifest::parse(&read(directory, MANIFEST)?)
}

/// Compares every file of an artifact with its manifest, and every tensor with
/// what the configuration implies.
///
/// # Errors
///
/// Names the file, and the tensor in it, that is not as it should be.
pub fn verify(directory: &Path) -> Result<Manifest, ArtifactError> {
    let manifest = inspect(directory)?;
    let artifact = Artifact::open(directory, manifest.quantization())?;
    for spec in artifact.config.tensors() {
        source::check(&*artifact.weights, &spec)?;
    }
    Ok(artifact.manifest)
}

type Files = BTreeMap<&'static str, Vec<u8>>;

/// The files that are read whole, each as the manifest says.
fn verified(directory: &Path, manifest: &Manifest) -> Result<Files, ArtifactError> {
    let mut files = Files::new();
    for name in [CONFIG, TOKENIZER].into_iter().chain(OPTIONAL) {
        if manifest.has_file(name) {
            let bytes = read(directory, name)?;
            manifest.verify(name, &bytes)?;
            files.insert(name, bytes);
        }
    }
    Ok(files)
}

fn read(directory: &Path, file: &'static str) -> Result<Vec<u8>, ArtifactError> {
    let known = LIMITS.iter().find(|(name, _)| *name == file);
    let most = known.map_or(0, |(_, most)| *most);
    let mut bytes = Vec::new();
    File::open(directory.join(file))
        .and_then(|opened| opened.take(most + 1).read_to_end(&mut bytes))
        .map_err(|source| ArtifactError::Read { file, source })?;
    if bytes.len() as u64 > most {
        return Err(ArtifactError::TooLarge { file, most });
    }
    Ok(bytes)
}

fn hex(digest: &[u8]) -> String {
    let mut hex = String::with_capacity(64);
    for byte in digest {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests;
