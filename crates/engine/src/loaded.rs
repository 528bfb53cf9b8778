//! A model in memory, ready to generate.

use std::path::Path;

use tiermesh_core::{Content, ModelDigest, ModelId, NumericsId, Role, Task};

use crate::artifact::manifest::Prompt;
use crate::artifact::tensors::Tensors;
use crate::artifact::{Artifact, ArtifactError, Quantization};
use crate::kernel::KernelPath;
use crate::model::{Llama, Precision};
use crate::tokenizer::{EncodeError, TextTokenizer};

/// Raised by every change that can change a token: kernels, row functions,
/// sampler, prompt assembly. With the crate's version it is the engine's part
/// of a numerics id.
const NUMERICS_REVISION: u32 = 1;

/// How a directory becomes a model.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// The path of the packed layers.
    pub kernel: KernelPath,
    /// How a directory without a manifest is held in memory. A manifest's own
    /// quantization wins.
    pub assume: Quantization,
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

/// A model in memory.
///
/// Its numerics id is `version-revision/backend-arch-os/kernel/kv/digest`. A
/// packed (q8) model's kernel part is `q8-tiles` on every code path, since all
/// give the same bits, and reading a prompt leaves the bits that writing it
/// would have: a continuation elsewhere gives the very tokens that would have
/// come. A dense (f32) model multiplies with Burn's matrix product, whose
/// order of sums depends on the processor and on the shape of a call; its
/// kernel part names the processor's class, and a continuation reads the
/// emitted tokens one by one, as they were written.
pub struct Model {
    pub(crate) info: ModelInfo,
    pub(crate) llama: Llama,
    pub(crate) tokenizer: TextTokenizer,
    pub(crate) vocab: u32,
    pub(crate) eos: Vec<u32>,
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
        let precision = match artifact.manifest.quantization {
            Quantization::Q8 => Precision::Packed(options.kernel),
            Quantization::F32 => Precision::Dense,
        };
        let tensors = Tensors::parse(&artifact.weights)?;
        let llama = Llama::build(&artifact.config, &tensors, precision)?;
        let Artifact {
            manifest,
            config,
            tokenizer,
            ..
        } = artifact;
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
        let (prefix, suffix) = (affix(prefix)?, affix(suffix)?);
        let digest = ModelDigest::new(&manifest.digest).expect("a digest is 64 hex digits");
        Ok(Self {
            info: ModelInfo {
                numerics_id: numerics_id(manifest.quantization, &digest),
                id: manifest.name,
                family: manifest.family,
                digest,
                quantization: manifest.quantization,
                tasks: manifest.tasks,
                context_tokens: manifest.context_tokens,
                quality: manifest.quality,
                license: manifest.license,
                source: manifest.source,
                parameters: config.parameters(),
            },
            llama,
            tokenizer,
            vocab: u32::try_from(config.vocab).unwrap_or(u32::MAX),
            eos: manifest.eos,
            prefix,
            suffix,
        })
    }

    /// What it is.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The prompt as tokens. The prefix and suffix stand around every turn of
    /// the user; what the application says as `system` opens the turn after
    /// it, and what the assistant said ends with the end token, unless it is
    /// the last message: then the answer goes on from it.
    pub(crate) fn prompt(&self, content: &Content) -> Result<Vec<u32>, EncodeError> {
        let mut ids = Vec::new();
        let turn = |ids: &mut Vec<u32>, text: &str| {
            ids.extend(&self.prefix);
            ids.extend(self.tokenizer.encode_content(text)?);
            ids.extend(&self.suffix);
            Ok(())
        };
        let messages = match content {
            Content::Prompt(text) => {
                turn(&mut ids, text)?;
                return Ok(ids);
            }
            Content::Messages(messages) => messages,
        };
        let mut system = String::new();
        for (index, message) in messages.iter().enumerate() {
            match message.role {
                Role::System => {
                    system.push_str(&message.text);
                    system.push('\n');
                }
                Role::User => turn(&mut ids, &(std::mem::take(&mut system) + &message.text))?,
                Role::Assistant => {
                    ids.extend(self.tokenizer.encode_content(&message.text)?);
                    if index + 1 < messages.len() {
                        ids.extend(self.eos.first());
                    }
                }
            }
        }
        if !system.is_empty() {
            turn(&mut ids, &system)?;
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

fn numerics_id(quantization: Quantization, digest: &ModelDigest) -> NumericsId {
    let kernel = match quantization {
        Quantization::Q8 => "q8-tiles".to_owned(),
        Quantization::F32 => format!("f32-gemm-{}", vector_class()),
    };
    let id = format!(
        "{}-{NUMERICS_REVISION}/flex-{}-{}/{kernel}/kv-f32/{digest}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::env::consts::OS,
    );
    NumericsId::new(id).expect("made of letters, digits and allowed marks, under 200 bytes")
}

/// What Burn's matrix product chooses its code by.
fn vector_class() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return "avx512";
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return "avx2";
        }
    }
    "base"
}
