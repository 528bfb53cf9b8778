//! `tiermesh model inspect`: what a model is, by its manifest.

use super::library;
use super::store::{ModelsDir, size};
use crate::out;

/// Arguments of `tiermesh model inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tiermesh model inspect Qwen2.5-0.5B-Instruct
  tiermesh model inspect models/brand-extractor --json

It reads the manifest alone; `tiermesh model verify` reads every file.")]
pub(super) struct Args {
    /// A model's directory, or its name in the models directory.
    #[arg(value_name = "PATH|NAME")]
    model: String,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsDir,
}

/// Runs the command.
///
/// # Errors
/// When there is no such model, or its manifest is not one.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let path = args.models.find(&args.model)?;
    let model = library::inspect(&path)?;
    if args.json {
        let mut record = serde_json::to_value(&model)?;
        record["path"] = path.display().to_string().into();
        record["bytes"] = model.bytes().into();
        out::line(&record.to_string());
        return Ok(());
    }
    for (key, value) in [
        ("name", model.name.clone()),
        ("family", model.family.clone()),
        ("architecture", model.architecture.clone()),
        ("quantization", model.quantization.clone()),
        ("tasks", model.tasks.join(", ")),
        ("context", format!("{} tokens", model.context_tokens)),
        ("licence", model.license.clone()),
        ("source", model.source.clone()),
        ("size", size(model.bytes())),
        ("digest", model.digest.clone()),
        ("path", path.display().to_string()),
    ] {
        out::line(&format!("{key:13} {value}"));
    }
    for file in &model.files {
        out::line(&format!(
            "  {:9}  {}  {}",
            size(file.bytes),
            file.sha256,
            file.path
        ));
    }
    Ok(())
}
