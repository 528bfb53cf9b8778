//! A place beside the target where a model is written, so that it appears
//! whole or not at all.

use super::library::MANIFEST;
use anyhow::{Context as _, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// How the place is named, with the process's number after it.
const PREFIX: &str = ".partial-";

/// A folder beside the target. Dropping it removes what is in it.
pub(super) struct Staging {
    folder: TempDir,
    target: PathBuf,
}

impl Staging {
    /// Makes the place, and clears away what processes that were killed left.
    ///
    /// # Errors
    /// When the target is there and may not be replaced, or nothing can be
    /// written beside it.
    pub(super) fn beside(target: &Path, force: bool) -> anyhow::Result<Self> {
        let target = std::path::absolute(target)?;
        if target.symlink_metadata().is_ok() {
            if !force {
                bail!(
                    "{} exists: use --force to replace it, --out DIR or --name ID for another place",
                    target.display()
                );
            }
            may_be_replaced(&target)?;
        }
        let parent = target
            .parent()
            .with_context(|| format!("{} is no place for a model", target.display()))?;
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        clear(parent);
        let folder = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .tempdir_in(parent)
            .with_context(|| format!("cannot write to {}", parent.display()))?;
        Ok(Self { folder, target })
    }

    /// Where to write; nothing is there.
    pub(super) fn model(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    /// Gives what was written its name, after it is on the disk.
    ///
    /// # Errors
    /// What could not be written. The target is then what it was.
    pub(super) fn commit(self) -> anyhow::Result<PathBuf> {
        let (model, target) = (self.model(), &self.target);
        let cannot = || format!("cannot write {}", target.display());
        sync(&model).with_context(cannot)?;
        let replaced = self.folder.path().join("replaced");
        if target.symlink_metadata().is_ok() {
            may_be_replaced(target)?;
            fs::rename(target, &replaced).with_context(cannot)?;
        }
        if let Err(error) = fs::rename(&model, target) {
            // The old one goes back; if even that fails, the first error is
            // still the one to tell.
            let _ = fs::rename(&replaced, target);
            return Err(error).with_context(cannot);
        }
        if let Some(parent) = target.parent() {
            File::open(parent)
                .and_then(|folder| folder.sync_all())
                .with_context(cannot)?;
        }
        Ok(self.target)
    }
}

/// Only a model gives way, or nothing at all: `--force --out ~` must not
/// replace a home.
fn may_be_replaced(target: &Path) -> anyhow::Result<()> {
    let is_directory = target.symlink_metadata().is_ok_and(|found| found.is_dir());
    let is_empty = || fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    if is_directory && (target.join(MANIFEST).is_file() || is_empty()) {
        return Ok(());
    }
    bail!(
        "{} is not a model, so --force does not replace it",
        target.display()
    )
}

/// Every file below, and the folders.
fn sync(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => sync(&path)?,
            false => File::open(&path)?.sync_all()?,
        }
    }
    File::open(folder)?.sync_all()
}

/// Removes places whose process is gone. What cannot be removed stays: it is
/// in nobody's way.
fn clear(parent: &Path) {
    // Only where processes can be asked for.
    let Ok(true) = Path::new("/proc/self").try_exists() else {
        return;
    };
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| {
            let (process, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
            process.parse::<u32>().ok()
        });
        let is_gone = |id: u32| !Path::new(&format!("/proc/{id}")).exists();
        if process.is_some_and(is_gone) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn what_is_not_committed_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::beside(&dir.path().join("m"), false).unwrap();
        fs::create_dir(staging.model()).unwrap();
        fs::write(staging.model().join("half"), "x").unwrap();
        drop(staging);
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_killed_process_is_cleared_away_after() {
        let dir = tempfile::tempdir().unwrap();
        // No system gives a process this number.
        let dead = dir.path().join(format!("{PREFIX}4194305-abc"));
        let alive = dir
            .path()
            .join(format!("{PREFIX}{}-abc", std::process::id()));
        for folder in [&dead, &alive] {
            fs::create_dir(folder).unwrap();
        }
        drop(Staging::beside(&dir.path().join("m"), false).unwrap());
        assert!(!dead.exists());
        assert!(alive.exists());
    }

    #[test]
    fn force_replaces_a_model_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("m");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("thesis.txt"), "x").unwrap();
        let refused = Staging::beside(&target, true).err().unwrap();
        assert!(refused.to_string().contains("not a model"), "{refused}");

        fs::write(target.join(MANIFEST), "{}").unwrap();
        let refused = Staging::beside(&target, false).err().unwrap();
        assert!(refused.to_string().contains("--force"), "{refused}");

        let staging = Staging::beside(&target, true).unwrap();
        fs::create_dir(staging.model()).unwrap();
        fs::write(staging.model().join("new"), "x").unwrap();
        staging.commit().unwrap();
        assert_eq!(names(&target), ["new"]);
        assert_eq!(names(dir.path()), ["m"]);
    }
}
