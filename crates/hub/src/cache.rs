//! The cache, laid out as the hub's own tools lay it out, so that neither
//! downloads what the other has:
//!
//! ```text
//! models--ORG--NAME/blobs/CHECKSUM              the bytes
//! models--ORG--NAME/blobs/CHECKSUM.incomplete   the bytes so far
//! models--ORG--NAME/snapshots/COMMIT/FILE       a link to a blob
//! models--ORG--NAME/refs/REVISION               a commit
//! .locks/models--ORG--NAME/CHECKSUM.lock        held by who downloads
//! ```

use super::HubError;
use super::checksum::{Checksum, Hasher};
use super::name::is_commit;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Read at a time.
const PIECE: usize = 1 << 20;

/// One repository's part of the cache.
pub(crate) struct RepoCache {
    folder: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(crate) fn new(cache: &Path, repo: &str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        Self {
            locks: cache.join(".locks").join(&name),
            folder: cache.join(name),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn blob(&self, checksum: &Checksum) -> PathBuf {
        self.folder.join("blobs").join(checksum.hex())
    }

    pub(crate) fn incomplete(&self, checksum: &Checksum) -> PathBuf {
        let name = format!("{}.incomplete", checksum.hex());
        self.folder.join("blobs").join(name)
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Makes the folders that a download writes to, and opens its lock.
    pub(crate) fn lock_file(&self, checksum: &Checksum) -> Result<File, HubError> {
        for folder in [&self.folder.join("blobs"), &self.locks] {
            fs::create_dir_all(folder).map_err(failed("made", folder))?;
        }
        let path = self.locks.join(format!("{}.lock", checksum.hex()));
        let opened = File::options().create(true).append(true).open(&path);
        opened.map_err(failed("opened", &path))
    }

    /// Puts a blob into a snapshot under its file's name.
    pub(crate) fn link(
        &self,
        commit: &str,
        file: &str,
        checksum: &Checksum,
    ) -> Result<(), HubError> {
        let place = self.snapshot(commit).join(file);
        let up = "../".repeat(2 + file.matches('/').count());
        let blob = PathBuf::from(format!("{up}blobs/{}", checksum.hex()));
        if fs::read_link(&place).is_ok_and(|there| there == blob) {
            return Ok(());
        }
        let folder = place.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(failed("made", folder))?;
        // Replaced in one step: another reader sees the old link or the new.
        let mut fresh = place.clone().into_os_string();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        let _ = fs::remove_file(&fresh);
        std::os::unix::fs::symlink(&blob, &fresh)
            .and_then(|()| fs::rename(&fresh, &place))
            .map_err(failed("linked", &place))
    }

    /// Remembers what a branch or tag stands for.
    pub(crate) fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(failed("made", folder))?;
        fs::write(&path, commit).map_err(failed("written", &path))
    }

    /// What a revision stood for when it was last asked for.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let path = self.folder.join("refs").join(revision);
        let mut text = String::new();
        File::open(path)
            .ok()?
            .take(64)
            .read_to_string(&mut text)
            .ok()?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_owned())
    }
}

/// Feeds what is in a file to a hash, and says how long it is. Other tasks get
/// their turn in between, such as the one that waits for Ctrl-C.
pub(crate) async fn hash(
    file: &mut File,
    path: &Path,
    hasher: &mut Hasher,
) -> Result<u64, HubError> {
    let mut piece = vec![0; PIECE];
    let mut size = 0;
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(size),
            Ok(n) => {
                hasher.update(&piece[..n]);
                size += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed("read", path)(error)),
        }
        tokio::task::yield_now().await;
    }
}

/// Whether the file at `path` is there and is what `checksum` says.
pub(crate) async fn is_whole(path: &Path, checksum: &Checksum) -> Result<bool, HubError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("opened", path)(error)),
    };
    let size = file.metadata().map_err(failed("read", path))?.len();
    let mut hasher = checksum.hasher(size);
    hash(&mut file, path, &mut hasher).await?;
    Ok(hasher.finish() == checksum.hex())
}

/// An error of the cache's file system.
pub(crate) fn failed<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> HubError + use<'a> {
    move |source| HubError::Cache {
        operation,
        path: path.to_owned(),
        source,
    }
}
