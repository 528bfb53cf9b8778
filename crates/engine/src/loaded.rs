//! A model in memory, ready to generate.

mod numerics;

use std::path::Path;
use std::sync::OnceLock;

use tiermesh_core::{
    Content, Message, ModelDigest, ModelId, NumericsId, OutputConstraint, Role, Task,
};
use time::OffsetDateTime;

use crate::artifact::manifest::Prompt;
use crate::artifact::{Artifact, ArtifactError, Manifest, Outline, Quantization};
use crate::chat::{CHAT_TEMPLATE, ChatTemplate, PromptError, TOKENIZER_CONFIG, TokenizerConfig};
use crate::config::ModelConfig;
use crate::constraint::{Compiler, Constraint, ConstraintError};
use crate::defaults::{GENERATION_CONFIG, GenerationDefaults};
use crate::kernel::{Encoding, KernelPath};
use crate::model::{Decoder, KvType, Precision};
use crate::tokenizer::{EncodeError, TextTokenizer};
use numerics::numerics_id;

/// How a directory becomes a model.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// The path of the packed layers.
    pub kernel: KernelPath,
    /// How a directory without a manifest is held in memory. A manifest's own
    /// quantization wins.
    pub assume: Quantization,
    /// How keys and values are held.
    pub kv_cache: KvCacheType,
}

impl LoadOptions {
    /// Keys and values in floats.
    #[must_use]
    pub fn new(kernel: KernelPath, assume: Quantization) -> Self {
        Self {
            kernel,
            assume,
            kv_cache: KvCacheType::Auto,
        }
    }
}

/// How keys and values are held (`engine.kv_cache`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvCacheType {
    /// f16 beside quantised matrices, f32 beside floats.
    #[default]
    Auto,
    /// Eight bits a number, with an f32 scale for each position and head: a
    /// little more than half of f16's memory. The model's card says what that
    /// does to its answers; `benches/README.md` has what it did to ours.
    Q8,
}

impl KvCacheType {
    /// What it means for matrices held like this.
    pub(crate) fn beside(self, precision: Precision) -> KvType {
        match (self, precision.encoding()) {
            (Self::Q8, _) => KvType::Q8,
            // What is quantised anyway loses nothing that shows.
            (Self::Auto, Some(Encoding::Q8 | Encoding::Q4)) => KvType::F16,
            (Self::Auto, _) => KvType::F32,
        }
    }
}

/// What a model is. All of it is public knowledge.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// Its exact name.
    pub id: ModelId,
    /// Its family.
    pub family: String,
    /// SHA-256 over the artifact.
    pub digest: ModelDigest,
    /// Equal ids say equal tokens; see [`Model`].
    pub numerics_id: NumericsId,
    /// How its matrices are held.
    pub quantization: Quantization,
    /// What it was made for.
    pub tasks: Vec<Task>,
    /// Prompt and answer together, in tokens.
    pub context_tokens: u32,
    /// Measured quality at its tasks, 0 to 1.
    pub quality: f32,
    /// Its licence, as the artifact says.
    pub license: String,
    /// Where it comes from, as the artifact says.
    pub source: String,
    /// Weights, norms left out.
    pub parameters: u64,
}

impl ModelInfo {
    pub(crate) fn new(
        manifest: &Manifest,
        config: &ModelConfig,
        (precision, kv): (Precision, KvType),
    ) -> Self {
        let digest = ModelDigest::new(&manifest.digest).expect("a digest is 64 hex digits");
        Self {
            numerics_id: numerics_id(manifest.quantization, (precision, kv), &digest),
            id: manifest.name.clone(),
            family: manifest.family.clone(),
            digest,
            quantization: manifest.quantization,
            tasks: manifest.tasks.clone(),
            context_tokens: manifest.context_tokens,
            quality: manifest.quality,
            license: manifest.license.clone(),
            source: manifest.source.clone(),
            parameters: config.parameters(),
        }
    }
}

/// What is known of a model whose weights were not read.
pub(crate) struct Described {
    pub(crate) info: ModelInfo,
    pub(crate) defaults: GenerationDefaults,
}

/// A model in memory.
///
/// Its numerics id is `version-revision/backend-arch-os/kernel/kv/digest`. A
/// packed model's kernel part is `q8-tiles`, `q4-tiles` or `f16-tiles` on every
/// code path, since all give the same bits, and reading a prompt leaves the bits that writing it
/// would have: a continuation elsewhere gives the very tokens that would have
/// come. A dense (f32) model multiplies with Burn's matrix product, whose
/// order of sums depends on the processor and on the shape of a call; its
/// kernel part names the processor's class, and a continuation reads the
/// emitted tokens one by one, as they were written. So does one on a graphics
/// adapter, whose kernel part names the adapter and its driver.
pub struct Model {
    pub(crate) info: ModelInfo,
    pub(crate) decoder: Decoder,
    pub(crate) tokenizer: TextTokenizer,
    pub(crate) vocab: u32,
    pub(crate) eos: Vec<u32>,
    /// The manifest's own way to ask: what stands before and after a turn.
    affixes: Option<Affixes>,
    chat: Option<ChatTemplate>,
    defaults: GenerationDefaults,
    /// Made with the first constraint.
    compiler: OnceLock<Result<Compiler, ConstraintError>>,
}

struct Affixes {
    prefix: Vec<u32>,
    suffix: Vec<u32>,
}

impl Model {
    /// Reads, verifies and builds a model: one of our artifacts, or a plain
    /// Hugging Face directory.
    ///
    /// # Errors
    ///
    /// Names the file, and the key or tensor in it.
    pub fn load(directory: &Path, options: LoadOptions) -> Result<Self, ArtifactError> {
        let artifact = Artifact::open(directory, options.assume)?;
        let precision = artifact.precision(options.kernel);
        let kv = options.kv_cache.beside(precision);
        let Artifact {
            manifest,
            config,
            mut tokenizer,
            weights,
            side,
        } = artifact;
        let ModelConfig::Decoder(shape) = &config else {
            return Err(ArtifactError::Kind {
                name: manifest.name.to_string(),
                found: manifest.architecture,
                wanted: "write text",
            });
        };
        let decoder = Decoder::build(shape, &*weights, (precision, kv))?;
        let file = |name| side.get(name).map(Vec::as_slice);
        let settings = TokenizerConfig::parse(file(TOKENIZER_CONFIG))?;
        let chat = ChatTemplate::new(&settings, file(CHAT_TEMPLATE))?;
        tokenizer.configure(&settings, chat.as_ref())?;
        let defaults = file(GENERATION_CONFIG).map(GenerationDefaults::from_json);
        let defaults = defaults.transpose()?.unwrap_or_default();
        let affix = |text: &str| {
            tokenizer
                .encode_template(text)
                .map_err(|_| ArtifactError::Field {
                    file: crate::artifact::MANIFEST,
                    key: "prompt",
                    value: text.to_owned(),
                    allowed: "text the tokenizer encodes",
                })
        };
        let Prompt { prefix, suffix } = &manifest.prompt;
        let affixes = match prefix.is_empty() && suffix.is_empty() {
            true => None,
            false => Some(Affixes {
                prefix: affix(prefix)?,
                suffix: affix(suffix)?,
            }),
        };
        Ok(Self {
            info: ModelInfo::new(&manifest, &config, (precision, kv)),
            decoder,
            tokenizer,
            vocab: u32::try_from(config.vocab()).unwrap_or(u32::MAX),
            eos: manifest.eos,
            affixes,
            chat,
            defaults,
            compiler: OnceLock::new(),
        })
    }

    /// What one of our artifacts says of itself, its weights unread. None for
    /// another program's checkpoint: what that is shows once it is loaded.
    pub(crate) fn describe(
        directory: &Path,
        options: LoadOptions,
    ) -> Result<Option<Described>, ArtifactError> {
        let Some(outline) = Outline::read(directory)? else {
            return Ok(None);
        };
        let precision = outline.precision(options.kernel);
        let kv_cache = match outline.config {
            ModelConfig::Decoder(_) => options.kv_cache,
            ModelConfig::Encoder(_) => KvCacheType::Auto,
        };
        let kv = kv_cache.beside(precision);
        let defaults = outline
            .generation
            .as_deref()
            .map(GenerationDefaults::from_json);
        Ok(Some(Described {
            info: ModelInfo::new(&outline.manifest, &outline.config, (precision, kv)),
            defaults: defaults.transpose()?.unwrap_or_default(),
        }))
    }

    /// Compiles what an answer must fit, which goes on after `emitted`.
    pub(crate) fn constrain(
        &self,
        wanted: &OutputConstraint,
        emitted: &[u32],
    ) -> Result<Constraint, ConstraintError> {
        let made = || Compiler::new(&self.tokenizer, self.vocab, &self.eos);
        match self.compiler.get_or_init(made) {
            Ok(compiler) => compiler.compile(wanted, emitted),
            Err(error) => Err(error.clone()),
        }
    }

    /// What it is.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What its author sets for its answers.
    #[must_use]
    pub fn defaults(&self) -> &GenerationDefaults {
        &self.defaults
    }

    /// Whether conversations have a template of the model's own.
    #[must_use]
    pub fn has_chat_template(&self) -> bool {
        self.chat.is_some()
    }

    /// A text as tokens, special ones recognised and those around a text put
    /// there, as `transformers` encodes it. For text whose author may say what
    /// is special: the operator, and nobody on the network.
    ///
    /// # Errors
    ///
    /// When the tokenizer cannot encode it.
    pub fn encode_trusted(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        self.tokenizer.encode_trusted(text)
    }

    /// An answer's text as tokens, for this model to go on from. Nothing in it
    /// becomes a special token.
    ///
    /// # Errors
    /// When the tokenizer cannot spell the text.
    pub fn encode_said(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        self.tokenizer.encode_content(text)
    }

    /// The prompt as tokens. A model whose manifest says what stands around a
    /// turn is asked so; any other reads a plain prompt as its tokenizer
    /// encodes a text, and a conversation by its chat template. Without one,
    /// a conversation is its texts in a row.
    pub(crate) fn prompt(&self, content: &Content) -> Result<Vec<u32>, PromptError> {
        match (content, &self.affixes, &self.chat) {
            (Content::Prompt(text), None, _) => Ok(self.tokenizer.encode_prompt(text)?),
            (Content::Prompt(text), Some(affixes), _) => Ok(self.turn(affixes, text)?),
            (Content::Messages(messages), None, Some(chat)) => {
                chat.encode(&self.tokenizer, messages, OffsetDateTime::now_utc())
            }
            (Content::Messages(messages), affixes, _) => {
                let bare = Affixes {
                    prefix: Vec::new(),
                    suffix: Vec::new(),
                };
                Ok(self.turns(affixes.as_ref().unwrap_or(&bare), messages)?)
            }
        }
    }

    fn turn(&self, affixes: &Affixes, text: &str) -> Result<Vec<u32>, EncodeError> {
        let mut ids = affixes.prefix.clone();
        ids.extend(self.tokenizer.encode_content(text)?);
        ids.extend(&affixes.suffix);
        Ok(ids)
    }

    /// The prefix and suffix stand around every turn of the user; what the
    /// application says as `system` opens the turn after it, and what the
    /// assistant said ends with the end token, unless it is the last message:
    /// then the answer goes on from it.
    fn turns(&self, affixes: &Affixes, messages: &[Message]) -> Result<Vec<u32>, EncodeError> {
        let mut ids = Vec::new();
        let mut system = String::new();
        for (index, message) in messages.iter().enumerate() {
            match message.role {
                Role::System => {
                    system.push_str(&message.text);
                    system.push('\n');
                }
                Role::User => {
                    let text = std::mem::take(&mut system) + &message.text;
                    ids.extend(self.turn(affixes, &text)?);
                }
                Role::Assistant => {
                    ids.extend(self.tokenizer.encode_content(&message.text)?);
                    if index + 1 < messages.len() {
                        ids.extend(self.eos.first());
                    }
                }
            }
        }
        if !system.is_empty() {
            ids.extend(self.turn(affixes, &system)?);
        }
        Ok(ids)
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
