//! A client for the Hugging Face hub: the files of one repository at one
//! commit, resumed and checked, in the cache that the hub's own tools use.
//!
//! ```text
//! revision ──listing──▶ commit, files ──HEAD──▶ size, checksum
//!                                          └──GET, Range──▶ blob ──▶ snapshot
//! ```
//!
//! The token goes to the endpoint's own host and nowhere else: files come by
//! redirects to other hosts. Nothing is trusted before its checksum matches.

mod cache;
mod checksum;
mod choose;
mod config;
mod download;
mod error;
mod http;
mod name;
mod pauses;
mod route;

use cache::{RepoCache, failed, is_whole};
use checksum::Checksum;
pub use checksum::hex;
pub use choose::MANIFEST;
pub use config::HubConfig;
use download::{Meta, bring};
pub use error::HubError;
use error::shown;
use http::{About, Http};
use hyper::Method;
pub use name::{RepoRef, is_plain_path};
use name::{encoded, is_commit};
use pauses::Pauses;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The longest listing: ten thousand files have 1 MiB.
const MAX_LISTING: usize = 16 << 20;
/// The longest shard index; the largest models have 20 MiB.
const MAX_INDEX: u64 = 64 << 20;

/// The files of a repository, on this machine.
#[derive(Debug)]
pub struct Snapshot {
    /// Where they lie.
    pub directory: PathBuf,
    /// Their paths below it.
    pub files: Vec<String>,
    /// The commit they are of.
    pub commit: String,
    /// The licence, as the repository's card names it.
    pub license: Option<String>,
}

/// A client of one hub.
pub struct Hub {
    http: Http,
    cache: PathBuf,
    offline: bool,
}

/// How far a download is, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Downloaded {
    /// There already.
    pub done: u64,
    /// Wanted.
    pub total: u64,
}

#[derive(Deserialize)]
struct Listing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
    #[serde(default)]
    tags: Vec<String>,
}

impl Listing {
    fn present(&self) -> BTreeSet<&str> {
        let names = self.siblings.iter();
        names.map(|s| s.rfilename.as_str()).collect()
    }

    fn snapshot(self, cache: &RepoCache, files: Vec<String>) -> Snapshot {
        let mut tags = self.tags.iter();
        let license = tags.find_map(|tag| tag.strip_prefix("license:"));
        Snapshot {
            directory: cache.snapshot(&self.sha),
            files,
            license: license.map(str::to_owned),
            commit: self.sha,
        }
    }
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Hub {
    /// A client with these settings.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(config: HubConfig) -> Result<Self, HubError> {
        Ok(Self {
            cache: config.cache.clone(),
            offline: config.offline,
            http: Http::new(config)?,
        })
    }

    /// What an artifact's repository says of it: its manifest and its
    /// configuration, without its weights. `files` are those alone.
    ///
    /// # Errors
    /// As [`Hub::snapshot`], and when it is not an artifact of ours.
    pub async fn outline(&self, wanted: &RepoRef) -> Result<Snapshot, HubError> {
        let cache = RepoCache::new(&self.cache, wanted.repo());
        if self.offline {
            return self.cached(wanted, &cache).await;
        }
        let listing = self.listing(wanted).await?;
        let files = choose::outline(wanted.repo(), &listing.present())?;
        let metas = self.metas(wanted, &listing.sha, &files).await?;
        self.bring_all(wanted, &cache, (&listing.sha, &metas), &mut |_| {})
            .await?;
        Ok(listing.snapshot(&cache, files))
    }

    /// Remembers which commit a branch or a tag stood for, now that all files
    /// of that commit are here: what [`Hub::kept`] finds.
    ///
    /// # Errors
    /// When the cache cannot be written.
    pub fn remember(&self, wanted: &RepoRef, commit: &str) -> Result<(), HubError> {
        RepoCache::new(&self.cache, wanted.repo()).remember(wanted.revision(), commit)
    }

    /// What the cache has of a repository, if that is all of it.
    ///
    /// # Errors
    /// When something is missing, or not what its checksum says.
    pub async fn kept(&self, wanted: &RepoRef) -> Result<Snapshot, HubError> {
        let cache = RepoCache::new(&self.cache, wanted.repo());
        self.cached(wanted, &cache).await
    }

    /// The files of a model's repository: downloaded, or found in the cache.
    ///
    /// # Errors
    /// What the hub refuses, what does not arrive, what is not what was
    /// promised. What has arrived stays for the next try.
    pub async fn snapshot(
        &self,
        wanted: &RepoRef,
        told: &mut dyn FnMut(Downloaded),
    ) -> Result<Snapshot, HubError> {
        let cache = RepoCache::new(&self.cache, wanted.repo());
        if self.offline {
            return self.cached(wanted, &cache).await;
        }
        let listing = self.listing(wanted).await?;
        let commit = listing.sha.as_str();
        let present = listing.present();
        let mut files = choose::first(wanted.repo(), &present)?;
        let mut metas = self.metas(wanted, commit, &files).await?;
        if files.iter().any(|file| file == choose::INDEX) {
            let index = metas.iter().find(|meta| meta.file == choose::INDEX);
            let index = index.expect("every file has its meta");
            let index = self.index(wanted, commit, &cache, index).await?;
            let shards = choose::shards(wanted.repo(), &index, |file| present.contains(file))?;
            metas.extend(self.metas(wanted, commit, &shards).await?);
            files.extend(shards);
        }
        self.bring_all(wanted, &cache, (commit, &metas), told)
            .await?;
        // Last, so that a revision is only remembered with all its files.
        cache.remember(wanted.revision(), commit)?;
        Ok(listing.snapshot(&cache, files))
    }

    /// Downloads files into one commit's folder. `told` hears the bytes of all
    /// of them together.
    async fn bring_all(
        &self,
        wanted: &RepoRef,
        cache: &RepoCache,
        (commit, metas): (&str, &[Meta]),
        told: &mut dyn FnMut(Downloaded),
    ) -> Result<(), HubError> {
        let total = metas
            .iter()
            .fold(0_u64, |sum, meta| sum.saturating_add(meta.size));
        let mut before = 0_u64;
        for meta in metas {
            let about = about(wanted, Some(&meta.file));
            let mut told = |done: u64| {
                let done = before.saturating_add(done);
                told(Downloaded { done, total });
            };
            bring(&self.http, cache, meta, about, &mut told).await?;
            cache.link(commit, &meta.file, &meta.checksum)?;
            before = before.saturating_add(meta.size);
        }
        Ok(())
    }

    async fn listing(&self, wanted: &RepoRef) -> Result<Listing, HubError> {
        let revision = encoded(wanted.revision(), None);
        let path = format!("/api/models/{}/revision/{revision}", wanted.repo());
        let url = self.http.endpoint.at(&path)?;
        let about = about(wanted, None);
        let refused = |source| HubError::Listing {
            url: shown(&url),
            most: MAX_LISTING,
            source,
        };
        let mut pauses = Pauses::new(self.http.patience);
        let json = loop {
            let answer = self.http.ask(&Method::GET, &url, about).await?;
            match answer.whole(MAX_LISTING, self.http.patience.silence).await {
                Ok(json) => break json.ok_or_else(|| refused(None))?,
                Err(failure) => pauses.pause(failure).await?,
            }
        };
        let listing: Listing =
            serde_json::from_slice(&json).map_err(|source| refused(Some(source)))?;
        match is_commit(&listing.sha) {
            true => Ok(listing),
            false => Err(refused(None)),
        }
    }

    async fn metas(
        &self,
        wanted: &RepoRef,
        commit: &str,
        files: &[String],
    ) -> Result<Vec<Meta>, HubError> {
        let mut metas = Vec::with_capacity(files.len());
        for file in files {
            let encoded = encoded(file, Some(b'/'));
            let path = format!("/{}/resolve/{commit}/{encoded}", wanted.repo());
            let url = self.http.endpoint.at(&path)?;
            metas.push(Meta::ask(&self.http, url, about(wanted, Some(file))).await?);
        }
        Ok(metas)
    }

    async fn index(
        &self,
        wanted: &RepoRef,
        commit: &str,
        cache: &RepoCache,
        meta: &Meta,
    ) -> Result<Vec<u8>, HubError> {
        if meta.size > MAX_INDEX {
            return Err(HubError::TooLong {
                file: meta.file.clone(),
                size: MAX_INDEX,
            });
        }
        let about = about(wanted, Some(&meta.file));
        let path = bring(&self.http, cache, meta, about, &mut |_| {}).await?;
        cache.link(commit, &meta.file, &meta.checksum)?;
        std::fs::read(&path).map_err(failed("read", &path))
    }

    /// What the cache has of it, if that is everything, each file checked
    /// against the checksum it is named by.
    async fn cached(&self, wanted: &RepoRef, cache: &RepoCache) -> Result<Snapshot, HubError> {
        let offline = |what: String| HubError::Offline {
            what,
            cache: cache.folder().to_owned(),
        };
        let commit = cache
            .commit(wanted.revision())
            .ok_or_else(|| offline(wanted.to_string()))?;
        let directory = cache.snapshot(&commit);
        let is_there = |file: &str| directory.join(file).exists();
        let present: BTreeSet<&str> = choose::known().filter(|file| is_there(file)).collect();
        let missing = |error| match error {
            HubError::Incomplete { file, .. } => offline(format!("{file} of {wanted}")),
            HubError::NoWeights { .. } => offline(format!("any weights of {wanted}")),
            error => error,
        };
        let mut files = choose::first(wanted.repo(), &present).map_err(missing)?;
        if files.iter().any(|file| file == choose::INDEX) {
            let path = directory.join(choose::INDEX);
            let index = std::fs::read(&path).map_err(failed("read", &path))?;
            files.extend(choose::shards(wanted.repo(), &index, is_there).map_err(missing)?);
        }
        for file in &files {
            check(&directory, file).await?;
        }
        Ok(Snapshot {
            directory,
            files,
            commit,
            license: None,
        })
    }
}

/// A snapshot's file is a link to a blob that is named by its checksum.
async fn check(directory: &Path, file: &str) -> Result<(), HubError> {
    let path = directory.join(file);
    let Ok(blob) = std::fs::read_link(&path) else {
        // Put there by other means, such as a copy: nothing to check it by.
        return Ok(());
    };
    let name = blob.file_name().and_then(|name| name.to_str());
    let Some(checksum) = name.and_then(Checksum::from_etag) else {
        return Ok(());
    };
    match is_whole(&path, &checksum).await? {
        true => Ok(()),
        false => Err(HubError::Damaged { path }),
    }
}

fn about<'a>(wanted: &'a RepoRef, file: Option<&'a str>) -> About<'a> {
    About {
        repo: wanted.repo(),
        revision: wanted.revision(),
        file,
    }
}
