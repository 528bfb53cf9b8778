//! A model's first run, which shows that it computes and how fast.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::ThreadPool;

use super::models::Loaded;
use super::scheduler::pool;
use super::sequence::{Plan, Sequence, Step};
use super::speed::{Speed, StepTime};
use crate::embedder::Embedder;
use crate::engine::StartError;
use crate::loaded::Model;
use crate::model::PagePool;
use crate::sampler::SamplingParams;
use crate::stream::StreamError;

/// Enough tokens to measure, few enough to be quick.
const PROMPT: usize = 64;
const TOKENS: u32 = 16;

/// Runs each model on a thread like the one that will compute.
pub(crate) fn all(models: &[Loaded], threads: NonZeroUsize) -> Result<Vec<Speed>, StartError> {
    let try_out = |model: &Loaded| {
        measure(model, threads).map_err(|source| StartError::WarmUp {
            model: model.info().id.clone(),
            source,
        })
    };
    models.iter().map(try_out).collect()
}

/// Runs a model once, which shows that it can compute at all, and once more
/// to measure it warm.
pub(crate) fn measure(model: &Loaded, threads: NonZeroUsize) -> Result<Speed, StreamError> {
    std::thread::scope(|scope| {
        let run = || {
            let pool = pool(threads).map_err(|_| StreamError::Panicked)?;
            match model {
                Loaded::Decoder(model) => once(model, &pool).and_then(|_| once(model, &pool)),
                Loaded::Encoder(embedder) => encode(embedder, &pool),
            }
        };
        let thread = std::thread::Builder::new().name("infer-warm-up".to_owned());
        let handle = thread.spawn_scoped(scope, run);
        let handle = handle.map_err(|_| StreamError::Panicked)?;
        handle.join().unwrap_or(Err(StreamError::Panicked))
    })
}

fn once(model: &Arc<Model>, pool: &ThreadPool) -> Result<Speed, StreamError> {
    let context = model.info().context_tokens;
    let room = context.saturating_sub(TOKENS).max(1) as usize;
    let plan = Plan {
        prompt: vec![model.vocab / 2; PROMPT.min(room)],
        emitted: Vec::new(),
        sampling: SamplingParams::GREEDY,
        seed: 0,
        max_tokens: TOKENS,
        stop: Vec::new(),
        constraint: None,
    };
    let read = plan.prompt.len();
    let mut sequence = Sequence::new(Arc::clone(model), plan, PagePool::unlimited());
    let step = |sequence: &mut Sequence| {
        catch_unwind(AssertUnwindSafe(|| pool.install(|| sequence.step())))
            .map_err(|_| StreamError::Panicked)?
    };
    let began = Instant::now();
    let mut ended = matches!(step(&mut sequence)?, Step::Finished(..));
    let prefill = StepTime {
        wrote: 0,
        read,
        took: began.elapsed(),
    };
    let (mut tokens, began) = (0u32, Instant::now());
    while !ended {
        ended = matches!(step(&mut sequence)?, Step::Finished(..));
        tokens += 1;
    }
    let took = match tokens {
        // It ended at once: the first step stands for a token's time.
        0 => prefill.took,
        tokens => began.elapsed() / tokens,
    };
    let write = StepTime {
        wrote: 1,
        read: 0,
        took: took.max(Duration::from_nanos(1)),
    };
    Ok(Speed::measured(prefill, write))
}

fn encode(embedder: &Embedder, pool: &ThreadPool) -> Result<Speed, StreamError> {
    let text = "a ".repeat(PROMPT / 2);
    let read = embedder.count(&text).map_err(|_| StreamError::NotUsable)?;
    let mut took = Duration::MAX;
    for _ in 0..2 {
        let began = Instant::now();
        let run = || pool.install(|| embedder.probe(&text));
        catch_unwind(AssertUnwindSafe(run))
            .map_err(|_| StreamError::Panicked)?
            .map_err(|_| StreamError::NotUsable)?;
        took = took.min(began.elapsed());
    }
    let prefill = StepTime {
        wrote: 0,
        read,
        took,
    };
    Ok(Speed::measured(
        prefill,
        StepTime {
            wrote: 1,
            ..prefill
        },
    ))
}
