//! `tiermesh model verify`: every file against the manifest.

use super::library::{self, FileEntry};
use super::progress::Progress;
use super::store::ModelsDir;
use crate::out;
use anyhow::bail;
use ring::digest::{Context, SHA256};
use std::io::Read as _;
use std::path::Path;
use tiermesh_hub::{hex, is_plain_path};

/// Read at a time.
const PIECE: usize = 1 << 20;

/// Arguments of `tiermesh model verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tiermesh model verify Qwen2.5-0.5B-Instruct
  tiermesh model verify models/brand-extractor

It fails, and names each file, when one is missing or is not what the manifest says.")]
pub(super) struct Args {
    /// A model's directory, or its name in the models directory.
    #[arg(value_name = "PATH|NAME")]
    model: String,
    #[command(flatten)]
    models: ModelsDir,
}

/// Runs the command.
///
/// # Errors
/// When a file is not what the manifest says.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let path = args.models.find(&args.model)?;
    let model = library::inspect(&path)?;
    let mut progress = Progress::new("verifying");
    let (mut before, total) = (0, model.bytes());
    let mut wrong = 0;
    for file in &model.files {
        let mut told = |done: u64| progress.update(&file.path, before + done, total);
        let found = check(&path, file, &mut told);
        before = before.saturating_add(file.bytes);
        if let Err(problem) = found {
            out::note(&format!("{}: {problem}", path.join(&file.path).display()));
            wrong += 1;
        }
    }
    drop(progress);
    if wrong > 0 {
        bail!(
            "{wrong} of {} files of {} are not what its manifest says: import it again with --force",
            model.files.len(),
            model.name
        );
    }
    out::line(&format!(
        "{}: {} files and the manifest are whole, digest {}",
        model.name,
        model.files.len(),
        model.digest
    ));
    Ok(())
}

/// Reads one file; says what is wrong with it.
fn check(directory: &Path, entry: &FileEntry, told: &mut dyn FnMut(u64)) -> Result<(), String> {
    if !is_plain_path(&entry.path) {
        return Err("no plain path below the model's directory".to_owned());
    }
    let unread = |error: std::io::Error| format!("cannot be read: {error}");
    let mut file = std::fs::File::open(directory.join(&entry.path)).map_err(unread)?;
    let bytes = file.metadata().map_err(unread)?.len();
    if bytes != entry.bytes {
        return Err(format!(
            "is corrupt: expected {} bytes, found {bytes}",
            entry.bytes
        ));
    }
    let mut context = Context::new(&SHA256);
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    loop {
        let n = file.read(&mut piece).map_err(unread)?;
        if n == 0 {
            break;
        }
        context.update(&piece[..n]);
        done += n as u64;
        told(done);
    }
    let found = hex(context.finish().as_ref());
    if found != entry.sha256 {
        return Err(format!(
            "is corrupt: expected sha256 {}, found {found}",
            entry.sha256
        ));
    }
    Ok(())
}
