//! One file: resumed where it broke off, checked, and only then given its
//! name.

use super::HubError;
use super::cache::{RepoCache, failed, hash, is_whole};
use super::checksum::{Checksum, Hasher};
use super::http::{About, Answer, Http, LINKED_ETAG, LINKED_SIZE};
use super::pauses::{Failure, Pauses};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName};
use hyper::{HeaderMap, Method, StatusCode, Uri};
use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// A try that brought so much was worth it: the tries are counted anew. A
/// download thus ends after at most so many tries for each such part.
const PROGRESS: u64 = 1 << 20;
/// How often to look whether another process has finished a download.
const LOCK_POLL: Duration = Duration::from_millis(250);

/// What the hub says of a file before its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Meta {
    pub(crate) file: String,
    pub(crate) url: Uri,
    pub(crate) size: u64,
    pub(crate) checksum: Checksum,
}

impl Meta {
    /// Asks for size and checksum.
    pub(crate) async fn ask(http: &Http, url: Uri, about: About<'_>) -> Result<Self, HubError> {
        let file = about.file.unwrap_or_default().to_owned();
        let answer = http.ask(&Method::HEAD, &url, about).await?;
        let text = |name: &HeaderName| answer.headers.get(name)?.to_str().ok();
        let linked = |name: &'static str| answer.headers.get(name)?.to_str().ok();
        let etag = linked(LINKED_ETAG).or_else(|| text(&ETAG)).unwrap_or("");
        let Some(checksum) = Checksum::from_etag(etag) else {
            let etag = etag.chars().take(100).collect();
            return Err(HubError::NoChecksum { file, etag });
        };
        // The length of a redirect is its own.
        let length = text(&CONTENT_LENGTH).filter(|_| answer.status.is_success());
        let size = linked(LINKED_SIZE).or(length);
        let Some(size) = size.and_then(|size| size.trim().parse().ok()) else {
            return Err(HubError::NoSize { file });
        };
        Ok(Self {
            file,
            url,
            size,
            checksum,
        })
    }
}

/// Bytes on disk, and the hash over them.
struct Partial {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    len: u64,
    /// Some of the bytes are of an earlier run, which nobody watched.
    is_inherited: bool,
}

impl Partial {
    /// Opens what an earlier run left, and hashes it.
    async fn open(path: PathBuf, meta: &Meta) -> Result<Self, HubError> {
        let opened = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(&path);
        let mut file = opened.map_err(failed("opened", &path))?;
        let mut hasher = meta.checksum.hasher(meta.size);
        let len = hash(&mut file, &path, &mut hasher).await?;
        let mut partial = Self {
            path,
            file,
            hasher,
            len,
            is_inherited: len > 0,
        };
        if len > meta.size {
            partial.restart(meta)?;
        }
        Ok(partial)
    }

    fn restart(&mut self, meta: &Meta) -> Result<(), HubError> {
        self.file
            .set_len(0)
            .map_err(failed("emptied", &self.path))?;
        self.hasher = meta.checksum.hasher(meta.size);
        self.len = 0;
        self.is_inherited = false;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file
            .write_all(bytes)
            .map_err(failed("written", &self.path))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }
}

/// Brings a file into the cache, or finds it there. `told` hears how many of
/// its bytes are there.
pub(crate) async fn bring(
    http: &Http,
    cache: &RepoCache,
    meta: &Meta,
    about: About<'_>,
    told: &mut dyn FnMut(u64),
) -> Result<PathBuf, HubError> {
    let blob = cache.blob(&meta.checksum);
    let lock = cache.lock_file(&meta.checksum)?;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
            Err(TryLockError::Error(error)) => return Err(failed("locked", &blob)(error)),
        }
    }
    // Looked at under the lock: another process may just have brought it.
    if !is_whole(&blob, &meta.checksum).await? {
        let path = cache.incomplete(&meta.checksum);
        let mut partial = Partial::open(path, meta).await?;
        fill(http, &mut partial, meta, about, told).await?;
        let mut found = finish(&mut partial, meta);
        if found != meta.checksum.hex() && partial.is_inherited {
            // What an earlier run left may be what is wrong.
            partial.restart(meta)?;
            fill(http, &mut partial, meta, about, told).await?;
            found = finish(&mut partial, meta);
        }
        if found != meta.checksum.hex() {
            let _ = fs::remove_file(&partial.path);
            return Err(HubError::Checksum {
                file: meta.file.clone(),
                expected: meta.checksum.to_string(),
                found: meta.checksum.found(found).to_string(),
            });
        }
        partial
            .file
            .sync_all()
            .and_then(|()| fs::rename(&partial.path, &blob))
            .map_err(failed("written", &blob))?;
    }
    told(meta.size);
    Ok(blob)
}

fn finish(partial: &mut Partial, meta: &Meta) -> String {
    std::mem::replace(&mut partial.hasher, meta.checksum.hasher(meta.size)).finish()
}

/// Asks until every byte is there.
async fn fill(
    http: &Http,
    partial: &mut Partial,
    meta: &Meta,
    about: About<'_>,
    told: &mut dyn FnMut(u64),
) -> Result<(), HubError> {
    let mut pauses = Pauses::new(http.patience);
    while partial.len < meta.size {
        let before = partial.len;
        told(before);
        if let Err(failure) = attempt(http, partial, meta, about, told).await {
            if partial.len.saturating_sub(before) >= PROGRESS {
                pauses.forget();
            }
            pauses.pause(failure).await?;
        }
    }
    Ok(())
}

/// One request for what is missing, as far as it goes.
async fn attempt(
    http: &Http,
    partial: &mut Partial,
    meta: &Meta,
    about: About<'_>,
    told: &mut dyn FnMut(u64),
) -> Result<(), Failure> {
    let mut answer = http
        .send(&Method::GET, &meta.url, partial.len, about)
        .await?;
    if !continues(&answer, partial.len, meta.size) {
        partial.restart(meta)?;
        if answer.status == StatusCode::RANGE_NOT_SATISFIABLE {
            answer = http.send(&Method::GET, &meta.url, 0, about).await?;
        }
        if answer.status != StatusCode::OK {
            return Err(unusable(&answer));
        }
    }
    while let Some(bytes) = answer.piece(http.patience.silence).await? {
        if bytes.len() as u64 > meta.size - partial.len {
            let _ = fs::remove_file(&partial.path);
            return Err(Failure::Lasting(HubError::TooLong {
                file: meta.file.clone(),
                size: meta.size,
            }));
        }
        partial.append(&bytes)?;
        told(partial.len);
    }
    match partial.len == meta.size {
        true => Ok(()),
        false => Err(unusable(&answer)),
    }
}

/// Whether the answer starts at the byte that was asked for.
fn continues(answer: &Answer, from: u64, size: u64) -> bool {
    match answer.status {
        StatusCode::OK => from == 0,
        StatusCode::PARTIAL_CONTENT => range(&answer.headers) == Some((from, size)),
        _ => false,
    }
}

/// The first byte and the whole size, of `bytes FIRST-LAST/SIZE`.
fn range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (span, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = span.split_once('-')?;
    Some((first.trim().parse().ok()?, size.trim().parse().ok()?))
}

/// An answer that ended early or is of another part: the next may be better.
fn unusable(answer: &Answer) -> Failure {
    let error = HubError::Status {
        url: super::error::shown(&answer.url),
        status: answer.status.as_u16(),
    };
    Failure::Passing(error, None)
}
