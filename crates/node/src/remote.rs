//! Models that are kept in a repository of the hub until they are needed.

use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tiermesh_core::error::with_causes;
use tiermesh_engine::{LoadOptions, ModelSource, Remote};
use tiermesh_hub::{Hub, HubConfig, HubError, RepoRef, Snapshot};

/// What an entry of `engine.models` begins with to name a repository.
const PREFIX: &str = "hf:";

/// The repository an entry of `engine.models` names; none where it is a
/// directory.
///
/// # Errors
/// When the name is not a repository's.
pub(crate) fn repository(entry: &Path) -> Option<Result<RepoRef, HubError>> {
    Some(entry.to_str()?.strip_prefix(PREFIX)?.parse())
}

/// A model of `engine.models`. Of a repository's only manifest and
/// configuration are read now; the rest is fetched when it is asked for.
///
/// # Errors
/// When the repository cannot be read and is not in the cache, or holds no
/// artifact of ours.
pub(crate) fn source(entry: &Path, options: LoadOptions) -> anyhow::Result<ModelSource> {
    let Some(repo) = repository(entry) else {
        return Ok(ModelSource::new(entry.to_owned(), options));
    };
    let repo = repo?;
    let asked = repo.clone();
    let outline = alone(async move |hub: Hub| match hub.outline(&asked).await {
        Ok(outline) => Ok(outline),
        // What was fetched before serves although the hub does not answer.
        Err(error) => match hub.kept(&asked).await {
            Ok(kept) => {
                tracing::warn!(repo = %asked, error = %with_causes(&error), "the hub does not answer; the cached model is used");
                Ok(kept)
            }
            Err(_) => Err(error),
        },
    });
    let Snapshot {
        directory, commit, ..
    } = outline.with_context(|| {
        format!(
            "cannot use {PREFIX}{repo} as a model; a repository holds an artifact, as `tiermesh model import` writes it"
        )
    })?;
    // Its weights are to be of the commit that its manifest is of.
    let pinned = format!("{}@{commit}", repo.repo()).parse()?;
    let asked = repo;
    Ok(ModelSource {
        path: directory.clone(),
        options,
        remote: Some(Arc::new(Repository {
            asked,
            commit,
            repo: pinned,
            directory,
        })),
    })
}

/// One commit of a repository, and where its files go.
struct Repository {
    /// As the configuration names it.
    asked: RepoRef,
    commit: String,
    /// At that commit.
    repo: RepoRef,
    directory: PathBuf,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}{}", self.repo)
    }
}

impl Remote for Repository {
    fn fetch(&self) -> Result<(), String> {
        let (repo, asked, commit) = (self.repo.clone(), self.asked.clone(), self.commit.clone());
        let fetched = alone(async move |hub: Hub| {
            let snapshot = hub.snapshot(&repo, &mut |_| {}).await?;
            // A start without the hub finds it by the name it has here.
            hub.remember(&asked, &commit)?;
            Ok(snapshot)
        });
        let directory = fetched.map_err(|error| with_causes(&error))?.directory;
        match directory == self.directory {
            true => Ok(()),
            false => Err(format!(
                "its files came to {} and not to {}",
                directory.display(),
                self.directory.display()
            )),
        }
    }
}

/// Asks the hub from a thread of its own: the caller's may be one that must
/// not wait, or none that has a runtime.
fn alone<F>(ask: impl FnOnce(Hub) -> F + Send + 'static) -> Result<Snapshot, HubError>
where
    F: Future<Output = Result<Snapshot, HubError>>,
{
    let hub = Hub::new(HubConfig::from_env()?)?;
    let thread = std::thread::Builder::new().name("hub".to_owned());
    let thread = thread.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(HubError::Runtime)?;
        runtime.block_on(ask(hub))
    });
    let thread = thread.map_err(HubError::Runtime)?;
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
