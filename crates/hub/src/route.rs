//! The way to a host: straight, or through the proxy that the environment
//! names for it.

use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::Service;

/// From the first packet to a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Connects by `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`. Addresses without
/// TLS are mirrors nearby; they are connected to directly.
#[derive(Clone)]
pub(crate) struct Route {
    direct: HttpConnector,
    proxies: Arc<Matcher>,
}

impl Route {
    pub(crate) fn new(proxies: Matcher) -> Self {
        let mut direct = HttpConnector::new();
        direct.enforce_http(false);
        direct.set_connect_timeout(Some(CONNECT));
        direct.set_nodelay(true);
        Self {
            direct,
            proxies: Arc::new(proxies),
        }
    }
}

type Connection = <HttpConnector as Service<Uri>>::Response;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Route {
    type Response = Connection;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Service::<Uri>::poll_ready(&mut self.direct, context).map_err(Into::into)
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let proxy = match url.scheme_str() {
            Some("https") => self.proxies.intercept(&url),
            _ => None,
        };
        let Some(proxy) = proxy else {
            let connecting = self.direct.call(url);
            return Box::pin(async move { Ok(connecting.await?) });
        };
        let mut tunnel = Tunnel::new(proxy.uri().clone(), self.direct.clone());
        if let Some(auth) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(auth.clone());
        }
        let connecting = tunnel.call(url);
        Box::pin(async move { Ok(connecting.await?) })
    }
}
