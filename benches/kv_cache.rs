//! What do keys and values of eight bits save, and what do they cost?
//!
//! The peer is our own cache of f16. Speed is that of Qwen2.5-0.5B's shape in
//! q8 after a long context, two threads, in turns; quality is that of the
//! shipped `brand-extractor`, a trained model, on a text it was not trained
//! on: the perplexity of each, how far the logits are from each other, and how
//! often the likeliest token is the same.

use anyhow::Context as _;
use clap::Parser as _;
use cli::Flags;
use figures::Figures;
use models::Models;
use others::Watch;
use serde_json::json;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tiermesh_engine::{KernelChoice, KvCacheType, LoadOptions, Model, Quantization, Session};

#[path = "common/cli.rs"]
mod cli;
#[path = "common/figures.rs"]
mod figures;
#[path = "common/models.rs"]
#[expect(dead_code, reason = "the peer is no other program")]
mod models;
#[path = "common/others.rs"]
mod others;
#[path = "common/process.rs"]
#[expect(dead_code, reason = "only the machine's time is asked here")]
mod process;
#[path = "common/stats.rs"]
mod stats;
#[path = "common/talker.rs"]
#[expect(dead_code, reason = "the peer is no other program")]
mod talker;

const QUESTION: &str = "What do keys and values of eight bits cost and save? The ratio is \
    tokens a second written after the long context, over those with f16.";
/// Tokens of the text that are read together: what a title's context is.
const WINDOW: usize = 256;
const HEADLINE: &str = "decode_tok_s";

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Rounds to measure.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let models = Models::find("qwen-0.5b", "tiny-llama", arguments.flags.smoke)?;
    models::pool()?.install(|| run(&models, arguments))
}

fn run(models: &Models, arguments: Arguments) -> anyhow::Result<()> {
    let mut figures = Figures::default();
    quality(&mut figures)?;
    let (context, tokens, rounds) = match models.is_real() {
        true => (4096, 32, arguments.rounds),
        false => (256, 4, 1),
    };
    figures.say_ours("context", json!(context));
    let artifact = models.artifact(Quantization::Q8)?;
    let ours = load(&artifact, KvCacheType::Q8)?;
    let peer = load(&artifact, KvCacheType::Auto)?;
    for _ in 0..rounds {
        let watch = Watch::start([])?;
        for (model, is_ours) in [(&ours, true), (&peer, false)] {
            let (prompt, decode) = speed(model, context, tokens)?;
            for (name, value) in [("prompt_tok_s", prompt), (HEADLINE, decode)] {
                match is_ours {
                    true => figures.ours(name, value),
                    false => figures.peer(name, value),
                }
            }
        }
        figures.ours("others_percent_of_a_core", watch.others_percent()?);
    }
    figures.report(QUESTION, HEADLINE, arguments.flags)
}

fn load(artifact: &Path, kv_cache: KvCacheType) -> anyhow::Result<Arc<Model>> {
    let options = LoadOptions {
        kv_cache,
        ..LoadOptions::new(KernelChoice::Auto.resolve()?, Quantization::Q8)
    };
    let model = Model::load(artifact, options);
    let model = model.with_context(|| format!("cannot load {}", artifact.display()))?;
    Ok(Arc::new(model))
}

/// Tokens a second of the prompt, and of what is written after it.
fn speed(model: &Arc<Model>, context: usize, tokens: usize) -> anyhow::Result<(f64, f64)> {
    let mut session = Session::new(Arc::clone(model));
    let ids: Vec<u32> = (0..context as u32).map(|id| id % 97 + 1).collect();
    let began = Instant::now();
    for chunk in ids.chunks(128) {
        black_box(session.read(chunk)?);
    }
    let prompt = context as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    for id in 0..tokens as u32 {
        black_box(session.read(&[id + 1])?);
    }
    Ok((prompt, tokens as f64 / began.elapsed().as_secs_f64()))
}

/// What the shipped model makes of a text.
fn quality(figures: &mut Figures) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = root.join("crates/engine/tests/fixtures/perplexity.txt");
    let text = std::fs::read_to_string(&text)
        .with_context(|| format!("cannot read {}", text.display()))?;
    let shipped = root.join("models/brand-extractor");
    let (ours, peer) = (
        load(&shipped, KvCacheType::Q8)?,
        load(&shipped, KvCacheType::Auto)?,
    );
    let ids = ours.encode_said(&text)?;
    let (mut squares, mut spread, mut values) = (0.0, 0.0, 0usize);
    let (mut same, mut rows, mut ours_loss, mut peer_loss) = (0usize, 0usize, 0.0, 0.0);
    for window in ids.chunks(WINDOW).filter(|window| window.len() > 1) {
        let a = Session::new(Arc::clone(&ours)).read_all(window)?;
        let b = Session::new(Arc::clone(&peer)).read_all(window)?;
        let mean = b.iter().map(|b| f64::from(*b)).sum::<f64>() / b.len() as f64;
        squares += sum(a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)));
        spread += sum(b.iter().map(|b| (f64::from(*b) - mean).powi(2)));
        values += a.len();
        let vocab = a.len() / window.len();
        let pairs = a.chunks_exact(vocab).zip(b.chunks_exact(vocab));
        for ((a, b), next) in pairs.zip(&window[1..]) {
            rows += 1;
            same += usize::from(likeliest(a) == likeliest(b));
            ours_loss += loss(a, *next);
            peer_loss += loss(b, *next);
        }
    }
    let perplexity = |loss: f64| stats::round((loss / rows as f64).exp());
    figures.say_ours("perplexity", json!(perplexity(ours_loss)));
    figures.say_peer("perplexity", json!(perplexity(peer_loss)));
    let off = (squares / values as f64).sqrt() / (spread / values as f64).sqrt();
    figures.say_ours(
        "logit_rms_percent_of_deviation",
        json!(stats::round(off * 100.0)),
    );
    let share = same as f64 / rows as f64 * 100.0;
    figures.say_ours("same_likeliest_percent", json!(stats::round(share)));
    figures.say_ours("text_tokens", json!(rows));
    cli::say(&format!(
        "{rows} tokens of text: perplexity {} with eight bits, {} with f16; logits off by {:.2} % \
         of their deviation; the same likeliest token {share:.1} %",
        perplexity(ours_loss),
        perplexity(peer_loss),
        off * 100.0,
    ));
    Ok(())
}

fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.sum()
}

fn likeliest(logits: &[f32]) -> usize {
    let best = logits
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    best.map_or(0, |(id, _)| id)
}

/// How surprised the model is by `next`, in nats.
fn loss(logits: &[f32], next: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total = sum(logits.iter().map(|l| f64::from(l - most).exp()));
    total.ln() - f64::from(logits[next as usize] - most)
}
