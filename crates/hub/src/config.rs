//! Where the hub is and who asks, by the environment variables that the hub's
//! own tools read.

use super::HubError;
use super::error::shown;
use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::proxy::matcher::Matcher;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The hub that `hf:` means.
const ENDPOINT: &str = "https://huggingface.co";
/// No token is longer.
const MAX_TOKEN: u64 = 4096;

/// How to reach the hub.
pub struct HubConfig {
    pub(crate) endpoint: Endpoint,
    pub(crate) token: Option<Token>,
    pub(crate) cache: PathBuf,
    pub(crate) offline: bool,
    pub(crate) proxies: Matcher,
    pub(crate) patience: Patience,
}

/// How long to wait, and how often to try again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Tries without progress before the last error is told.
    pub(crate) attempts: u32,
    /// The first pause; each next one is twice as long.
    pub(crate) first: Duration,
    /// The longest pause, also if the hub asks for a longer one.
    pub(crate) most: Duration,
    /// From request to answer, and between two pieces of an answer.
    pub(crate) silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 5,
            first: Duration::from_millis(500),
            most: Duration::from_secs(60),
            silence: Duration::from_secs(30),
        }
    }
}

impl HubConfig {
    /// Reads `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HOME`,
    /// `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, and the proxies' variables.
    ///
    /// # Errors
    /// Names the variable.
    pub fn from_env() -> Result<Self, HubError> {
        Self::read(&|name| std::env::var(name).ok(), Matcher::from_env())
    }

    /// [`Self::from_env`] with the environment as an argument.
    fn read(variable: &dyn Fn(&str) -> Option<String>, proxies: Matcher) -> Result<Self, HubError> {
        let set = |name: &str| {
            variable(name)
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
        };
        let path = |name: &str| set(name).map(PathBuf::from);
        let home = path("HF_HOME")
            .or_else(|| Some(path("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(path("HOME")?.join(".cache/huggingface")));
        let cache = path("HF_HUB_CACHE").or_else(|| Some(home.as_ref()?.join("hub")));
        let offline = set("HF_HUB_OFFLINE").is_some_and(|value| {
            ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
        });
        let token = match set("HF_TOKEN") {
            Some(text) => Some(Token::new(&text, "HF_TOKEN")?),
            None => {
                let file = path("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")));
                file.map(|file| Token::read(&file)).transpose()?.flatten()
            }
        };
        Ok(Self {
            endpoint: Endpoint::new(set("HF_ENDPOINT").as_deref().unwrap_or(ENDPOINT))?,
            token,
            cache: cache.ok_or(HubError::NoCache)?,
            offline,
            proxies,
            patience: Patience::default(),
        })
    }
}

/// The hub's address, with the path of a mirror that has one.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    base: String,
    origin: Uri,
}

impl Endpoint {
    fn new(text: &str) -> Result<Self, HubError> {
        let wrong = || HubError::Endpoint {
            // What stands before an @ may be a password.
            value: text.rsplit('@').next().unwrap_or_default().to_owned(),
        };
        let base = text.trim_end_matches('/');
        let origin: Uri = base.parse().map_err(|_| wrong())?;
        let plain = matches!(origin.scheme_str(), Some("http" | "https"))
            && origin.host().is_some_and(|host| !host.is_empty())
            && !base.contains(['@', '?', '#']);
        if !plain {
            return Err(wrong());
        }
        Ok(Self {
            base: base.to_owned(),
            origin,
        })
    }

    /// The address of a path, which starts with `/` and is encoded.
    pub(crate) fn at(&self, path: &str) -> Result<Uri, HubError> {
        let whole = format!("{}{path}", self.base);
        whole.parse().map_err(|_| HubError::Endpoint {
            value: self.base.clone(),
        })
    }

    /// Whether the token may go to `url`: to the endpoint's own host and port,
    /// and in the clear only inside this machine.
    pub(crate) fn may_know_token(&self, url: &Uri) -> bool {
        is_same_origin(url, &self.origin) && (url.scheme_str() == Some("https") || is_loopback(url))
    }

    pub(crate) fn is_https(&self) -> bool {
        self.origin.scheme_str() == Some("https")
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(shown(&self.origin).trim_end_matches('/'))
    }
}

/// Same scheme, host and port.
pub(crate) fn is_same_origin(one: &Uri, other: &Uri) -> bool {
    let port = |url: &Uri| {
        let usual = if url.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        url.port_u16().unwrap_or(usual)
    };
    let host = |url: &Uri| url.host().unwrap_or_default().to_ascii_lowercase();
    one.scheme() == other.scheme() && host(one) == host(other) && port(one) == port(other)
}

fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let parsed = bare.parse::<std::net::IpAddr>();
    bare == "localhost" || parsed.is_ok_and(|ip| ip.is_loopback())
}

/// A token as the header that carries it. It has no way to be printed.
pub(crate) struct Token(HeaderValue);

impl Token {
    fn new(text: &str, origin: &str) -> Result<Self, HubError> {
        let wrong = || HubError::Token {
            origin: origin.to_owned(),
        };
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(wrong());
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| wrong())?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The token in a file; none if there is no file, or nothing in it.
    fn read(path: &Path) -> Result<Option<Self>, HubError> {
        let cache = |source| HubError::Cache {
            operation: "read",
            path: path.to_owned(),
            source,
        };
        match std::fs::metadata(path) {
            Ok(found) if found.len() <= MAX_TOKEN => {}
            Ok(_) => {
                return Err(HubError::Token {
                    origin: path.display().to_string(),
                });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cache(error)),
        }
        let text = std::fs::read_to_string(path).map_err(cache)?;
        match text.trim() {
            "" => Ok(None),
            text => Self::new(text, &path.display().to_string()).map(Some),
        }
    }

    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<HubConfig, HubError> {
        let variables = variables.to_owned();
        let find = move |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        HubConfig::read(&find, Matcher::builder().build())
    }

    #[test]
    fn the_cache_is_the_one_the_hubs_own_tools_use() {
        let cache = |variables: &[(&str, &str)]| read(variables).unwrap().cache;
        assert_eq!(
            cache(&[("HOME", "/h")]),
            Path::new("/h/.cache/huggingface/hub")
        );
        let both = [("HOME", "/h"), ("XDG_CACHE_HOME", "/x")];
        assert_eq!(cache(&both), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("HF_HOME", "/f")]), Path::new("/f/hub"));
        let own = [("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")];
        assert_eq!(cache(&own), Path::new("/c"));
        assert!(matches!(read(&[]), Err(HubError::NoCache)));
    }

    #[test]
    fn the_token_comes_from_its_variable_before_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().display().to_string();
        let token = |variables: &[(&str, &str)]| {
            let token = read(variables).unwrap().token;
            token.map(|token| token.header().to_str().unwrap().to_owned())
        };
        assert_eq!(token(&[("HF_HOME", &home)]), None);
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(token(&[("HF_HOME", &home)]).unwrap(), "Bearer hf_file");
        let both = [("HF_HOME", home.as_str()), ("HF_TOKEN", "hf_own")];
        assert_eq!(token(&both).unwrap(), "Bearer hf_own");
    }

    #[test]
    fn a_bad_token_is_not_repeated_in_its_error() {
        let error = read(&[("HF_HOME", "/f"), ("HF_TOKEN", "sec ret")])
            .err()
            .unwrap();
        assert!(error.to_string().contains("HF_TOKEN"), "{error}");
        assert!(!error.to_string().contains("sec"), "{error}");
    }

    #[test]
    fn an_endpoint_is_an_address_without_a_password() {
        for bad in [
            "huggingface.co",
            "ftp://x",
            "https://",
            "https://u:pw@x",
            "http://x?q",
        ] {
            let error = read(&[("HF_HOME", "/f"), ("HF_ENDPOINT", bad)])
                .err()
                .unwrap();
            assert!(error.to_string().contains("HF_ENDPOINT"), "{error}");
            assert!(!error.to_string().contains("pw"), "{error}");
        }
        let mirror = Endpoint::new("https://mirror.example/hf/").unwrap();
        let url = mirror.at("/api/models/a/b").unwrap();
        assert_eq!(url, "https://mirror.example/hf/api/models/a/b");
    }

    #[test]
    fn the_token_stays_with_its_host_and_off_open_wires() {
        let hub = Endpoint::new("https://hub.example").unwrap();
        let may = |endpoint: &Endpoint, url: &str| endpoint.may_know_token(&url.parse().unwrap());
        assert!(may(&hub, "https://hub.example/x"));
        assert!(may(&hub, "https://HUB.example:443/x"));
        assert!(!may(&hub, "https://cdn.hub.example/x"));
        assert!(!may(&hub, "https://hub.example:444/x"));
        assert!(!may(&hub, "http://hub.example/x"));
        let open = Endpoint::new("http://hub.example").unwrap();
        assert!(!may(&open, "http://hub.example/x"));
        let local = Endpoint::new("http://127.0.0.1:9000").unwrap();
        assert!(may(&local, "http://127.0.0.1:9000/x"));
        assert!(!may(&local, "http://127.0.0.1:9001/x"));
    }
}
