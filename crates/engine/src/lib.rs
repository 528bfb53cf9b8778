//! Local inference: a Llama-family decoder in Burn on threads of its own.
//!
//! [`import`] turns a Hugging Face directory into an artifact whose every byte
//! is accounted for; [`Model::load`] verifies one and builds it; [`Engine`]
//! computes answers behind a bounded queue; [`LocalInfer`] makes an engine
//! something the mesh can route to.
//!
//! ```text
//! Job ──submit──▶ queue ──▶ worker thread: Generation::step ──▶ TokenStream
//!                   │              │
//!                 Full{retry_after}└─ Llama (Burn) ─▶ kernel (int8 tiles)
//! ```
//!
//! What a token depends on is closed: the artifact, the prompt's tokens, the
//! sampling parameters, the seed and the token's position. [`Model`] says when
//! two machines agree on it.

mod artifact;
mod config;
mod engine;
mod generation;
mod kernel;
mod loaded;
mod local;
mod model;
mod queue;
mod sampler;
mod speed;
mod stream;
mod tokenizer;
mod worker;

pub use artifact::{ArtifactError, ImportError, Manifest, Quantization, TensorError, import};
pub use config::ConfigError;
pub use engine::{Engine, EngineLoad, EngineOptions, Job, StartError, SubmitError};
pub use kernel::{KernelChoice, KernelPath, KernelUnavailable, PackError, UnknownKernel};
pub use loaded::{LoadOptions, Model, ModelInfo};
pub use local::{LocalInfer, Prices};
pub use sampler::{NotANumber, SamplingParams};
pub use stream::{Finished, Output, StreamError, TokenStream};
pub use tokenizer::{EncodeError, TokenizerError};
