//! What can be wrong with an artifact or a checkpoint.

use crate::chat::ChatTemplateError;
use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use crate::defaults::GenerationConfigError;
use crate::kernel::PackError;
use crate::tokenizer::TokenizerError;

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
    /// A file says something that cannot be.
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
    /// An artifact of an earlier or later program.
    #[error(
        "manifest.json: format = {found:?}, this program reads {expected:?}: import the checkpoint again"
    )]
    Format {
        /// What the file says.
        found: String,
        /// What is read.
        expected: &'static str,
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
    /// The tokenizer names tokens the model has no row for.
    #[error(
        "tokenizer.json has token {token}, config.json a vocab_size of {vocab}: \
         the two are not of one model"
    )]
    Vocabulary {
        /// The largest token.
        token: u32,
        /// The model's vocabulary.
        vocab: usize,
    },
    /// The model is of another kind than was asked for.
    #[error("{name} is {found}, which cannot {wanted}")]
    Kind {
        /// The model.
        name: String,
        /// Its architecture.
        found: String,
        /// What was wanted of it.
        wanted: &'static str,
    },
    /// The shape cannot be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tokenizer cannot be built.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template cannot be read.
    #[error(transparent)]
    ChatTemplate(#[from] ChatTemplateError),
    /// The generation defaults cannot be read.
    #[error(transparent)]
    GenerationConfig(#[from] GenerationConfigError),
    /// The weights do not fit the shape.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// Another program's checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Why tensors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// The artifact's file is not safetensors.
    #[error("model.safetensors has no valid header")]
    Header(#[source] safetensors::SafeTensorError),
    /// A tensor the architecture needs is absent.
    #[error("tensor {name} is missing; config.json implies one of shape {expected:?}")]
    Missing {
        /// The tensor.
        name: String,
        /// Its shape.
        expected: Vec<usize>,
    },
    /// A tensor the architecture has no place for.
    #[error("tensor {name} of shape {shape:?} has no place in {architecture}")]
    Extra {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The architecture.
        architecture: String,
    },
    /// A tensor's shape is not what `config.json` implies.
    #[error("tensor {name} has shape {found:?}, config.json implies {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// What the configuration implies.
        expected: Vec<usize>,
        /// What the file has.
        found: Vec<usize>,
    },
    /// A tensor has a type that is not read.
    #[error("tensor {name} has type {found}; supported: {supported}")]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
        /// What can be read in its place.
        supported: &'static str,
    },
    /// A tensor's values cannot be packed.
    #[error("tensor {name} cannot be packed")]
    Pack {
        /// The tensor.
        name: String,
        /// The reason.
        #[source]
        source: PackError,
    },
    /// The graphics adapter did not take the weights.
    #[error(
        "the weights do not fit the graphics adapter, which holds them as f32: {reason}; \
         engine.kernel = auto computes on the processor"
    )]
    Adapter {
        /// What its driver says.
        reason: String,
    },
    /// A weight is NaN or infinite.
    #[error("tensor {name} holds a value that is not finite")]
    NotFinite {
        /// The tensor.
        name: String,
    },
    /// The checkpoint's file cannot be read there.
    #[error(transparent)]
    Read(#[from] CheckpointError),
}
