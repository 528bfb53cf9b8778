//! The engine: models in memory or on disk, a thread that computes, and the
//! requests it computes together.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tiermesh_core::ModelId;

use crate::loaded::{Model, ModelInfo};
use crate::model::PagePool;
use crate::serve::entry::{Entry, Watch, Work};
use crate::serve::models::{Loaded, Models, Slot, Wait};
use crate::serve::order::{Standing, class};
use crate::serve::queue::Queue;
use crate::serve::scheduler::Scheduler;
use crate::serve::watchdog::{Pulse, watch};
use crate::serve::{fits, prepare, warm_up, work};
use crate::stream::{Mailbox, TokenStream};

mod error;
mod job;
mod load;
mod options;

pub use crate::serve::models::{ModelSource, Remote};
pub use crate::serve::prefix::PrefixStats;
pub use error::{StartError, SubmitError};
pub use job::Job;
pub use load::EngineLoad;
pub use options::{EngineOptions, PrefixSharing};

/// Models, the thread that computes, and its queue. Dropping it breaks off
/// what runs; [`Engine::drain`] lets it end first.
pub struct Engine {
    models: Arc<Models>,
    queue: Arc<Queue>,
    pages: Arc<PagePool>,
    pulse: Arc<Pulse>,
    threads: Vec<JoinHandle<()>>,
    options: EngineOptions,
}

impl Engine {
    /// An engine of models in memory, which stay there. Tries each out, which
    /// measures its speed, and starts the threads.
    ///
    /// # Errors
    ///
    /// When there is no model, one cannot compute, or threads are refused.
    pub fn start(models: Vec<Model>, options: EngineOptions) -> Result<Self, StartError> {
        let models = models
            .into_iter()
            .map(|model| Loaded::Decoder(Arc::new(model)));
        let models = models.map(|model| (Slot::loaded(&model), Some(model)));
        Self::launch(models.collect(), options)
    }

    /// An engine of models on disk: so many of the first ones are loaded as
    /// the budget allows, the others when somebody asks for them. What is kept
    /// elsewhere is fetched then.
    ///
    /// # Errors
    ///
    /// When there is no model, one cannot be read or cannot compute, or
    /// threads are refused.
    pub fn open(sources: Vec<ModelSource>, options: EngineOptions) -> Result<Self, StartError> {
        let mut left = options.model_bytes;
        let mut models = Vec::with_capacity(sources.len());
        let mut times = Vec::new();
        for source in sources {
            let failed = |error| StartError::Load {
                path: source.path.clone(),
                source: Box::new(error),
            };
            let described = Model::describe(&source.path, source.options).map_err(failed)?;
            let known = described.map(|described| Slot::described(described, source.clone()));
            let (slot, loaded) = match known {
                Some(slot) if !source.is_here() => (slot, None),
                Some(slot) if slot.bytes > left && !models.is_empty() => (slot, None),
                known => {
                    let began = Instant::now();
                    let (loaded, known) = match (Loaded::open(&source), known) {
                        // What was fetched is damaged: the first request has
                        // it loaded, which fails, and then fetched anew.
                        (Err(error), Some(slot)) if source.remote.is_some() => {
                            tracing::warn!(model = %slot.info.id, %error, "a fetched model cannot be loaded");
                            models.push((slot, None));
                            continue;
                        }
                        (loaded, known) => (loaded.map_err(failed)?, known),
                    };
                    times.push((models.len(), began.elapsed()));
                    // What has no manifest is known only once it is loaded.
                    (known.unwrap_or_else(|| Slot::loaded(&loaded)), Some(loaded))
                }
            };
            if loaded.is_some() {
                left = left.saturating_sub(slot.bytes);
            }
            models.push((slot, loaded));
        }
        let engine = Self::launch(models, options)?;
        for (index, took) in times {
            engine.models.loaded_in(index, took);
        }
        Ok(engine)
    }

    fn launch(
        models: Vec<(Slot, Option<Loaded>)>,
        options: EngineOptions,
    ) -> Result<Self, StartError> {
        if models.is_empty() {
            return Err(StartError::NoModel);
        }
        for (index, (slot, _)) in models.iter().enumerate() {
            let id = &slot.info.id;
            if models[..index]
                .iter()
                .any(|(other, _)| other.info.id == *id)
            {
                return Err(StartError::TwoOfOneName(id.clone()));
            }
        }
        let mut speeds = Vec::with_capacity(models.len());
        for (_, loaded) in &models {
            speeds.push(match loaded {
                Some(loaded) => warm_up::all(std::slice::from_ref(loaded), options.threads)?.pop(),
                None => None,
            });
        }
        let weights = options.user_weights.clone();
        let queue = Queue::new(
            options.queue_capacity,
            options.streams.get(),
            weights,
            speeds,
        );
        let mut engine = Self {
            models: Arc::new(Models::new(models, options.model_bytes)),
            queue: Arc::new(queue),
            pages: PagePool::new(options.kv_bytes),
            pulse: Arc::default(),
            threads: Vec::new(),
            options,
        };
        engine.spawn_threads()?;
        Ok(engine)
    }

    fn spawn_threads(&mut self) -> Result<(), StartError> {
        let mut spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned());
            let thread = thread.spawn(work).map_err(StartError::Thread)?;
            self.threads.push(thread);
            Ok::<_, StartError>(())
        };
        let (queue, models) = (Arc::clone(&self.queue), Arc::clone(&self.models));
        let (pages, pulse) = (Arc::clone(&self.pages), Arc::clone(&self.pulse));
        let options = self.options.clone();
        spawn(
            "infer",
            Box::new(move || {
                let _gone = Gone(Arc::clone(&queue));
                match Scheduler::new(queue, models, pages, options, pulse) {
                    Ok(scheduler) => scheduler.run(),
                    Err(error) => tracing::error!(%error, "inference threads cannot be started"),
                }
            }),
        )?;
        let (queue, models) = (Arc::clone(&self.queue), Arc::clone(&self.models));
        let (threads, budget) = (self.options.threads, self.pages.budget());
        spawn(
            "infer-load",
            Box::new(move || models.serve(&queue, threads, budget)),
        )?;
        // Neither of the other two is waited for: they end by themselves once
        // the engine is gone.
        if self.models.has_remote() {
            let models = Arc::downgrade(&self.models);
            let fetcher = std::thread::Builder::new().name("infer-fetch".to_owned());
            fetcher
                .spawn(move || Models::fetch(&models))
                .map_err(StartError::Thread)?;
        }
        let pulse = Arc::downgrade(&self.pulse);
        let watchdog = std::thread::Builder::new().name("infer-watch".to_owned());
        watchdog
            .spawn(move || watch(&pulse))
            .map_err(StartError::Thread)?;
        Ok(())
    }

    /// The models it serves, in memory or on disk.
    pub fn models(&self) -> impl ExactSizeIterator<Item = &ModelInfo> {
        self.models.slots().iter().map(|slot| &slot.info)
    }

    /// What a model's author sets for its answers.
    #[must_use]
    pub fn defaults(&self, id: &ModelId) -> Option<&crate::defaults::GenerationDefaults> {
        let index = self.models.find(id)?;
        Some(&self.models.slots()[index].defaults)
    }

    /// The tokens of what another model said, in this one's vocabulary; none
    /// while it is not in memory.
    #[must_use]
    pub fn encode_said(
        &self,
        id: &ModelId,
        text: &str,
    ) -> Option<Result<Vec<u32>, crate::tokenizer::EncodeError>> {
        match self.models.hot(self.models.find(id)?)? {
            Loaded::Decoder(model) => Some(model.encode_said(text)),
            Loaded::Encoder(_) => None,
        }
    }

    /// Brings a model into memory ahead of its first request, from elsewhere
    /// if need be, if it fits beside those that are there. Tells whether it
    /// does.
    pub fn preload(&self, id: &ModelId) -> bool {
        self.models
            .find(id)
            .is_some_and(|index| self.models.hint(index))
    }

    /// Takes a job, or says at once why not. The queue is looked at before the
    /// text is, so a refusal costs next to nothing.
    ///
    /// # Errors
    ///
    /// See [`SubmitError`].
    pub fn submit(&self, job: Job) -> Result<TokenStream, SubmitError> {
        let submitted = Instant::now();
        let index = self.models.find(&job.model);
        let index = index.ok_or_else(|| SubmitError::UnknownModel(job.model.clone()))?;
        let info = &self.models.slots()[index].info;
        if !info.tasks.contains(&job.task) {
            return Err(SubmitError::Task {
                model: info.id.clone(),
                task: job.task,
            });
        }
        let place = self.queue.reserve()?;
        self.models.want(index).map_err(|wait| match wait {
            Wait::Cold(retry_after) => SubmitError::Cold {
                model: info.id.clone(),
                retry_after,
            },
            Wait::Failing(retry_after) => SubmitError::NotLoaded {
                model: info.id.clone(),
                retry_after,
            },
        })?;
        let mailbox = Mailbox::starting_at(job.emitted.len() as u64);
        let due = match (job.first_token, job.deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let standing = Standing {
            user: job.user.clone(),
            class: class(job.priority),
            risen: 0,
            deadline: due,
            ticket: 0,
        };
        let deadline = job.deadline;
        let (work, prompt) = match self.models.hot(index) {
            Some(loaded) => {
                let (work, prompt) = work(job, &loaded)?;
                fits(&loaded, &work, self.pages.budget())?;
                (work, prompt)
            }
            None => (Work::Raw(Box::new(job)), 0),
        };
        let predicted = self.queue.first_token_in(index, prompt, standing.class);
        in_time(predicted, deadline, submitted)?;
        let entry = Entry {
            model: index,
            work,
            standing,
            submitted,
            since: submitted,
            deadline,
            mailbox: Arc::clone(&mailbox),
            watch: Watch::new(submitted, prompt),
            predicted,
        };
        let is_raw = entry.is_raw();
        let ticket = place.enqueue(entry);
        // The model may have come between the look and the queue.
        if is_raw && let Some(loaded) = self.models.hot(index) {
            let budget = self.pages.budget();
            self.queue.prepare(index, Entry::is_raw, |entry| {
                prepare(entry, &loaded, budget)
            });
        }
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
        self.models.stop();
        for thread in self.threads.drain(..) {
            // The thread catches panics of its steps; one of its own would have
            // been reported by the panic hook already.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// However the computing thread ends, nobody waits for it any more.
struct Gone(Arc<Queue>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Predictions are off by a share; a request is refused only where even half
/// of the time foreseen is too long.
fn in_time(
    predicted: Option<Duration>,
    deadline: Option<Instant>,
    now: Instant,
) -> Result<(), SubmitError> {
    let (Some(predicted), Some(deadline)) = (predicted, deadline) else {
        return Ok(());
    };
    let left = deadline.saturating_duration_since(now);
    match predicted / 2 <= left {
        true => Ok(()),
        false => Err(SubmitError::TooLate { predicted, left }),
    }
}

pub(crate) fn check(model: &Model, prompt: &[u32], job: &Job) -> Result<(), SubmitError> {
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
