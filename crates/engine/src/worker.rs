//! The threads that compute.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};
use tiermesh_core::{FinishReason, Token};

use crate::engine::StartError;
use crate::generation::{Generation, Plan, Step};
use crate::loaded::Model;
use crate::queue::{Entry, Queue};
use crate::sampler::SamplingParams;
use crate::speed::{Sample, Speed};
use crate::stream::{Finished, StreamError};

/// The try-out of a model: enough tokens to measure, few enough to be quick.
const WARM_UP_PROMPT: usize = 64;
const WARM_UP_TOKENS: u32 = 16;

/// Serves the queue until it closes.
pub(crate) fn run(queue: &Queue, threads: NonZeroUsize) {
    let pool = match pool(threads) {
        Ok(pool) => pool,
        Err(error) => {
            tracing::error!(%error, "an inference thread pool cannot be built");
            return;
        }
    };
    while let Some((ticket, entry)) = queue.next() {
        let (index, mailbox) = (entry.model_index, Arc::clone(&entry.mailbox));
        let stopped = || {
            if mailbox.is_abandoned() {
                return Some(None);
            }
            queue.is_aborted().then_some(Some(StreamError::Stopped))
        };
        let (ending, sample) = serve(entry, &pool, stopped);
        // The place is free before the reader can know of the end.
        queue.finish(ticket, index, sample);
        if let Some(ending) = ending {
            mailbox.end(ending);
        }
    }
}

/// A pool in which the worker itself is the first thread: a step of one
/// thread never leaves it.
fn pool(threads: NonZeroUsize) -> Result<ThreadPool, rayon::ThreadPoolBuildError> {
    ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .thread_name(|index| format!("infer-part-{index}"))
        .use_current_thread()
        .build()
}

type Ending = Option<Result<Finished, StreamError>>;

/// Computes one stream. No ending means that nobody waits for one.
fn serve(
    entry: Entry,
    pool: &ThreadPool,
    stopped: impl Fn() -> Option<Option<StreamError>>,
) -> (Ending, Option<Sample>) {
    let Entry {
        model,
        plan,
        submitted,
        deadline,
        mailbox,
        ..
    } = entry;
    let mut watch = Watch::new(submitted, &plan);
    let step = |generation: &mut Option<Generation>, plan: &mut Option<Plan>| {
        let step = || {
            if let Some(plan) = plan.take() {
                *generation = Some(Generation::new(Arc::clone(&model), plan));
            }
            generation.as_mut().expect("made above").step()
        };
        let caught = catch_unwind(AssertUnwindSafe(|| pool.install(step)));
        caught
            .map_err(|_| StreamError::Panicked)?
            .map_err(StreamError::from)
    };
    let (mut generation, mut plan) = (None, Some(plan));
    loop {
        if let Some(error) = stopped() {
            return (error.map(Err), None);
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return (Some(Err(StreamError::Deadline)), None);
        }
        let mut send = |token: Token| {
            watch.token();
            mailbox.push(token);
        };
        match step(&mut generation, &mut plan) {
            Err(error) => return (Some(Err(error)), None),
            Ok(Step::Read(_)) => {}
            Ok(Step::Token(token)) => send(token),
            Ok(Step::Finished(token, reason)) => {
                token.into_iter().for_each(&mut send);
                let end_token = generation.as_ref().and_then(Generation::end_token);
                return (Some(Ok(watch.finished(reason, end_token))), watch.sample());
            }
        }
    }
}

/// The times of one stream.
struct Watch {
    submitted: Instant,
    began: Instant,
    first: Option<Instant>,
    last: Instant,
    prompt_tokens: u64,
    read_tokens: u64,
    output_tokens: u64,
}

impl Watch {
    fn new(submitted: Instant, plan: &Plan) -> Self {
        let now = Instant::now();
        Self {
            submitted,
            began: now,
            first: None,
            last: now,
            prompt_tokens: plan.prompt.len() as u64,
            read_tokens: (plan.prompt.len() + plan.emitted.len()) as u64,
            output_tokens: 0,
        }
    }

    fn token(&mut self) {
        self.last = Instant::now();
        self.first.get_or_insert(self.last);
        self.output_tokens += 1;
    }

    fn finished(&self, reason: FinishReason, end_token: Option<u32>) -> Finished {
        Finished {
            reason,
            end_token,
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens,
            first_token: self.first.map(|first| first - self.submitted),
            total: self.submitted.elapsed(),
        }
    }

    fn sample(&self) -> Option<Sample> {
        let first = self.first?;
        Some(Sample {
            prompt_tokens: self.read_tokens,
            prefill: first - self.began,
            output_tokens: self.output_tokens,
            decode: self.last - first,
            first_token: first - self.submitted,
        })
    }
}

/// Runs each model once on a thread like the workers', which also shows that
/// it can compute at all, and once more to measure it warm.
pub(crate) fn warm_up(
    models: &[Arc<Model>],
    threads: NonZeroUsize,
) -> Result<Vec<Speed>, StartError> {
    let all = || -> Result<Vec<Speed>, StartError> {
        let pool = pool(threads)
            .map_err(std::io::Error::other)
            .map_err(StartError::Thread)?;
        let try_out = |model: &Arc<Model>| {
            measure(model, &pool)
                .and_then(|_| measure(model, &pool))
                .map_err(|source| StartError::WarmUp {
                    model: model.info.id.clone(),
                    source,
                })
        };
        models.iter().map(try_out).collect()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("infer-warm-up".to_owned());
        let handle = thread
            .spawn_scoped(scope, all)
            .map_err(StartError::Thread)?;
        handle
            .join()
            .unwrap_or_else(|_| Err(StartError::Thread(std::io::Error::other("panicked"))))
    })
}

fn measure(model: &Arc<Model>, pool: &ThreadPool) -> Result<Speed, StreamError> {
    let room = model
        .info
        .context_tokens
        .saturating_sub(WARM_UP_TOKENS)
        .max(1) as usize;
    let plan = Plan {
        prompt: vec![model.vocab / 2; WARM_UP_PROMPT.min(room)],
        emitted: Vec::new(),
        sampling: SamplingParams::GREEDY,
        seed: 0,
        max_tokens: WARM_UP_TOKENS,
        stop: Vec::new(),
    };
    let mut sample = Sample {
        prompt_tokens: plan.prompt.len() as u64,
        prefill: Duration::ZERO,
        output_tokens: 1,
        decode: Duration::ZERO,
        first_token: Duration::ZERO,
    };
    let mut generation = Generation::new(Arc::clone(model), plan);
    let began = Instant::now();
    let step = |generation: &mut Generation| {
        catch_unwind(AssertUnwindSafe(|| pool.install(|| generation.step())))
            .map_err(|_| StreamError::Panicked)?
            .map_err(StreamError::from)
    };
    let mut ended = matches!(step(&mut generation)?, Step::Finished(..));
    sample.prefill = began.elapsed();
    sample.first_token = sample.prefill;
    while !ended {
        ended = matches!(step(&mut generation)?, Step::Finished(..));
        sample.output_tokens += 1;
    }
    sample.decode = began.elapsed() - sample.prefill;
    if sample.output_tokens == 1 {
        // It ended at once: the first step stands for a token's time.
        (sample.output_tokens, sample.decode) = (2, sample.prefill);
    }
    Ok(Speed::measured(sample))
}
