//! Why an engine does not start, or does not take a job.

use std::time::Duration;

use tiermesh_core::{ModelId, Task};

use crate::chat::PromptError;
use crate::constraint::ConstraintError;
use crate::embedder::EmbedError;

/// Why a job is not taken. Nothing was computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full.
    #[error("the queue of {capacity} is full; it empties in about {} ms", retry_after.as_millis())]
    Full {
        /// Streams that may wait.
        capacity: usize,
        /// When the first of those that run is expected to end.
        retry_after: Duration,
    },
    /// The work ahead of it takes longer than its deadline allows.
    #[error(
        "the first token would come in about {} ms, and the deadline is in {} ms",
        predicted.as_millis(), left.as_millis()
    )]
    TooLate {
        /// Time to the first token at measured speed.
        predicted: Duration,
        /// Time to the deadline.
        left: Duration,
    },
    /// It could never have the memory it may need.
    #[error("the request may need {needed} bytes of keys and values, and the engine has {budget}")]
    TooLarge {
        /// Bytes for its prompt and its longest answer.
        needed: usize,
        /// Bytes there are in all.
        budget: usize,
    },
    /// The model could not be fetched or loaded a moment ago.
    #[error("model {model} could not be loaded; it is tried again in {} s", retry_after.as_secs())]
    NotLoaded {
        /// The model.
        model: ModelId,
        /// When it is tried again.
        retry_after: Duration,
    },
    /// The model is kept elsewhere, and is being fetched for this request.
    #[error("model {model} is not on this node yet; it is fetched, which takes about {} s", retry_after.as_secs())]
    Cold {
        /// The model.
        model: ModelId,
        /// When it should be here.
        retry_after: Duration,
    },
    /// The model cannot do what is asked of it.
    #[error("model {model} cannot do `{}`", task.as_str())]
    Task {
        /// The model.
        model: ModelId,
        /// What was asked.
        task: Task,
    },
    /// An encoder reads a text, not a conversation.
    #[error("an encoder reads a prompt, not messages")]
    NotAText,
    /// The text cannot be encoded for this model.
    #[error(transparent)]
    Text(#[from] EmbedError),
    /// What the answer must fit cannot be used.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// The engine is stopping.
    #[error("the engine is stopping")]
    Stopping,
    /// No model of that name is in memory.
    #[error("model {0} is not in memory")]
    UnknownModel(ModelId),
    /// The content has no tokens.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// There is nothing to read.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// Prompt and emitted tokens leave no room for an answer.
    #[error("the prompt has {tokens} tokens, the model's context {context}")]
    PromptTooLong {
        /// Tokens of the prompt and of the answer so far.
        tokens: usize,
        /// What prompt and answer together may have.
        context: u32,
    },
    /// A biased token is not one of the model's.
    #[error("token {id} of the logit bias is not in the model's vocabulary of {vocab}")]
    UnknownBias {
        /// The token.
        id: u32,
        /// The vocabulary's size.
        vocab: u32,
    },
    /// A token of the continued answer is not one of the model's.
    #[error("token {id} of the answer so far is not in the model's vocabulary of {vocab}")]
    UnknownToken {
        /// The token.
        id: u32,
        /// The vocabulary's size.
        vocab: u32,
    },
}

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It was given nothing to serve.
    #[error("the engine has no model")]
    NoModel,
    /// Two models have one name.
    #[error("two models are named {0}")]
    TwoOfOneName(ModelId),
    /// A model's directory cannot be loaded.
    #[error("cannot load the model in {}", path.display())]
    Load {
        /// The directory.
        path: std::path::PathBuf,
        /// The reason.
        #[source]
        source: Box<crate::artifact::ArtifactError>,
    },
    /// A model failed on a first try-out.
    #[error("model {model} cannot compute")]
    WarmUp {
        /// The model.
        model: ModelId,
        /// The reason.
        #[source]
        source: crate::stream::StreamError,
    },
    /// The system gives no thread.
    #[error("an inference thread cannot be started")]
    Thread(#[source] std::io::Error),
}
