//! `tiermesh model remove`: a model's files, and nothing else.

use super::library::{self, MANIFEST};
use super::store::{ModelsDir, size};
use crate::out;
use anyhow::{Context as _, bail};
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use tiermesh_hub::is_plain_path;

/// Arguments of `tiermesh model remove`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tiermesh model remove Qwen2.5-0.5B-Instruct
  tiermesh model remove ./models/mine --yes

It deletes the files that the manifest names and the directory, if nothing else is in it.
What was downloaded from the hub stays in the hub's cache.")]
pub(super) struct Args {
    /// A model's name in the models directory, or its directory.
    #[arg(value_name = "NAME|PATH")]
    model: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    models: ModelsDir,
}

/// Runs the command.
///
/// # Errors
/// When it is not a model of ours, nobody agrees, or a file stays.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let path = args.models.find(&args.model)?;
    let model = library::inspect(&path)
        .with_context(|| format!("{} is not removed: it is no model of ours", path.display()))?;
    if let Some(file) = model.files.iter().find(|file| !is_plain_path(&file.path)) {
        bail!(
            "{} is not removed: its manifest names `{}`",
            path.display(),
            file.path
        );
    }
    if !args.yes && !agreed(&path, &model.name, model.bytes())? {
        bail!("not removed");
    }
    // The manifest goes first: what is left of a removal that broke off is no
    // model any more.
    let files = model.files.iter().map(|file| file.path.as_str());
    for file in std::iter::once(MANIFEST).chain(files) {
        let file = path.join(file);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", file.display()));
            }
            _ => {}
        }
    }
    let folders = model
        .files
        .iter()
        .filter_map(|file| Path::new(&file.path).parent());
    for folder in folders.filter(|folder| !folder.as_os_str().is_empty()) {
        // Fails while something is in it, which is then not ours.
        let _ = std::fs::remove_dir(path.join(folder));
    }
    match std::fs::remove_dir(&path) {
        Ok(()) => out::line(&format!("removed {} ({})", model.name, size(model.bytes()))),
        Err(_) => out::line(&format!(
            "removed {} ({}); other files stay in {}",
            model.name,
            size(model.bytes()),
            path.display()
        )),
    }
    Ok(())
}

/// Asks on the terminal.
fn agreed(path: &Path, name: &str, bytes: u64) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("there is no terminal to ask on: use --yes");
    }
    let mut err = std::io::stderr().lock();
    write!(
        err,
        "remove {name} ({}) from {}? [y/N] ",
        size(bytes),
        path.display()
    )?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}
