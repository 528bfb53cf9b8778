//! Local inference: decoders and encoders in Burn, on threads of their own.
//!
//! [`import`] turns a checkpoint into an artifact whose every byte
//! is accounted for; [`Model::load`] verifies one and builds it; [`Engine`]
//! computes answers behind a bounded queue; [`LocalInfer`] makes an engine
//! something the mesh can route to.
//!
//! ```text
//! Job ──submit──▶ queue ──▶ one thread: a step for all streams ──▶ TokenStream
//!                   │              │
//!                 Full{retry_after}└─ Decoder (Burn) ─▶ kernel (tiles)
//! ```
//!
//! What a token depends on is closed: the artifact, the prompt's tokens, the
//! sampling parameters, the seed and the token's position. [`Model`] says when
//! two machines agree on it.

mod artifact;
mod chat;
mod checkpoint;
mod config;
mod constraint;
mod defaults;
mod embedder;
mod engine;
mod gpu;
mod kernel;
mod loaded;
mod local;
mod model;
mod pooling;
mod sampler;
mod serve;
mod session;
mod stream;
mod tokenizer;

pub use artifact::{
    ArtifactError, FileEntry, ImportError, ImportOptions, ImportProgress, Manifest, Quantization,
    TensorError, import, inspect, verify,
};
pub use chat::{
    CHAT_TEMPLATE, ChatTemplate, ChatTemplateError, MAX_TEMPLATE_BYTES, PromptError, RenderError,
    TOKENIZER_CONFIG,
};
pub use checkpoint::{Checkpoint, CheckpointError, ReadAt, SafetensorsFile, TensorSource};
pub use config::ConfigError;
pub use constraint::ConstraintError;
pub use defaults::{
    GENERATION_CONFIG, GenerationConfigError, GenerationDefaults, SamplingDefaults,
};
pub use embedder::{EmbedError, Embedder, Label, LabelledToken};
pub use engine::{
    Engine, EngineLoad, EngineOptions, Job, ModelSource, PrefixSharing, PrefixStats, Remote,
    StartError, SubmitError,
};
pub use kernel::{KernelChoice, KernelPath, KernelUnavailable, PackError, UnknownKernel};
pub use loaded::{KvCacheType, LoadOptions, Model, ModelInfo};
pub use local::{LocalInfer, Prices};
pub use sampler::{NotANumber, SamplingError, SamplingOptions, SamplingParams};
pub use session::{Session, SessionError};
pub use stream::{Finished, Output, StreamError, TokenStream};
pub use tokenizer::{EncodeError, TokenizerError};
