//! `tiermesh model list`: what the models directory holds.

use super::store::{Found, ModelsDir, size};
use crate::out;
use serde_json::json;

/// Arguments of `tiermesh model list`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tiermesh model list
  tiermesh model list --models-dir models --json

--json prints one object a line.")]
pub(super) struct Args {
    /// Print one JSON object a model.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsDir,
}

/// Runs the command.
///
/// # Errors
/// When the directory cannot be read.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let models = args.models.models()?;
    if args.json {
        models
            .iter()
            .for_each(|model| out::line(&record(model).to_string()));
        return Ok(());
    }
    if models.is_empty() {
        let directory = args.models.path()?;
        out::note(&format!(
            "no models in {}: `tiermesh model import hf:ORG/NAME` brings one",
            directory.display()
        ));
        return Ok(());
    }
    let wide = |found: &Found| found.described.as_ref().map_or(0, |model| model.name.len());
    let name = models.iter().map(wide).max().unwrap_or(0).max(4);
    out::line(&format!(
        "{:name$}  {:5}  {:>9}  {:>8}  {:14}  {:12}  TASKS",
        "NAME", "QUANT", "SIZE", "CONTEXT", "LICENCE", "DIGEST"
    ));
    for Found { path, described } in &models {
        match described {
            Ok(model) => out::line(&format!(
                "{:name$}  {:5}  {:>9}  {:>8}  {:14}  {:12.12}  {}",
                model.name,
                model.quantization,
                size(model.bytes()),
                model.context_tokens,
                model.license,
                model.digest,
                model.tasks.join(",")
            )),
            Err(error) => out::note(&format!("{}: {error:#}", path.display())),
        }
    }
    Ok(())
}

fn record(Found { path, described }: &Found) -> serde_json::Value {
    let path = path.display().to_string();
    match described {
        Ok(model) => json!({
            "name": model.name,
            "family": model.family,
            "quantization": model.quantization,
            "bytes": model.bytes(),
            "context_tokens": model.context_tokens,
            "license": model.license,
            "tasks": model.tasks,
            "digest": model.digest,
            "path": path,
            "error": null,
        }),
        Err(error) => json!({"path": path, "error": format!("{error:#}")}),
    }
}
