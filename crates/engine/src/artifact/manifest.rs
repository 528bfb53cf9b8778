//! `manifest.json` and the optional `tiermesh.json` it is made from.

use serde::{Deserialize, Serialize};
use tiermesh_core::{ModelId, Task};

use super::{ArtifactError, CONFIG, MANIFEST, SIDE_FILE, Source, TOKENIZER, WEIGHTS, sha256_hex};
use crate::config::{ARCHITECTURE, LlamaConfig};

/// The one format this version writes and reads.
const FORMAT: &str = "tiermesh-artifact/1";
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
    pub(crate) files: Vec<FileEntry>,
    pub(crate) digest: String,
}

/// How matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// int8 with an f16 scale for each 32 inputs.
    Q8,
    /// f32.
    F32,
}

impl Quantization {
    /// The spelling in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Q8 => "q8",
            Self::F32 => "f32",
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileEntry {
    pub(crate) path: String,
    pub(crate) sha256: String,
    pub(crate) bytes: u64,
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

    /// Parses a manifest and checks its digest against its content.
    pub(super) fn parse(json: &[u8]) -> Result<Self, ArtifactError> {
        let manifest: Self =
            serde_json::from_slice(json).map_err(|source| ArtifactError::Json {
                file: MANIFEST,
                source,
            })?;
        if manifest.format != FORMAT {
            return Err(field(MANIFEST, "format", &manifest.format, FORMAT));
        }
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
    fn computed_digest(&self) -> String {
        let unsigned = Self {
            digest: String::new(),
            ..self.clone()
        };
        let json = serde_json::to_vec(&unsigned).expect("a manifest is plain data");
        sha256_hex(&json)
    }

    fn check(&self) -> Result<(), ArtifactError> {
        let wrong = |key, value: &dyn std::fmt::Debug, allowed| {
            Err(field(MANIFEST, key, &format!("{value:?}"), allowed))
        };
        if self.architecture != ARCHITECTURE {
            return wrong("architecture", &self.architecture, ARCHITECTURE);
        }
        if !(0.0..=1.0).contains(&self.quality) {
            return wrong("quality", &self.quality, "0 to 1");
        }
        if self.prompt.prefix.len() > MAX_AFFIX || self.prompt.suffix.len() > MAX_AFFIX {
            return wrong("prompt", &"(long)", "16 KiB on each side");
        }
        for (key, text) in [
            ("family", &self.family),
            ("license", &self.license),
            ("source", &self.source),
        ] {
            if text.len() > MAX_TEXT {
                return wrong(key, &"(long)", "1 KiB");
            }
        }
        if self.tasks.is_empty()
            || self
                .tasks
                .iter()
                .any(|t| !matches!(t, Task::Generate | Task::Chat))
        {
            return wrong("tasks", &self.tasks, "generate, chat, or both");
        }
        if self.eos.len() > MAX_EOS {
            return wrong("eos", &self.eos.len(), "16 tokens");
        }
        let mut paths: Vec<&str> = self.files.iter().map(|f| f.path.as_str()).collect();
        paths.sort_unstable();
        if paths != [CONFIG, WEIGHTS, TOKENIZER] {
            return wrong(
                "files",
                &paths,
                "config.json, model.safetensors and tokenizer.json",
            );
        }
        Ok(())
    }

    /// Checks what the manifest and the configuration both speak of.
    pub(super) fn check_against(&self, config: &LlamaConfig) -> Result<(), ArtifactError> {
        if let Some(id) = self.eos.iter().find(|id| **id as usize >= config.vocab) {
            return Err(field(
                MANIFEST,
                "eos",
                &id.to_string(),
                "ids below vocab_size",
            ));
        }
        if self.context_tokens == 0 || self.context_tokens as usize > config.context {
            let found = self.context_tokens.to_string();
            return Err(field(
                MANIFEST,
                "context_tokens",
                &found,
                "1 to max_position_embeddings",
            ));
        }
        Ok(())
    }

    /// Checks a file's bytes against its entry.
    pub(super) fn verify(&self, file: &'static str, bytes: &[u8]) -> Result<(), ArtifactError> {
        let entry = self.files.iter().find(|entry| entry.path == file);
        let entry = entry.expect("check has seen all three files");
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

/// `tiermesh.json`: what a Hugging Face checkpoint does not say of itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SideFile {
    name: Option<String>,
    family: Option<String>,
    license: Option<String>,
    source: Option<String>,
    task: Option<Tasks>,
    quality: Option<f32>,
    prompt: Option<Prompt>,
    eos: Option<Vec<TokenName>>,
    context_tokens: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Tasks {
    One(Task),
    Many(Vec<Task>),
}

/// A token by number or by its text.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum TokenName {
    Id(u32),
    Text(String),
}

impl SideFile {
    /// The manifest of a source, defaults filled in: the directory's name, the
    /// configuration's end tokens, both text tasks.
    pub(super) fn manifest(
        &self,
        source: &Source,
        quantization: Quantization,
        files: Vec<FileEntry>,
    ) -> Result<Manifest, ArtifactError> {
        let name = self.name.as_deref().unwrap_or(&source.directory_name);
        let allowed = "1 to 200 letters, digits and ._:/@+-";
        let context = u32::try_from(source.config.context).unwrap_or(u32::MAX);
        let mut manifest = Manifest {
            format: FORMAT.to_owned(),
            name: ModelId::new(name).map_err(|_| field(SIDE_FILE, "name", name, allowed))?,
            family: self.family.clone().unwrap_or_else(|| name.to_owned()),
            architecture: ARCHITECTURE.to_owned(),
            quantization,
            tasks: match &self.task {
                None => vec![Task::Generate, Task::Chat],
                Some(Tasks::One(task)) => vec![*task],
                Some(Tasks::Many(tasks)) => tasks.clone(),
            },
            license: self.license.clone().unwrap_or_else(|| "unknown".to_owned()),
            source: self.source.clone().unwrap_or_else(|| "unknown".to_owned()),
            quality: self.quality.unwrap_or(0.5),
            context_tokens: self.context_tokens.unwrap_or(context),
            prompt: self.prompt.clone().unwrap_or_default(),
            eos: self.eos_ids(source)?,
            files,
            digest: String::new(),
        };
        manifest.check()?;
        manifest.check_against(&source.config)?;
        manifest.digest = manifest.computed_digest();
        Ok(manifest)
    }

    fn eos_ids(&self, source: &Source) -> Result<Vec<u32>, ArtifactError> {
        let Some(names) = &self.eos else {
            return Ok(source.config.eos.clone());
        };
        let id = |name: &TokenName| match name {
            TokenName::Id(id) => Ok(*id),
            TokenName::Text(text) => source
                .tokenizer
                .token_id(text)
                .ok_or_else(|| field(SIDE_FILE, "eos", text, "tokens of tokenizer.json")),
        };
        names.iter().map(id).collect()
    }
}

fn field(
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
