//! What can go wrong between us and the hub. No message holds a token, nor the
//! query of a URL: a signed download address is a credential too.

use hyper::Uri;
use std::path::PathBuf;

/// Why a repository could not be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The system gives no runtime to ask with.
    #[error("the hub cannot be asked for want of a thread's runtime")]
    Runtime(#[source] std::io::Error),
    /// `hf:` was followed by something that names no repository.
    #[error("`{value}` names no repository: use hf:ORG/NAME or hf:ORG/NAME@REVISION")]
    Name {
        /// What was given.
        value: String,
    },
    /// The endpoint is no address.
    #[error(
        "HF_ENDPOINT = `{value}` is not an address: use http:// or https://, a host, and no user or query"
    )]
    Endpoint {
        /// What was given.
        value: String,
    },
    /// The token cannot be put into a header.
    #[error("the token of {origin} is not a token: it has to be one line of printable ASCII")]
    Token {
        /// Where it came from.
        origin: String,
    },
    /// No place to keep downloads.
    #[error("there is no cache directory: set HF_HUB_CACHE, HF_HOME or HOME")]
    NoCache,
    /// TLS cannot be set up.
    #[error(
        "the system's certificates cannot be read: install ca-certificates or set SSL_CERT_FILE"
    )]
    Certificates(#[source] std::io::Error),
    /// A file of the cache cannot be read or written.
    #[error("{} cannot be {operation}", path.display())]
    Cache {
        /// What was tried, as a participle.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// Nobody answers, or the answer breaks off.
    #[error(
        "{url} cannot be reached: check the network, HF_ENDPOINT and HTTPS_PROXY, \
         or set HF_HUB_OFFLINE=1 to use what was downloaded before"
    )]
    Unreachable {
        /// The address, without its query.
        url: String,
        /// The reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer, or no further byte of one, in time.
    #[error("{url} has been silent for {seconds} s")]
    Silent {
        /// The address, without its query.
        url: String,
        /// How long.
        seconds: u64,
    },
    /// The hub wants fewer requests.
    #[error("{url} asks to wait ({status}{}): try again later, or set HF_TOKEN for a higher limit", wait.map_or_else(String::new, |s| format!(", {s} s")))]
    Busy {
        /// The address, without its query.
        url: String,
        /// 429, or another status that asks for patience.
        status: u16,
        /// Seconds, if it said.
        wait: Option<u64>,
    },
    /// Behind a licence.
    #[error(
        "{repo} is gated ({status}): accept its licence at {page}, and set HF_TOKEN to a token of that account ({token})"
    )]
    Gated {
        /// The repository.
        repo: String,
        /// Its page.
        page: String,
        /// 401 or 403.
        status: u16,
        /// Whether one was sent.
        token: &'static str,
    },
    /// Not for us.
    #[error(
        "the hub does not let us read {repo} ({status}): check the name; if it is private, set HF_TOKEN to a token that may read it ({token})"
    )]
    Denied {
        /// The repository.
        repo: String,
        /// 401 or 403.
        status: u16,
        /// Whether one was sent.
        token: &'static str,
    },
    /// Not there.
    #[error("the hub has no {what} (404): check the name and the revision")]
    Missing {
        /// The repository, revision or file.
        what: String,
    },
    /// An answer we have no use for.
    #[error("{url} answered {status}")]
    Status {
        /// The address, without its query.
        url: String,
        /// What it said.
        status: u16,
    },
    /// A redirect that leads nowhere we go.
    #[error("{url} redirects {problem}")]
    Redirect {
        /// The address, without its query.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The listing is not one.
    #[error("{url} did not answer with a listing of {most} bytes at most: is HF_ENDPOINT a hub?")]
    Listing {
        /// The address.
        url: String,
        /// The limit.
        most: usize,
        /// The reason, if it is JSON's.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// A name in the listing or in the index would leave the repository.
    #[error("{repo} lists `{file}`, which is no plain path below it")]
    Path {
        /// The repository.
        repo: String,
        /// The name.
        file: String,
    },
    /// The list of shards cannot be read.
    #[error("{file} of {repo} is not a list of weight files")]
    Index {
        /// The repository.
        repo: String,
        /// The file.
        file: &'static str,
        /// The reason.
        #[source]
        source: serde_json::Error,
    },
    /// The index names a file that the repository has not got.
    #[error("{repo} has no `{file}`, which {needs}")]
    Incomplete {
        /// The repository.
        repo: String,
        /// The missing file.
        file: String,
        /// Who needs it.
        needs: &'static str,
    },
    /// Only formats that run code when they are read, or that we do not read.
    #[error(
        "{repo} has no safetensors weights: choose a revision or a repository that has (some keep them at refs/pr/N)"
    )]
    NoWeights {
        /// The repository.
        repo: String,
    },
    /// Nothing to check the download against.
    #[error("the hub gives no checksum for {file} (ETag `{etag}`), so it is not trusted")]
    NoChecksum {
        /// The file.
        file: String,
        /// What it gave.
        etag: String,
    },
    /// The hub does not say how long the file is.
    #[error("the hub gives no size for {file}")]
    NoSize {
        /// The file.
        file: String,
    },
    /// What came is not what was promised; it has been removed.
    #[error(
        "{file} is not what the hub promised and was removed: expected {expected}, found {found}; try again"
    )]
    Checksum {
        /// The file.
        file: String,
        /// Kind and value.
        expected: String,
        /// Kind and value.
        found: String,
    },
    /// More bytes than promised; what came has been removed.
    #[error("{file} has more than the {size} bytes the hub promised and was removed; try again")]
    TooLong {
        /// The file.
        file: String,
        /// The promise.
        size: u64,
    },
    /// A cached file is not what its name says.
    #[error("{} is damaged: remove it, and import again without HF_HUB_OFFLINE", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// HF_HUB_OFFLINE, and not everything is there.
    #[error(
        "HF_HUB_OFFLINE is set and {what} is not in {}: unset it to download", cache.display()
    )]
    Offline {
        /// What is missing.
        what: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
}

/// An address as it may be told: without query, which can be a signature.
pub(crate) fn shown(url: &Uri) -> String {
    format!(
        "{}://{}{}",
        url.scheme_str().unwrap_or("http"),
        url.authority().map_or("", |a| a.as_str()),
        url.path()
    )
}
