//! One stream of ours, and how fast memory can be read at all.

use anyhow::Context as _;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tiermesh_engine::{KernelPath, LoadOptions, Model, Quantization, Session};

/// Prompt tokens that are read at once: what the engine's workers do, so that
/// a cancelled stream stops soon.
const CHUNK: usize = 128;

/// A model, ready to be timed on the calling rayon pool.
pub(crate) struct Ours {
    model: Arc<Model>,
    vocab: usize,
}

impl Ours {
    pub(crate) fn load(artifact: &Path, kernel: KernelPath) -> anyhow::Result<Self> {
        let options = LoadOptions::new(kernel, Quantization::Q8);
        let model = Model::load(artifact, options);
        let model = model.with_context(|| format!("cannot load {}", artifact.display()))?;
        let model = Arc::new(model);
        let vocab = Session::new(Arc::clone(&model)).read(&[0])?.len();
        Ok(Self { model, vocab })
    }

    /// A prompt of so many tokens, all over the vocabulary.
    pub(crate) fn prompt(&self, tokens: usize) -> Vec<u32> {
        let ids = (1..=tokens).map(|at| at * 7_919 % self.vocab);
        ids.map(|id| id as u32).collect()
    }

    /// Seconds to read a prompt, up to the logits after its last token.
    pub(crate) fn prefill(&self, prompt: &[u32]) -> anyhow::Result<f64> {
        let mut session = Session::new(Arc::clone(&self.model));
        let began = Instant::now();
        black_box(read(&mut session, prompt)?);
        Ok(began.elapsed().as_secs_f64())
    }

    /// Seconds to write so many tokens after a prompt, likeliest first; the
    /// prompt is read outside the time.
    pub(crate) fn decode(&self, prompt: &[u32], tokens: usize) -> anyhow::Result<f64> {
        let mut session = Session::new(Arc::clone(&self.model));
        let mut current = likeliest(&read(&mut session, prompt)?);
        let began = Instant::now();
        for _ in 0..tokens {
            current = likeliest(&session.read(&[current])?);
        }
        black_box(current);
        Ok(began.elapsed().as_secs_f64())
    }
}

fn read(session: &mut Session, prompt: &[u32]) -> anyhow::Result<Vec<f32>> {
    let mut logits = Vec::new();
    for chunk in prompt.chunks(CHUNK) {
        logits = session.read(chunk)?;
    }
    Ok(logits)
}

fn likeliest(logits: &[f32]) -> u32 {
    let larger = |most: f32, next: &f32| if *next > most { *next } else { most };
    let most = logits.iter().fold(f32::NEG_INFINITY, larger);
    let at = logits.iter().position(|logit| *logit == most);
    at.unwrap_or(0) as u32
}

/// Gigabytes a second that two threads of the calling pool read from memory,
/// the best of a few passes.
pub(crate) fn memory_gb_s(buffer: &[u64]) -> f64 {
    const PASSES: usize = 5;
    let (left, right) = buffer.split_at(buffer.len() / 2);
    let pass = |_| {
        let began = Instant::now();
        black_box(rayon::join(|| sum(left), || sum(right)));
        size_of_val(buffer) as f64 / 1e9 / began.elapsed().as_secs_f64()
    };
    (0..PASSES).map(pass).fold(0.0, f64::max)
}

/// In lanes, so that memory and not the addition is what takes time.
fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0_u64; 16];
    for chunk in words.chunks_exact(16) {
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*word);
        }
    }
    lanes.into_iter().fold(0, u64::wrapping_add)
}
