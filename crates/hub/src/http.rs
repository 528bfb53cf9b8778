//! Requests to the hub: redirects, who may see the token, and when to try
//! again.

use super::HubError;
use super::config::{Endpoint, HubConfig, Patience, Token, is_same_origin};
use super::error::shown;
use super::pauses::{Failure, Pauses};
use super::route::Route;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, LOCATION, RANGE, RETRY_AFTER, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::ring::default_provider;
use std::sync::Arc;
use std::time::Duration;

/// Hops from the hub to where a file really lies.
const MAX_REDIRECTS: usize = 5;
/// The checksum of a large file, told before the redirect to its bytes.
pub(crate) const LINKED_ETAG: &str = "x-linked-etag";
/// Its size.
pub(crate) const LINKED_SIZE: &str = "x-linked-size";
/// Why the hub refuses, in a word.
const ERROR_CODE: &str = "x-error-code";

/// A client of one hub.
pub(crate) struct Http {
    client: Client<HttpsConnector<Route>, Empty<Bytes>>,
    pub(crate) endpoint: Endpoint,
    token: Option<Token>,
    pub(crate) patience: Patience,
}

/// What a request is about, for the messages.
#[derive(Clone, Copy)]
pub(crate) struct About<'a> {
    pub(crate) repo: &'a str,
    pub(crate) revision: &'a str,
    pub(crate) file: Option<&'a str>,
}

/// An answer whose status is not an error, or 416.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
    /// Who gave it, after redirects.
    pub(crate) url: Uri,
}

impl Http {
    pub(crate) fn new(config: HubConfig) -> Result<Self, HubError> {
        let provider = Arc::new(default_provider());
        let builder = HttpsConnectorBuilder::new();
        let builder = match builder.with_provider_and_native_roots(provider.clone()) {
            Ok(builder) => builder,
            Err(error) if config.endpoint.is_https() => {
                return Err(HubError::Certificates(error));
            }
            // A mirror without TLS needs no certificates; what it redirects
            // to over TLS is refused for want of a root.
            Err(error) => {
                let none = rustls::ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .map_err(|_| HubError::Certificates(error))?
                    .with_root_certificates(rustls::RootCertStore::empty())
                    .with_no_client_auth();
                HttpsConnectorBuilder::new().with_tls_config(none)
            }
        };
        let connector = builder
            .https_or_http()
            .enable_http1()
            .wrap_connector(Route::new(config.proxies));
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            endpoint: config.endpoint,
            token: config.token,
            patience: config.patience,
        })
    }

    /// Asks until there is an answer, or waiting does not help any more.
    pub(crate) async fn ask(
        &self,
        method: &Method,
        url: &Uri,
        about: About<'_>,
    ) -> Result<Answer, HubError> {
        let mut pauses = Pauses::new(self.patience);
        loop {
            match self.send(method, url, 0, about).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => pauses.pause(failure).await?,
            }
        }
    }

    /// One request, followed to where it is answered. `from` is the first byte
    /// wanted. A HEAD stops at the redirect that tells the checksum.
    pub(crate) async fn send(
        &self,
        method: &Method,
        url: &Uri,
        from: u64,
        about: About<'_>,
    ) -> Result<Answer, Failure> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.once(method, &url, from).await?;
            let status = response.status();
            let mut tells = false;
            if status.is_redirection() {
                let next = target(&url, &response)?;
                // Away from the hub nobody knows the checksum any more.
                tells = method == Method::HEAD
                    && response.headers().contains_key(LINKED_ETAG)
                    && !is_same_origin(&url, &next);
                if !tells {
                    url = next;
                    continue;
                }
            }
            let fine = status.is_success() || tells || status == StatusCode::RANGE_NOT_SATISFIABLE;
            if !fine {
                return Err(self.refused(&url, &response, about));
            }
            let (head, body) = response.into_parts();
            return Ok(Answer {
                status,
                headers: head.headers,
                body,
                url,
            });
        }
        let problem = "more often than is reasonable";
        Err(Failure::Lasting(redirect(&url, problem)))
    }

    async fn once(
        &self,
        method: &Method,
        url: &Uri,
        from: u64,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(url)
            .header(USER_AGENT, concat!("tiermesh/", env!("CARGO_PKG_VERSION")))
            // Checksums and ranges are over the bytes as they are.
            .header(ACCEPT_ENCODING, "identity");
        if let Some(token) = self.token_for(url) {
            request = request.header(AUTHORIZATION, token.header());
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let request = request
            .body(Empty::new())
            .expect("a parsed address and headers of visible ASCII");
        let silence = self.patience.silence;
        let sent = tokio::time::timeout(silence, self.client.request(request)).await;
        let unreachable = |source| HubError::Unreachable {
            url: shown(url),
            source,
        };
        match sent {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Failure::Passing(unreachable(error.into()), None)),
            Err(_) => Err(Failure::Passing(silent(url, silence), None)),
        }
    }

    fn token_for(&self, url: &Uri) -> Option<&Token> {
        let token = self.token.as_ref()?;
        self.endpoint.may_know_token(url).then_some(token)
    }

    /// What a status that is no answer means.
    fn refused(&self, url: &Uri, response: &Response<Incoming>, about: About<'_>) -> Failure {
        let status = response.status();
        let code = response.headers().get(ERROR_CODE);
        let is_code = |word: &str| code.is_some_and(|code| code.as_bytes() == word.as_bytes());
        let repo = about.repo.to_owned();
        let token = match (&self.token, self.token_for(url)) {
            (None, _) => "none is set",
            (Some(_), Some(_)) => "the one that is set does not suffice",
            (Some(_), None) => {
                "the one that is set was not sent: it goes to HF_ENDPOINT alone, and over https"
            }
        };
        match status.as_u16() {
            status @ (401 | 403) if is_code("GatedRepo") => Failure::Lasting(HubError::Gated {
                page: format!("{}/{repo}", self.endpoint),
                repo,
                status,
                token,
            }),
            status @ (401 | 403) => Failure::Lasting(HubError::Denied {
                repo,
                status,
                token,
            }),
            404 => {
                let what = match about.file {
                    _ if is_code("RepoNotFound") => repo,
                    Some(file) => format!("{file} in {repo} at {}", about.revision),
                    None => format!("{repo} at {}", about.revision),
                };
                Failure::Lasting(HubError::Missing { what })
            }
            status @ (408 | 429 | 500..) => {
                let said = response.headers().get(RETRY_AFTER);
                let seconds = said.and_then(|value| value.to_str().ok()?.trim().parse().ok());
                let url = shown(url);
                let error = match status {
                    429 | 503 => HubError::Busy {
                        url,
                        status,
                        wait: seconds,
                    },
                    status => HubError::Status { url, status },
                };
                Failure::Passing(error, seconds.map(Duration::from_secs))
            }
            status => Failure::Lasting(HubError::Status {
                url: shown(url),
                status,
            }),
        }
    }
}

impl Answer {
    /// The next piece; none at the end.
    pub(crate) async fn piece(&mut self, silence: Duration) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = tokio::time::timeout(silence, self.body.frame()).await;
            let frame = frame.map_err(|_| Failure::Passing(silent(&self.url, silence), None))?;
            match frame {
                None => return Ok(None),
                // A frame without data holds trailers, which say nothing here.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(_) => continue,
                },
                Some(Err(error)) => {
                    let error = HubError::Unreachable {
                        url: shown(&self.url),
                        source: error.into(),
                    };
                    return Err(Failure::Passing(error, None));
                }
            }
        }
    }

    /// The whole body, if it has no more than `most` bytes.
    pub(crate) async fn whole(
        mut self,
        most: usize,
        silence: Duration,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let mut whole = Vec::new();
        while let Some(bytes) = self.piece(silence).await? {
            if whole.len() + bytes.len() > most {
                return Ok(None);
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(Some(whole))
    }
}

/// Where a redirect leads.
fn target(url: &Uri, response: &Response<Incoming>) -> Result<Uri, HubError> {
    let nowhere = || redirect(url, "without saying where");
    let location = response.headers().get(LOCATION).ok_or_else(nowhere)?;
    let location = location.to_str().map_err(|_| nowhere())?;
    let next = if location.starts_with('/') && !location.starts_with("//") {
        let authority = url.authority().map_or("", |a| a.as_str());
        format!(
            "{}://{authority}{location}",
            url.scheme_str().unwrap_or("http")
        )
    } else {
        location.to_owned()
    };
    let next: Uri = next.parse().map_err(|_| nowhere())?;
    match (url.scheme_str(), next.scheme_str()) {
        (Some("https"), Some("http")) => Err(redirect(url, "from https to http")),
        (_, Some("http" | "https")) if next.host().is_some() => Ok(next),
        _ => Err(nowhere()),
    }
}

fn redirect(url: &Uri, problem: &'static str) -> HubError {
    HubError::Redirect {
        url: shown(url),
        problem,
    }
}

fn silent(url: &Uri, silence: Duration) -> HubError {
    HubError::Silent {
        url: shown(url),
        seconds: silence.as_secs(),
    }
}
