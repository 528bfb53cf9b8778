//! `config.json`: what a checkpoint says of its shape, checked before anything
//! is allocated from it.

mod attention;
mod decoder;
mod encoder;
mod raw;
mod rope;

use crate::kernel::Shape;

pub(crate) use attention::AttentionKind;
pub(crate) use decoder::DecoderConfig;
pub(crate) use encoder::{EncoderConfig, Head};
use raw::RawConfig;
pub(crate) use rope::Rope;

/// Bounds on what a file may make us allocate. Each is several times what the
/// largest model that fits an edge server has.
const MAX_VOCAB: usize = 1 << 20;
const MAX_WIDTH: usize = 1 << 16;
const MAX_LAYERS: usize = 512;
const MAX_HEADS: usize = 1024;
const MAX_HEAD_DIM: usize = 1024;
const MAX_CONTEXT: usize = 1 << 20;

/// Why `config.json` is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not JSON of the expected shape.
    #[error("config.json cannot be read")]
    Json(#[source] serde_json::Error),
    /// A key that the architecture needs is absent.
    #[error("config.json: {key} is missing; {architecture} needs it")]
    Missing {
        /// The key.
        key: &'static str,
        /// What needs it.
        architecture: String,
    },
    /// A key's value is outside what can be built.
    #[error("config.json: {key} = {value} is out of range; allowed: {allowed}")]
    Range {
        /// The key.
        key: &'static str,
        /// What the file says.
        value: String,
        /// What would be accepted.
        allowed: String,
    },
    /// A feature of the architecture that this engine does not compute.
    #[error("config.json: {key} = {value} is not supported; supported: {supported}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// What the file says.
        value: String,
        /// What is supported.
        supported: &'static str,
    },
}

/// Every architecture this engine computes.
const SUPPORTED: &str = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, \
    SmolLM3ForCausalLM, Phi3ForCausalLM, GemmaForCausalLM, Gemma2ForCausalLM, Gemma3ForCausalLM; \
    and of Bert, Roberta and XLMRoberta: Model, ForMaskedLM, ForTokenClassification, ForSequenceClassification";

/// A checkpoint's shape. Every combination that [`ModelConfig::parse`] lets
/// through can be built.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ModelConfig {
    Decoder(DecoderConfig),
    Encoder(EncoderConfig),
}

/// A tensor the architecture needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    pub(crate) name: String,
    pub(crate) kind: TensorKind,
}

/// What a tensor is for, which says how it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TensorKind {
    /// A matrix of a linear layer, or the embedding of tokens: quantised.
    Matrix(Shape),
    /// A small table, `[rows, width]`: f32.
    Table(Shape),
    /// A norm or a bias: f32.
    Vector(usize),
}

impl TensorSpec {
    fn matrix(name: impl Into<String>, n: usize, k: usize) -> Self {
        let (name, kind) = (name.into(), TensorKind::Matrix(Shape { n, k }));
        Self { name, kind }
    }

    fn vector(name: impl Into<String>, len: usize) -> Self {
        let (name, kind) = (name.into(), TensorKind::Vector(len));
        Self { name, kind }
    }

    /// The tensor's shape as a checkpoint has it.
    pub(crate) fn shape(&self) -> Vec<usize> {
        match self.kind {
            TensorKind::Matrix(Shape { n, k }) | TensorKind::Table(Shape { n, k }) => vec![n, k],
            TensorKind::Vector(len) => vec![len],
        }
    }
}

impl ModelConfig {
    /// Parses and checks `config.json`.
    ///
    /// # Errors
    ///
    /// Names the key, its value and what is allowed.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let raw: RawConfig = serde_json::from_slice(json).map_err(ConfigError::Json)?;
        if let Some(family) = decoder::Family::of(&raw) {
            return DecoderConfig::build(family, &raw).map(Self::Decoder);
        }
        if let Some(architecture) = encoder::Architecture::of(&raw) {
            return EncoderConfig::build(architecture, &raw).map(Self::Encoder);
        }
        Err(ConfigError::Unsupported {
            key: "architectures",
            value: raw.architectures.join(","),
            supported: SUPPORTED,
        })
    }

    /// The architecture as `config.json` names it.
    pub(crate) fn architecture(&self) -> &str {
        match self {
            Self::Decoder(config) => config.architecture(),
            Self::Encoder(config) => &config.architecture,
        }
    }

    pub(crate) fn vocab(&self) -> usize {
        match self {
            Self::Decoder(config) => config.vocab,
            Self::Encoder(config) => config.vocab,
        }
    }

    /// The most positions it was made for.
    pub(crate) fn context(&self) -> usize {
        match self {
            Self::Decoder(config) => config.context,
            Self::Encoder(config) => config.context,
        }
    }

    /// The end tokens that `config.json` names.
    pub(crate) fn eos(&self) -> &[u32] {
        match self {
            Self::Decoder(config) => &config.eos,
            Self::Encoder(_) => &[],
        }
    }

    /// Every tensor it is computed from. An encoder's names have no prefix;
    /// [`ModelConfig::prefix_in`] finds a checkpoint's.
    pub(crate) fn tensors(&self) -> Vec<TensorSpec> {
        match self {
            Self::Decoder(config) => config.tensors(),
            Self::Encoder(config) => config.tensors(),
        }
    }

    /// The checkpoint's name for a tensor of [`ModelConfig::tensors`]: heads
    /// are saved with the encoder under a name of its own, bare encoders not.
    pub(crate) fn name_in(&self, name: &str, has: impl Fn(&str) -> bool) -> String {
        let Self::Encoder(_) = self else {
            return name.to_owned();
        };
        let prefixed = ["bert.", "roberta."].map(|prefix| format!("{prefix}{name}"));
        match has(name) {
            true => name.to_owned(),
            false => prefixed
                .into_iter()
                .find(|name| has(name))
                .unwrap_or(name.to_owned()),
        }
    }

    /// Whether a checkpoint may hold this tensor although nothing is computed
    /// from it here: tied copies, tables that are recomputed, heads of the
    /// training task.
    pub(crate) fn ignores(&self, name: &str) -> bool {
        if name.ends_with("rotary_emb.inv_freq") {
            return true;
        }
        match self {
            Self::Decoder(config) => config.tied_head && name == "lm_head.weight",
            Self::Encoder(_) => {
                let parts = [
                    "cls.",
                    "lm_head.",
                    "pooler.",
                    "bert.pooler.",
                    "roberta.pooler.",
                ];
                parts.iter().any(|part| name.starts_with(part)) || name.ends_with("position_ids")
            }
        }
    }

    /// How many of the model's weights there are, norms and biases left out.
    pub(crate) fn parameters(&self) -> u64 {
        let of = |spec: &TensorSpec| match spec.kind {
            TensorKind::Matrix(shape) | TensorKind::Table(shape) => shape.n as u64 * shape.k as u64,
            TensorKind::Vector(_) => 0,
        };
        self.tensors().iter().map(of).sum()
    }
}

fn within(key: &'static str, value: usize, most: usize) -> Result<usize, ConfigError> {
    if (1..=most).contains(&value) {
        return Ok(value);
    }
    Err(range(key, value, format!("1 to {most}")))
}

fn range(
    key: &'static str,
    value: impl std::fmt::Display,
    allowed: impl Into<String>,
) -> ConfigError {
    ConfigError::Range {
        key,
        value: value.to_string(),
        allowed: allowed.into(),
    }
}

fn unsupported(
    key: &'static str,
    value: impl std::fmt::Display,
    supported: &'static str,
) -> ConfigError {
    ConfigError::Unsupported {
        key,
        value: value.to_string(),
        supported,
    }
}

#[cfg(test)]
mod tests;
