//! The engine: models in memory, threads of their own, a bounded queue.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tiermesh_core::{Content, ModelId, ModelState};

use crate::chat::PromptError;
use crate::generation::Plan;
use crate::loaded::Model;
use crate::queue::{Entry, Queue};
use crate::sampler::SamplingParams;
use crate::stream::{Mailbox, TokenStream};
use crate::worker;

/// How an engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Streams computed at the same time, each on a thread of its own.
    pub workers: NonZeroUsize,
    /// Threads that share the work of one stream's step. More than one pays
    /// from some hundred million parameters on.
    pub threads: NonZeroUsize,
    /// Streams that may wait for a worker. One more is refused.
    pub queue_capacity: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            workers: NonZeroUsize::MIN,
            threads: NonZeroUsize::MIN,
            queue_capacity: 32,
        }
    }
}

/// One answer to compute.
#[derive(Clone, Debug)]
pub struct Job {
    /// Which model.
    pub model: ModelId,
    /// What it reads.
    pub content: Content,
    /// Tokens of the answer the client has already: the answer goes on after
    /// them as if it had never stopped.
    pub emitted: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// With the position, decides every draw.
    pub seed: u64,
    /// The answer's length at most, emitted tokens included.
    pub max_tokens: u32,
    /// The answer ends before any of these.
    pub stop: Vec<String>,
    /// When it must be over.
    pub deadline: Option<Instant>,
}

/// Why a job is not taken. Nothing was computed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full.
    #[error("the queue of {capacity} is full; it empties in about {} ms", retry_after.as_millis())]
    Full {
        /// Streams that may wait.
        capacity: usize,
        /// The work ahead at measured speed, over all workers.
        retry_after: Duration,
    },
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

/// How busy an engine is.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineLoad {
    /// Streams being computed.
    pub active: usize,
    /// Streams waiting.
    pub queued: usize,
    /// Streams that may wait.
    pub capacity: usize,
    /// Streams that can be computed at once.
    pub workers: usize,
    /// Each model's measured speed, in the order of [`Engine::models`].
    pub models: Vec<ModelState>,
}

/// Models, their threads and their queue. Dropping it breaks off what runs;
/// [`Engine::drain`] lets it end first.
pub struct Engine {
    models: Vec<Arc<Model>>,
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
    workers: usize,
}

impl Engine {
    /// Tries each model out, which measures its speed, and starts the threads.
    ///
    /// # Errors
    ///
    /// When there is no model, one cannot compute, or threads are refused.
    pub fn start(models: Vec<Model>, options: EngineOptions) -> Result<Self, StartError> {
        if models.is_empty() {
            return Err(StartError::NoModel);
        }
        for (index, model) in models.iter().enumerate() {
            let id = &model.info.id;
            if models[..index].iter().any(|other| other.info.id == *id) {
                return Err(StartError::TwoOfOneName(id.clone()));
            }
        }
        let models: Vec<Arc<Model>> = models.into_iter().map(Arc::new).collect();
        let speeds = worker::warm_up(&models, options.threads)?;
        let workers = options.workers.get();
        let mut engine = Self {
            models,
            queue: Arc::new(Queue::new(options.queue_capacity, workers, speeds)),
            threads: Vec::with_capacity(workers),
            workers,
        };
        for index in 0..workers {
            let queue = Arc::clone(&engine.queue);
            let thread = std::thread::Builder::new()
                .name(format!("infer-{index}"))
                .spawn(move || worker::run(&queue, options.threads))
                .map_err(StartError::Thread)?;
            engine.threads.push(thread);
        }
        Ok(engine)
    }

    /// The models in memory.
    #[must_use]
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    /// Takes a job, or says at once why not. The queue is looked at before the
    /// text is, so a refusal costs next to nothing.
    ///
    /// # Errors
    ///
    /// See [`SubmitError`].
    pub fn submit(&self, job: Job) -> Result<TokenStream, SubmitError> {
        let submitted = Instant::now();
        let index = self
            .models
            .iter()
            .position(|model| model.info.id == job.model);
        let index = index.ok_or_else(|| SubmitError::UnknownModel(job.model.clone()))?;
        let place = self.queue.reserve()?;
        let model = &self.models[index];
        let prompt = model.prompt(&job.content)?;
        check(model, &prompt, &job)?;
        let mailbox = Mailbox::starting_at(job.emitted.len() as u64);
        let plan = Plan {
            prompt,
            emitted: job.emitted,
            sampling: job.sampling,
            seed: job.seed,
            max_tokens: job.max_tokens.min(model.info.context_tokens),
            stop: job.stop,
        };
        let entry = Entry {
            model: Arc::clone(model),
            model_index: index,
            plan,
            submitted,
            deadline: job.deadline,
            mailbox: Arc::clone(&mailbox),
        };
        let ticket = place.enqueue(entry);
        let queue = Arc::downgrade(&self.queue);
        let withdraw = move || {
            if let Some(queue) = queue.upgrade() {
                queue.withdraw(ticket);
            }
        };
        Ok(TokenStream {
            mailbox,
            withdraw: Some(Box::new(withdraw)),
        })
    }

    /// How busy it is, now.
    #[must_use]
    pub fn load(&self) -> EngineLoad {
        let load = self.queue.load();
        EngineLoad {
            active: load.active,
            queued: load.queued,
            capacity: load.capacity,
            workers: self.workers,
            models: load.models,
        }
    }

    /// Takes no more jobs, and waits until those it has are done, for at most
    /// this long; then breaks off the rest. Blocks the calling thread.
    pub fn drain(&self, patience: Duration) {
        self.queue.close();
        self.queue.wait_until_idle(patience);
        self.queue.abort();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.queue.close();
        self.queue.abort();
        for thread in self.threads.drain(..) {
            // A worker catches panics of its steps; one of its own would have
            // been reported by the panic hook already.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("models", &self.models)
            .finish_non_exhaustive()
    }
}

fn check(model: &Model, prompt: &[u32], job: &Job) -> Result<(), SubmitError> {
    if prompt.is_empty() {
        return Err(SubmitError::EmptyPrompt);
    }
    if let Some(id) = job
        .emitted
        .iter()
        .chain(prompt)
        .find(|id| **id >= model.vocab)
    {
        return Err(SubmitError::UnknownToken {
            id: *id,
            vocab: model.vocab,
        });
    }
    let biases = job.sampling.options().logit_bias.iter();
    if let Some((id, _)) = biases.last().filter(|(id, _)| *id >= model.vocab) {
        return Err(SubmitError::UnknownBias {
            id: *id,
            vocab: model.vocab,
        });
    }
    let tokens = prompt.len() + job.emitted.len();
    let context = model.info.context_tokens;
    if tokens > context as usize || prompt.len() == context as usize {
        return Err(SubmitError::PromptTooLong { tokens, context });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
