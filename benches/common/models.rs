//! The models that are measured, the artifacts made of them, and their peers.

use crate::cli::say;
use crate::talker::Talker;
use anyhow::Context as _;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use tiermesh_engine::{ImportOptions, Quantization, import, inspect};

/// Threads of either side.
pub(crate) const THREADS: usize = 2;

/// Our threads, as the engine's workers are: the calling one is the pool's
/// first.
pub(crate) fn pool() -> anyhow::Result<ThreadPool> {
    let pool = ThreadPoolBuilder::new()
        .num_threads(THREADS)
        .use_current_thread();
    Ok(pool.build()?)
}

/// What `benches/peers/models` made, or, without it, a tiny model of the tests.
pub(crate) struct Models {
    name: &'static str,
    /// The checkpoint.
    pub(crate) source: PathBuf,
    /// Where artifacts are kept.
    pub(crate) artifacts: PathBuf,
    /// What was set up. None where the tiny model stands in.
    pub(crate) place: Option<PathBuf>,
    /// Holds the artifacts of the tiny model.
    _scratch: Option<TempDir>,
}

impl Models {
    /// The model `name`, or with `smoke`, and where it is not set up, the
    /// tests' `fixture`.
    pub(crate) fn find(name: &'static str, fixture: &str, smoke: bool) -> anyhow::Result<Self> {
        let place = place().filter(|_| !smoke);
        let source = place.as_ref().map(|dir| dir.join("models").join(name));
        if let (Some(place), Some(source)) = (place, source.filter(|dir| dir.is_dir())) {
            let artifacts = place.join("models").join("tiermesh");
            std::fs::create_dir_all(&artifacts)
                .with_context(|| format!("cannot make {}", artifacts.display()))?;
            return Ok(Self {
                name,
                source,
                artifacts,
                place: Some(place),
                _scratch: None,
            });
        }
        say(&format!(
            "the tests' {fixture} stands in for {name}: the figures say nothing{}",
            if smoke {
                ""
            } else {
                " (benches/peers/models sets the model up)"
            }
        ));
        let scratch = TempDir::new()?;
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/engine/tests/fixtures");
        Ok(Self {
            name,
            source: fixtures.join(fixture),
            artifacts: scratch.path().to_owned(),
            place: None,
            _scratch: Some(scratch),
        })
    }

    /// Whether it is the model that was asked for.
    pub(crate) fn is_real(&self) -> bool {
        self.place.is_some()
    }

    /// Our artifact of the model, made at the first call and again when the
    /// format has changed.
    pub(crate) fn artifact(&self, quantization: Quantization) -> anyhow::Result<PathBuf> {
        let name = format!("{}-{}", self.name, quantization.as_str());
        let target = self.artifacts.join(name);
        match inspect(&target) {
            Ok(manifest) if manifest.quantization() == quantization => return Ok(target),
            _ if target.exists() => std::fs::remove_dir_all(&target)
                .with_context(|| format!("cannot replace {}", target.display()))?,
            _ => {}
        }
        say(&format!("importing {}", target.display()));
        let options = ImportOptions::new(quantization);
        import(&self.source, &target, &options, &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
        .with_context(|| format!("cannot import {}", self.source.display()))?;
        Ok(target)
    }

    /// The peer `script` with a model of its own, if both are set up.
    pub(crate) fn peer(
        &self,
        script: &str,
        model: &str,
        arguments: &[&str],
    ) -> anyhow::Result<Option<Talker>> {
        let Some(place) = &self.place else {
            return Ok(None);
        };
        let python = place.join("venv-peers/bin/python");
        let model = place.join("models").join(model);
        if let Some(missing) = [&python, &model].into_iter().find(|path| !path.exists()) {
            say(&format!(
                "peer: no {} (benches/peers/models sets it up); none measured",
                missing.display()
            ));
            return Ok(None);
        }
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
        let mut command = Command::new(python);
        command.arg(scripts.join(script)).arg(model);
        command
            .args(["--threads", &THREADS.to_string()])
            .args(arguments);
        Talker::start(&mut command).map(Some)
    }
}

/// The folder `benches/peers/models` sets up.
fn place() -> Option<PathBuf> {
    match std::env::var_os("TIERMESH_PEERS") {
        Some(dir) => Some(PathBuf::from(dir)),
        None => Some(std::env::home_dir()?.join(".cache/tiermesh")),
    }
}

/// Bytes of an artifact's weights.
pub(crate) fn weights_bytes(artifact: &Path) -> anyhow::Result<u64> {
    let path = artifact.join("model.safetensors");
    let found = std::fs::metadata(&path);
    Ok(found
        .with_context(|| format!("cannot read {}", path.display()))?
        .len())
}
