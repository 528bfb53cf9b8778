//! The training loop.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use fastrand::Rng;
use tokenizers::Tokenizer;

use crate::batch::{self, Batch};
use crate::corpus::Corpus;
use crate::example::Example;
use crate::model::{Llama, Shape};
use crate::{tokens, validate, weights};

/// Batches drawn, sorted by length and shuffled together.
const POOL_BATCHES: usize = 64;
/// Steps until the learning rate is at its peak.
const WARM_UP_STEPS: usize = 200;
/// The learning rate at the end, as a share of its peak.
const FINAL_RATE: f64 = 0.03;
/// Steps between progress lines.
const REPORT_STEPS: usize = 25;

/// What a run is told.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the Hugging Face directory goes.
    pub out: PathBuf,
    /// A directory to start from instead of random weights.
    pub from: Option<PathBuf>,
    /// Fixes the weights, the examples and their order.
    pub seed: u64,
    /// Length of the run.
    pub steps: usize,
    /// The run is shortened to fit into this.
    pub limit: Option<Duration>,
    /// Sequences a step.
    pub batch: usize,
    /// The highest learning rate.
    pub peak_rate: f64,
    /// Share of the examples with words and signs put into them.
    pub noise: f64,
    /// Time between checkpoints.
    pub checkpoint_every: Duration,
    /// The model's shape.
    pub shape: Shape,
}

/// How a run went.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Steps done.
    pub steps: usize,
    /// Tokens seen, filling apart.
    pub tokens: usize,
    /// Wall-clock time.
    pub elapsed: Duration,
}

/// A place to tell a person how the run goes.
pub type Report<'a> = &'a mut dyn FnMut(&str);

/// Trains until the plan is done or `stop` is set, and leaves a model in the plan's folder.
///
/// # Errors
///
/// When data are missing or the folder cannot be written.
pub fn train(plan: &Plan, corpus: &Corpus, stop: &AtomicBool, report: Report) -> Result<Summary> {
    let device = Device::flex().autodiff();
    let (model, tokenizer) = match &plan.from {
        Some(folder) => weights::load(folder, &device)?,
        None => (
            Llama::init(plan.shape, plan.seed, &device),
            tokens::train(&corpus.texts(), plan.shape.vocab)?,
        ),
    };
    ensure!(
        tokenizer.get_vocab_size(true) <= model.shape().vocab,
        "the tokenizer has more tokens than the embedding rows"
    );
    report(&format!("{} parameters", model.shape().parameters()));
    let checks = validate::Checks::new(corpus, &tokenizer)?;
    let mut run = Run {
        plan,
        corpus,
        tokenizer: &tokenizer,
        pool: Vec::new(),
        rng: Rng::with_seed(plan.seed),
        started: Instant::now(),
    };
    run.loop_until_done(model, &checks, &device, stop, report)
}

struct Run<'a> {
    plan: &'a Plan,
    corpus: &'a Corpus,
    tokenizer: &'a Tokenizer,
    pool: Vec<Batch>,
    rng: Rng,
    started: Instant,
}

impl Run<'_> {
    fn loop_until_done(
        &mut self,
        mut model: Llama,
        checks: &validate::Checks,
        device: &Device,
        stop: &AtomicBool,
        report: Report,
    ) -> Result<Summary> {
        let mut optimizer: ModuleOptimizer = AdamWConfig::new()
            .with_beta_2(0.98)
            .with_epsilon(1e-8)
            .with_weight_decay(0.05)
            .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
            .init();
        let mut meter = Meter::new();
        let mut saved = Instant::now();
        let mut step = 0;
        while step < self.plan.steps && !stop.load(Ordering::Relaxed) {
            let progress = self.progress(step);
            if progress >= 1.0 {
                break;
            }
            let batch = self.next_batch()?;
            let loss = loss(&model, &batch, device);
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(self.rate(step, progress), model, gradients);
            step += 1;
            meter.add(&batch, f64::from(loss.into_scalar::<f32>()));
            if step % REPORT_STEPS == 0 {
                report(&meter.line(step, self.progress(step), self.started.elapsed()));
            }
            if saved.elapsed() >= self.plan.checkpoint_every {
                self.checkpoint(&model, checks, report)?;
                saved = Instant::now();
            }
        }
        self.checkpoint(&model, checks, report)?;
        Ok(Summary {
            steps: step,
            tokens: meter.total,
            elapsed: self.started.elapsed(),
        })
    }

    fn checkpoint(&self, model: &Llama, checks: &validate::Checks, report: Report) -> Result<()> {
        let model = model.valid();
        weights::save(&self.plan.out, &model, self.tokenizer)?;
        report(&checks.line(&model, &Device::flex()));
        Ok(())
    }

    /// From 0 to 1, by steps, or by time where that runs out first.
    fn progress(&self, step: usize) -> f64 {
        let by_steps = step as f64 / self.plan.steps as f64;
        let by_time = self.plan.limit.map_or(0.0, |limit| {
            self.started.elapsed().as_secs_f64() / limit.as_secs_f64()
        });
        by_steps.max(by_time).min(1.0)
    }

    /// A short linear rise, then half a cosine.
    fn rate(&self, step: usize, progress: f64) -> f64 {
        let rise = ((step + 1) as f64 / WARM_UP_STEPS as f64).min(1.0);
        let cosine = 0.5 + 0.5 * (std::f64::consts::PI * progress).cos();
        self.plan.peak_rate * rise * (FINAL_RATE + (1.0 - FINAL_RATE) * cosine)
    }

    fn next_batch(&mut self) -> Result<Batch> {
        if self.pool.is_empty() {
            let examples: Vec<Example> = (0..POOL_BATCHES * self.plan.batch)
                .map(|_| self.corpus.draw(&mut self.rng, self.plan.noise))
                .collect();
            let mut encoded = batch::encode_all(self.tokenizer, &examples)?;
            encoded.retain(|one| one.ids.len() <= self.plan.shape.max_positions);
            let pad = batch::pad(self.tokenizer)?;
            self.pool = batch::group(encoded, self.plan.batch, pad);
            self.rng.shuffle(&mut self.pool);
        }
        Ok(self.pool.pop().expect("a pool has at least one batch"))
    }
}

/// Mean cross-entropy over a batch's answer tokens.
pub(crate) fn loss(model: &Llama, batch: &Batch, device: &Device) -> Tensor<1> {
    let hidden = model.hidden(&batch.tokens, batch.length, device);
    let logits = model.logits(hidden, &batch.rows, device);
    let targets = TensorData::new(batch.targets.clone(), [batch.targets.len(), 1]);
    let targets = Tensor::<2, Int>::from_data(targets, device);
    activation::log_softmax(logits, 1)
        .gather(1, targets)
        .mean()
        .neg()
}

/// Running figures for the progress line.
struct Meter {
    total: usize,
    since: Instant,
    tokens: usize,
    losses: Vec<f64>,
}

impl Meter {
    fn new() -> Self {
        Self {
            total: 0,
            since: Instant::now(),
            tokens: 0,
            losses: Vec::new(),
        }
    }

    fn add(&mut self, batch: &Batch, loss: f64) {
        self.total += batch.useful;
        self.tokens += batch.useful;
        self.losses.push(loss);
    }

    fn line(&mut self, step: usize, progress: f64, elapsed: Duration) -> String {
        let speed = self.tokens as f64 / self.since.elapsed().as_secs_f64();
        let loss = self.losses.iter().sum::<f64>() / self.losses.len() as f64;
        let minutes = elapsed.as_secs_f64() / 60.0;
        let left = minutes * (1.0 - progress) / progress.max(1e-9);
        (self.since, self.tokens) = (Instant::now(), 0);
        self.losses.clear();
        format!(
            "step {step:>6}  loss {loss:.4}  {speed:>6.0} tokens/s  {minutes:.1} min done, about {left:.1} to go"
        )
    }
}
