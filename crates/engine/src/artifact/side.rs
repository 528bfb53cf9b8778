//! `tiermesh.json` and a manifest's defaults: what a checkpoint does not say of
//! itself.

use serde::Deserialize;
use tiermesh_core::{ModelId, Task};

use super::manifest::{FORMAT, FileEntry, Manifest, Prompt, Quantization, field};
use super::source::Source;
use super::{ArtifactError, SIDE_FILE};
use crate::config::{Head, ModelConfig};
use crate::pooling::Pooling;

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

/// What whoever imports says instead of the side file.
pub(super) struct Overrides {
    pub(super) name: Option<String>,
    pub(super) license: Option<String>,
    pub(super) source: Option<String>,
}

impl SideFile {
    pub(super) fn apply(&mut self, overrides: Overrides) {
        let Overrides {
            name,
            license,
            source,
        } = overrides;
        self.name = name.or(self.name.take());
        self.license = license.or(self.license.take());
        self.source = source.or(self.source.take());
    }

    /// The manifest of a source, defaults filled in: the checkpoint's name, its
    /// end tokens, what its architecture can do.
    pub(super) fn manifest(
        &self,
        source: &Source,
        quantization: Quantization,
        files: Vec<FileEntry>,
    ) -> Result<Manifest, ArtifactError> {
        let name = self.name.as_deref().unwrap_or(&source.checkpoint.name);
        let allowed = "1 to 200 letters, digits and ._:/@+-";
        let pooling = Pooling::of(&source.config, &source.checkpoint.side)?;
        let context = source.config.context();
        let most = pooling.as_ref().and_then(|pooling| pooling.max_tokens);
        let context = context.min(most.map_or(usize::MAX, |most| most as usize));
        let context = u32::try_from(context).unwrap_or(u32::MAX);
        let mut manifest = Manifest {
            format: FORMAT.to_owned(),
            name: ModelId::new(name).map_err(|_| field(SIDE_FILE, "name", name, allowed))?,
            family: self.family.clone().unwrap_or_else(|| name.to_owned()),
            architecture: source.config.architecture().to_owned(),
            quantization,
            tasks: match &self.task {
                None => default_tasks(&source.config),
                Some(Tasks::One(task)) => vec![*task],
                Some(Tasks::Many(tasks)) => tasks.clone(),
            },
            license: self.license.clone().unwrap_or_else(|| "unknown".to_owned()),
            source: self.source.clone().unwrap_or_else(|| "unknown".to_owned()),
            quality: self.quality.unwrap_or(0.5),
            context_tokens: self.context_tokens.unwrap_or(context),
            prompt: self.prompt.clone().unwrap_or_default(),
            eos: self.eos_ids(source)?,
            pooling,
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
            return source.default_eos();
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

fn default_tasks(config: &ModelConfig) -> Vec<Task> {
    match config {
        ModelConfig::Decoder(_) => vec![Task::Generate, Task::Chat],
        ModelConfig::Encoder(config) if config.head == Head::Embed => vec![Task::Embed],
        ModelConfig::Encoder(_) => vec![Task::Tag],
    }
}
