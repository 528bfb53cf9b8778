//! `tiermesh model import`: from somebody's checkpoint to our artifact.

use super::computed;
use super::library::{self, Described, Quantization};
use super::progress::Progress;
use super::source::Source;
use super::staging::Staging;
use super::store::{ModelsDir, folder, size};
use super::view::{self, Facts, View};
use crate::out;
use anyhow::{Context as _, bail};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tiermesh_core::ModelId;
use tiermesh_daemon::stop_requested;
use tiermesh_hub::{Hub, HubConfig, RepoRef};

/// After Ctrl-C: how long the importer may take to notice.
const NOTICE: Duration = Duration::from_secs(2);

/// Arguments of `tiermesh model import`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tiermesh model import hf:Qwen/Qwen2.5-0.5B-Instruct
  tiermesh model import hf:org/name@refs/pr/1 --quantize q4 --name name-q4
  tiermesh model import ./checkpoint --out models/mine --license Apache-2.0
  tiermesh model import ./model-Q8_0.gguf

hf: downloads into the cache of the hub's own tools and goes on where an earlier download
broke off; every file's checksum is compared. It reads HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH,
HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, and HTTPS_PROXY and NO_PROXY.

The last line on stdout has name, quantization, size, digest and path. A model appears whole
or not at all: Ctrl-C and a full disk leave nothing.")]
pub(super) struct Args {
    /// A Hugging Face directory, a repository of the hub, or a GGUF file.
    #[arg(value_name = "DIR|hf:ORG/NAME[@REVISION]|FILE.gguf")]
    source: Source,
    /// How the model's matrices are stored.
    #[arg(long, value_enum, default_value = "q8")]
    quantize: Quantization,
    /// Where to write the model [default: its name in the models directory].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The model's exact name [default: the repository's, directory's or file's].
    #[arg(long, value_name = "ID")]
    name: Option<ModelId>,
    /// The model's licence, as an SPDX expression [default: what the hub says].
    #[arg(long, value_name = "SPDX")]
    license: Option<String>,
    /// Replace the model that is there.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    models: ModelsDir,
}

/// Runs the command.
///
/// # Errors
/// What could not be downloaded, read or written.
pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    // One listener for all of it: a signal between two would be lost.
    let stop = stop_requested();
    tokio::pin!(stop);
    let (source, name) = tokio::select! {
        biased;
        _ = &mut stop => bail!("cancelled: nothing was written; a download goes on where it stopped"),
        prepared = prepare(&args) => prepared?,
    };
    let staging = Staging::beside(&target(&args, &name)?, args.force)?;
    let cancelled = Arc::new(AtomicBool::new(false));
    let (from, facts) = (source.path().to_owned(), given(&args));
    let importing = import(
        from,
        staging.model(),
        args.quantize,
        facts,
        Arc::clone(&cancelled),
    );
    tokio::pin!(importing);
    let model = tokio::select! {
        biased;
        _ = &mut stop => {
            cancelled.store(true, Ordering::Relaxed);
            // Its next step sees it. What it still writes after this goes with
            // the place it writes to.
            let _ = tokio::time::timeout(NOTICE, &mut importing).await;
            bail!("cancelled: nothing was written");
        }
        model = &mut importing => model,
    };
    let model = model.with_context(|| format!("cannot import {}", told(&args.source)))?;
    let path = staging.commit()?;
    out::line(&format!(
        "{}  {}  {}  {}  {}",
        model.name,
        model.quantization,
        size(model.bytes()),
        model.digest,
        path.display()
    ));
    Ok(())
}

/// What the user says of the model.
fn given(args: &Args) -> Facts {
    Facts {
        name: args.name.as_ref().map(|name| name.as_str().to_owned()),
        license: args.license.clone(),
        source: None,
    }
}

/// Finds the source, or downloads it, and names the model.
async fn prepare(args: &Args) -> anyhow::Result<(Prepared, String)> {
    let given = given(args);
    match &args.source {
        Source::Path(path) => local(path, &given),
        Source::Hub(wanted) => {
            // Before the download: a target that is there needs none.
            let name = given.name.as_deref().unwrap_or(wanted.name());
            refuse_early(args, name)?;
            download(wanted, &given).await
        }
    }
}

/// Imports on a thread of its own. What it reads and writes belongs to the
/// caller: the thread may be left behind when the process ends.
async fn import(
    source: PathBuf,
    target: PathBuf,
    quantize: Quantization,
    facts: Facts,
    cancelled: Arc<AtomicBool>,
) -> anyhow::Result<Described> {
    computed(move || {
        let mut progress = Progress::new("importing");
        let mut told = |imported: library::ImportProgress<'_>| {
            // As f32, which every weight is on its way.
            let (done, total) = (imported.done_values * 4, imported.total_values * 4);
            progress.update(imported.tensor, done, total);
            match cancelled.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        library::import(&source, &target, quantize, &facts, &mut told)
    })
    .await
}

/// What the importer reads.
enum Prepared {
    View(View),
    File(PathBuf),
}

impl Prepared {
    fn path(&self) -> &Path {
        match self {
            Self::View(view) => view.path(),
            Self::File(path) => path,
        }
    }
}

fn local(path: &Path, given: &Facts) -> anyhow::Result<(Prepared, String)> {
    let found = std::fs::canonicalize(path).with_context(|| {
        format!(
            "cannot find {}: give a directory, a file or hf:ORG/NAME",
            path.display()
        )
    })?;
    if found.is_file() {
        let stem = found
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        let name = given.name.clone().or(stem).unwrap_or_default();
        return Ok((Prepared::File(found), valid(name)?));
    }
    let assumed = Facts {
        name: found
            .file_name()
            .map(|name| name.to_string_lossy().into_owned()),
        ..Facts::default()
    };
    let view = View::of(&found, None, given, &assumed)?;
    let name = view::name(&view)?;
    Ok((Prepared::View(view), valid(name)?))
}

async fn download(wanted: &RepoRef, given: &Facts) -> anyhow::Result<(Prepared, String)> {
    let hub = Hub::new(HubConfig::from_env()?)?;
    let mut progress = Progress::new("downloading");
    let mut told = |bytes: tiermesh_hub::Downloaded| progress.update("", bytes.done, bytes.total);
    let snapshot = hub
        .snapshot(wanted, &mut told)
        .await
        .with_context(|| format!("cannot download {wanted}"))?;
    drop(progress);
    let assumed = Facts {
        name: Some(wanted.name().to_owned()),
        license: snapshot.license,
        source: Some(format!("hf:{}@{}", wanted.repo(), snapshot.commit)),
    };
    let view = View::of(&snapshot.directory, Some(&snapshot.files), given, &assumed)?;
    let name = view::name(&view)?;
    Ok((Prepared::View(view), valid(name)?))
}

fn refuse_early(args: &Args, name: &str) -> anyhow::Result<()> {
    let target = target(args, name)?;
    if target.exists() && !args.force {
        bail!(
            "{} exists: use --force to replace it, --out DIR or --name ID for another place",
            target.display()
        );
    }
    Ok(())
}

fn target(args: &Args, name: &str) -> anyhow::Result<PathBuf> {
    match &args.out {
        Some(out) => Ok(out.clone()),
        None => Ok(args.models.path()?.join(folder(name)?)),
    }
}

fn valid(name: String) -> anyhow::Result<String> {
    ModelId::new(&name).context("the model needs another name: use --name ID")?;
    Ok(name)
}

fn told(source: &Source) -> String {
    match source {
        Source::Path(path) => path.display().to_string(),
        Source::Hub(wanted) => format!("hf:{wanted}"),
    }
}
