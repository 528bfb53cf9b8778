//! `tiermesh model embed`: texts to vectors.

use super::computed;
use super::library::{self, Kernel};
use super::run::peak_rss_bytes;
use super::store::ModelsDir;
use crate::out;
use anyhow::bail;
use serde_json::json;
use std::time::Instant;
use tiermesh_daemon::stop_requested;

/// Arguments of `tiermesh model embed`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tiermesh model embed all-MiniLM-L6-v2 \"an edge node\" \"a cloud region\"
  tiermesh model embed ./models/minilm --json \"an edge node\"

Without --json each text's vector is a line, a JSON array. --json prints one object:
embeddings (in the texts' order), dimensions, load_ms, embed_ms, texts_s, peak_rss_bytes,
model, digest, numerics_id.")]
pub(super) struct Args {
    /// A model's directory, or its name in the models directory.
    #[arg(value_name = "PATH|NAME")]
    model: String,
    /// The texts.
    #[arg(value_name = "TEXT", required = true)]
    texts: Vec<String>,
    /// The code path that computes.
    #[arg(long, value_enum, default_value = "auto")]
    kernel: Kernel,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsDir,
}

/// Runs the command.
///
/// # Errors
/// What kept the model from loading or computing; and Ctrl-C.
pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let path = args.models.find(&args.model)?;
    let (kernel, texts) = (args.kernel, args.texts);
    let computing = computed(move || {
        let begun = Instant::now();
        let model = library::load_embedder(&path, kernel)?;
        let load = begun.elapsed();
        let begun = Instant::now();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let embeddings = model.embed(&texts)?;
        Ok((model.info().clone(), embeddings, load, begun.elapsed()))
    });
    let (model, embeddings, load, took) = tokio::select! {
        biased;
        _ = stop_requested() => bail!("cancelled"),
        done = computing => done?,
    };
    if !args.json {
        embeddings
            .iter()
            .for_each(|vector| out::line(&json!(vector).to_string()));
        return Ok(());
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let texts_s = embeddings.len() as f64 / took.as_secs_f64();
    let record = json!({
        "dimensions": embeddings.first().map_or(0, Vec::len),
        "embeddings": embeddings,
        "load_ms": load.as_secs_f64() * 1e3,
        "embed_ms": took.as_secs_f64() * 1e3,
        "texts_s": texts_s.is_finite().then_some(texts_s),
        "peak_rss_bytes": peak_rss_bytes(),
        "model": model.id.as_str(),
        "digest": model.digest.as_str(),
        "numerics_id": model.numerics_id.as_str(),
    });
    out::line(&record.to_string());
    Ok(())
}
