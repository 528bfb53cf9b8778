//! `manifest.json`: what an artifact is.

use serde::{Deserialize, Serialize};
use tiermesh_core::{ModelId, Task};

use super::{ArtifactError, CONFIG, MANIFEST, OPTIONAL, TOKENIZER, WEIGHTS, sha256_hex};
use crate::config::ModelConfig;
use crate::kernel::Encoding;
use crate::pooling::Pooling;

/// The one format this version writes and reads.
pub(super) const FORMAT: &str = "tiermesh-artifact/2";
/// The most bytes of a prompt's fixed parts: they are read for every request.
const MAX_AFFIX: usize = 16 << 10;
const MAX_EOS: usize = 16;
const MAX_TEXT: usize = 1024;

/// What an artifact is. Field order is part of the format: the digest is taken
/// over this structure's JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub(crate) format: String,
    pub(crate) name: ModelId,
    pub(crate) family: String,
    pub(crate) architecture: String,
    pub(crate) quantization: Quantization,
    pub(crate) tasks: Vec<Task>,
    pub(crate) license: String,
    pub(crate) source: String,
    /// Measured quality at its tasks, 0 to 1.
    pub(crate) quality: f32,
    pub(crate) context_tokens: u32,
    pub(crate) prompt: Prompt,
    pub(crate) eos: Vec<u32>,
    /// How an encoder's hidden states become an embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pooling: Option<Pooling>,
    pub(crate) files: Vec<FileEntry>,
    pub(crate) digest: String,
}

/// What every format's manifest has.
#[derive(Deserialize)]
struct Format {
    format: String,
}

/// How matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// int8 with an f16 scale for each 32 inputs.
    Q8,
    /// Sixteen levels with an f16 scale for each 32 inputs.
    Q4,
    /// f16.
    F16,
    /// f32. A decoder multiplies by Burn's matrix product: for comparison, not
    /// for speed. An encoder has tiles of its own.
    F32,
}

impl Quantization {
    /// The spelling in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Q8 => "q8",
            Self::Q4 => "q4",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// How its matrices are packed, if they are.
    pub(crate) const fn encoding(self) -> Option<Encoding> {
        match self {
            Self::Q8 => Some(Encoding::Q8),
            Self::Q4 => Some(Encoding::Q4),
            Self::F16 => Some(Encoding::F16),
            Self::F32 => None,
        }
    }
}

/// What stands around the user's text. Special tokens are recognised here,
/// and only here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prompt {
    #[serde(default)]
    pub(crate) prefix: String,
    #[serde(default)]
    pub(crate) suffix: String,
}

/// One file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name.
    pub path: String,
    /// SHA-256 of its content, in hexadecimal.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: u64,
}

impl FileEntry {
    pub(super) fn of(path: &str, content: &[u8]) -> Self {
        Self {
            path: path.to_owned(),
            sha256: sha256_hex(content),
            bytes: content.len() as u64,
        }
    }
}

impl Manifest {
    /// The model's exact name.
    #[must_use]
    pub fn name(&self) -> &ModelId {
        &self.name
    }

    /// SHA-256 over everything the manifest says, in hexadecimal.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// How the matrices are stored.
    #[must_use]
    pub fn quantization(&self) -> Quantization {
        self.quantization
    }

    /// The family a request may ask for instead of the exact name.
    #[must_use]
    pub fn family(&self) -> &str {
        &self.family
    }

    /// The architecture as Hugging Face names it.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// What it was made for.
    #[must_use]
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Its licence.
    #[must_use]
    pub fn license(&self) -> &str {
        &self.license
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Prompt and answer together, in tokens.
    #[must_use]
    pub fn context_tokens(&self) -> u32 {
        self.context_tokens
    }

    /// Its files, this manifest not among them.
    #[must_use]
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    pub(super) fn has_file(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.path == name)
    }

    /// Parses a manifest and checks its digest against its content.
    pub(super) fn parse(json: &[u8]) -> Result<Self, ArtifactError> {
        let invalid = |source| ArtifactError::Json {
            file: MANIFEST,
            source,
        };
        // Another format may have other fields: its name is read first.
        let Format { format } = serde_json::from_slice(json).map_err(invalid)?;
        if format != FORMAT {
            return Err(ArtifactError::Format {
                found: format,
                expected: FORMAT,
            });
        }
        let manifest: Self = serde_json::from_slice(json).map_err(invalid)?;
        let expected = manifest.computed_digest();
        if manifest.digest != expected {
            return Err(ArtifactError::Corrupt {
                file: MANIFEST,
                expected: manifest.digest,
                found: expected,
            });
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// SHA-256 over everything but the digest itself.
    pub(super) fn computed_digest(&self) -> String {
        let unsigned = Self {
            digest: String::new(),
            ..self.clone()
        };
        let json = serde_json::to_vec(&unsigned).expect("a manifest is plain data");
        sha256_hex(&json)
    }

    pub(super) fn check(&self) -> Result<(), ArtifactError> {
        let wrong = |key, value: &dyn std::fmt::Debug, allowed| {
            Err(field(MANIFEST, key, &format!("{value:?}"), allowed))
        };
        if !(0.0..=1.0).contains(&self.quality) {
            return wrong("quality", &self.quality, "0 to 1");
        }
        if self.prompt.prefix.len() > MAX_AFFIX || self.prompt.suffix.len() > MAX_AFFIX {
            return wrong("prompt", &"(long)", "16 KiB on each side");
        }
        for (key, text) in [
            ("family", &self.family),
            ("architecture", &self.architecture),
            ("license", &self.license),
            ("source", &self.source),
        ] {
            if text.len() > MAX_TEXT {
                return wrong(key, &"(long)", "1 KiB");
            }
        }
        if self.tasks.is_empty() {
            return wrong("tasks", &self.tasks, "one or more");
        }
        if self.eos.len() > MAX_EOS {
            return wrong("eos", &self.eos.len(), "16 tokens");
        }
        let mut paths: Vec<&str> = self.files.iter().map(|f| f.path.as_str()).collect();
        paths.sort_unstable();
        paths.retain(|path| !OPTIONAL.contains(path));
        let mut all: Vec<&str> = self.files.iter().map(|f| f.path.as_str()).collect();
        all.sort_unstable();
        all.dedup();
        if paths != [CONFIG, WEIGHTS, TOKENIZER] || all.len() != self.files.len() {
            let allowed = "config.json, model.safetensors and tokenizer.json once each, and if there \
                are: generation_config.json, tokenizer_config.json, chat_template.jinja";
            return wrong("files", &all, allowed);
        }
        Ok(())
    }

    /// Checks what the manifest and the configuration both speak of.
    pub(super) fn check_against(&self, config: &ModelConfig) -> Result<(), ArtifactError> {
        if self.architecture != config.architecture() {
            let allowed = "the architecture of config.json";
            return Err(field(MANIFEST, "architecture", &self.architecture, allowed));
        }
        let fits = match config {
            ModelConfig::Decoder(_) => |task: &Task| matches!(task, Task::Generate | Task::Chat),
            ModelConfig::Encoder(_) => |task: &Task| matches!(task, Task::Embed | Task::Tag),
        };
        if let Some(task) = self.tasks.iter().find(|task| !fits(task)) {
            let allowed = "what the architecture can do";
            return Err(field(MANIFEST, "tasks", task.as_str(), allowed));
        }
        if let Some(id) = self.eos.iter().find(|id| **id as usize >= config.vocab()) {
            return Err(field(
                MANIFEST,
                "eos",
                &id.to_string(),
                "ids below vocab_size",
            ));
        }
        if self.context_tokens == 0 || self.context_tokens as usize > config.context() {
            let found = self.context_tokens.to_string();
            return Err(field(
                MANIFEST,
                "context_tokens",
                &found,
                "1 to what config.json allows",
            ));
        }
        Ok(())
    }

    /// Checks a file's bytes against its entry.
    pub(super) fn verify(&self, file: &'static str, bytes: &[u8]) -> Result<(), ArtifactError> {
        let entry = self.files.iter().find(|entry| entry.path == file);
        let entry = entry.expect("only files of the manifest are verified");
        let corrupt = |expected, found| {
            Err(ArtifactError::Corrupt {
                file,
                expected,
                found,
            })
        };
        if entry.bytes != bytes.len() as u64 {
            return corrupt(
                format!("{} bytes", entry.bytes),
                format!("{} bytes", bytes.len()),
            );
        }
        let found = sha256_hex(bytes);
        if entry.sha256 != found {
            return corrupt(
                format!("sha256 {}", entry.sha256),
                format!("sha256 {found}"),
            );
        }
        Ok(())
    }
}

/// A value of a file that is not allowed there.
pub(crate) fn field(
    file: &'static str,
    key: &'static str,
    value: &str,
    allowed: &'static str,
) -> ArtifactError {
    ArtifactError::Field {
        file,
        key,
        value: value.to_owned(),
        allowed,
    }
}
