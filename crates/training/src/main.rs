//! `tiermesh-training`: trains and measures the models tiermesh ships.
#![expect(
    clippy::print_stdout,
    reason = "progress and scores are this program's output"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use burn::tensor::Device;
use clap::{Args, Parser, Subcommand};
use tiermesh_training::corpus::Corpus;
use tiermesh_training::evaluate::{self, Answerer, Score};
use tiermesh_training::model::Shape;
use tiermesh_training::ship::{self, Shipped};
use tiermesh_training::train::{self, Plan};
use tiermesh_training::{decode, manifest, weights};

#[derive(Parser)]
#[command(version, about = "Trains and measures the models tiermesh ships")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train the model that reads brand, category and language off a product title
    #[command(after_help = "Example:\n  tiermesh-training brand-extractor \
        --data ../shared/data/brands --out target/brand-extractor")]
    BrandExtractor(BrandExtractor),
    /// Measure a trained model, write its tiermesh.json and pack the int8 artifact
    #[command(
        after_help = "Example:\n  tiermesh-training finish --data ../shared/data/brands \
        --model target/brand-extractor --artifact models/brand-extractor"
    )]
    Finish(Finish),
    /// Print every figure of the model card
    #[command(after_help = "Example:\n  tiermesh-training evaluate \
        --data ../shared/data/brands --model target/brand-extractor")]
    Evaluate(Evaluate),
}

#[derive(Args)]
struct Finish {
    /// Folder with the public brand data
    #[arg(long)]
    data: PathBuf,
    /// Folder with config.json, tokenizer.json and model.safetensors
    #[arg(long)]
    model: PathBuf,
    /// Folder for the int8 artifact
    #[arg(long)]
    artifact: Option<PathBuf>,
}

#[derive(Args)]
struct Evaluate {
    /// Folder with the public brand data
    #[arg(long)]
    data: PathBuf,
    /// An artifact, which the engine runs, or a Hugging Face directory, which this program runs
    #[arg(long)]
    model: PathBuf,
    /// One JSON array instead of a table
    #[arg(long)]
    json: bool,
    /// Also print the titles whose brand is wrong
    #[arg(long, conflicts_with = "json")]
    mistakes: bool,
}

#[derive(Args)]
struct BrandExtractor {
    /// Folder with the public brand data
    #[arg(long)]
    data: PathBuf,
    /// Folder for config.json, tokenizer.json and model.safetensors
    #[arg(long)]
    out: PathBuf,
    /// Folder for the int8 artifact
    #[arg(long)]
    artifact: Option<PathBuf>,
    /// Start from this model instead of random weights
    #[arg(long)]
    from: Option<PathBuf>,
    /// Fixes weights, examples and their order
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Training steps
    #[arg(long, default_value_t = 12_000)]
    steps: usize,
    /// Shorten the run to fit into this many minutes
    #[arg(long)]
    minutes: Option<f64>,
    /// Sequences a step
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Peak learning rate
    #[arg(long, default_value_t = 1e-3)]
    rate: f64,
    /// Share of the titles with words and signs put into them
    #[arg(long, default_value_t = 0.35)]
    noise: f64,
    /// Minutes between checkpoints
    #[arg(long, default_value_t = 4.0)]
    checkpoint_minutes: f64,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::BrandExtractor(args) => brand_extractor(args),
        Command::Finish(args) => finish(
            &Corpus::read(&args.data)?,
            &args.model,
            args.artifact.as_deref(),
        ),
        Command::Evaluate(args) => evaluate(&args),
    }
}

fn brand_extractor(args: BrandExtractor) -> Result<()> {
    let corpus = Corpus::read(&args.data)?;
    let plan = Plan {
        out: args.out,
        from: args.from,
        seed: args.seed,
        steps: args.steps,
        limit: args
            .minutes
            .map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
        batch: args.batch,
        peak_rate: args.rate,
        noise: args.noise,
        checkpoint_every: Duration::from_secs_f64(args.checkpoint_minutes * 60.0),
        shape: Shape::BRAND_EXTRACTOR,
    };
    let stop = stop_on_interrupt()?;
    let summary = train::train(&plan, &corpus, &stop, &mut |line| println!("{line}"))?;
    println!(
        "{} steps, {} tokens, {:.1} minutes: {}",
        summary.steps,
        summary.tokens,
        summary.elapsed.as_secs_f64() / 60.0,
        plan.out.display()
    );
    finish(&corpus, &plan.out, args.artifact.as_deref())
}

/// Measures the weights that were written, says so in `tiermesh.json`, and packs them.
fn finish(corpus: &Corpus, folder: &Path, artifact: Option<&Path>) -> Result<()> {
    let scores = scores(corpus, folder)?;
    print!("{}", evaluate::table(&scores));
    manifest::write(folder, evaluate::quality(&scores))?;
    if let Some(artifact) = artifact {
        ship::pack(folder, artifact)?;
        println!("packed into {}", artifact.display());
    }
    Ok(())
}

/// Every score of a model: an artifact through the engine, anything else in 32-bit floats.
fn scores(corpus: &Corpus, folder: &Path) -> Result<Vec<Score>> {
    with_answerer(folder, |answer| evaluate::scores(corpus, answer))
}

fn with_answerer<T>(folder: &Path, work: impl FnOnce(Answerer) -> Result<T>) -> Result<T> {
    if ship::is_artifact(folder) {
        let shipped = Shipped::load(folder)?;
        return work(&mut |titles| shipped.answers(titles));
    }
    let (model, tokenizer) = weights::load(folder, &Device::flex())?;
    work(&mut |titles| decode::answers(&model, &tokenizer, titles))
}

fn evaluate(args: &Evaluate) -> Result<()> {
    let corpus = Corpus::read(&args.data)?;
    let scores = scores(&corpus, &args.model)?;
    if args.json {
        println!("{}", serde_json::to_string(&scores)?);
    } else {
        print!("{}", evaluate::table(&scores));
    }
    if !args.mistakes {
        return Ok(());
    }
    with_answerer(&args.model, |answer| {
        for group in evaluate::groups(&corpus) {
            println!("\n{}", group.name);
            for [title, label, found] in evaluate::mistakes(&group, answer)? {
                println!("  {title}\n    label {label}, answer {found}");
            }
        }
        Ok(())
    })
}

/// A flag that the first Ctrl-C sets, so that the loop can save before it ends.
fn stop_on_interrupt() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot watch for Ctrl-C")?;
    std::thread::spawn(move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            flag.store(true, Ordering::Relaxed);
        }
    });
    Ok(stop)
}
