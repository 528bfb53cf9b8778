//! The models directory, and what a name or a path on the command line means.

use super::library::{self, Described, MANIFEST};
use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};

/// Where models are kept.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ModelsDir {
    /// Where models are kept [default: $XDG_DATA_HOME/tiermesh/models, or
    /// ~/.local/share/tiermesh/models].
    #[arg(long, value_name = "DIR", env = "TIERMESH_MODELS")]
    models_dir: Option<PathBuf>,
}

/// A directory below the models directory.
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// What it is, or why it is not a model.
    pub(super) described: anyhow::Result<Described>,
}

impl ModelsDir {
    /// The directory, which need not exist.
    ///
    /// # Errors
    /// When the system names no home.
    pub(super) fn path(&self) -> anyhow::Result<PathBuf> {
        if let Some(given) = &self.models_dir {
            return Ok(given.clone());
        }
        // The data directory by the XDG base directory specification: a
        // relative path there is to be ignored.
        let absolute = |name| {
            let path = std::env::var_os(name).map(PathBuf::from)?;
            path.is_absolute().then_some(path)
        };
        absolute("XDG_DATA_HOME")
            .or_else(|| Some(absolute("HOME")?.join(".local/share")))
            .map(|data| data.join("tiermesh/models"))
            .context("there is no home directory: use --models-dir or set TIERMESH_MODELS")
    }

    /// Every directory in it that has a manifest, by name.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub(super) fn models(&self) -> anyhow::Result<Vec<Found>> {
        let directory = self.path()?;
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", directory.display()));
            }
        };
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| !is_hidden(path) && path.join(MANIFEST).is_file())
            .collect();
        paths.sort();
        let found = paths.into_iter().map(|path| Found {
            described: library::inspect(&path),
            path,
        });
        Ok(found.collect())
    }

    /// What `PATH|NAME` means: a path if it looks like one, else a model in
    /// the models directory by its folder or its name, else a directory here.
    ///
    /// # Errors
    /// When there is nothing of that name, or more than one.
    pub(super) fn find(&self, asked: &str) -> anyhow::Result<PathBuf> {
        let path = Path::new(asked);
        let directory = self.path()?;
        if !asked.is_empty()
            && !asked.contains(std::path::MAIN_SEPARATOR)
            && !asked.starts_with('.')
        {
            let own = directory.join(asked);
            if own.join(MANIFEST).is_file() {
                return Ok(own);
            }
        }
        if path.is_dir() {
            return Ok(path.to_owned());
        }
        let named = |found: &Found| {
            found
                .described
                .as_ref()
                .is_ok_and(|model| model.name == asked)
        };
        let mut named: Vec<_> = self.models()?.into_iter().filter(named).collect();
        match (named.pop(), named.is_empty()) {
            (Some(found), true) => Ok(found.path),
            (Some(found), false) => {
                let all = named.iter().chain([&found]);
                let all: Vec<_> = all.map(|found| found.path.display().to_string()).collect();
                bail!(
                    "`{asked}` is the name of {}: give the path",
                    all.join(" and ")
                )
            }
            (None, _) => bail!(
                "there is no model `{asked}`: neither a directory here nor a model in {}; \
                 `tiermesh model list` shows what there is",
                directory.display()
            ),
        }
    }
}

fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_none_or(|name| name.starts_with('.'))
}

/// The folder a model of this name gets: names may have slashes, folders not.
///
/// # Errors
/// When the name is no good folder.
pub(super) fn folder(name: &str) -> anyhow::Result<String> {
    let folder = name.replace('/', "--");
    if folder.is_empty() || folder.starts_with('.') {
        bail!("a model named `{name}` has no good folder: use --out DIR or --name ID");
    }
    Ok(folder)
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits for people")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(503_136), "503.1 kB");
        assert_eq!(size(999_999), "1.0 MB");
        assert_eq!(size(u64::MAX), "18446744.1 TB");
    }

    #[test]
    fn a_name_with_slashes_is_one_folder() {
        assert_eq!(folder("org/name").unwrap(), "org--name");
        for bad in ["", ".", "..", ".hidden", "../x"] {
            assert!(folder(bad).is_err(), "{bad:?}");
        }
    }
}
