//! One connection: TLS where asked for, then HTTP/1.1 or HTTP/2.

use super::io::{Bounds, Guarded};
use crate::DoorOptions;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// What one HTTP/2 stream may have unsent; more waits in the model.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// What one HTTP/1 connection buffers; also bounds its request headers.
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;
/// Streams of one HTTP/2 connection beyond the door's own bound, so that one
/// too many hears of it instead of waiting.
const SPARE_STREAMS: usize = 256;

/// What every connection shares.
#[derive(Clone)]
pub(super) struct Lines {
    router: Router,
    builder: Builder<TokioExecutor>,
    read_timeout: Duration,
    write_timeout: Duration,
    /// Closes when the door drains.
    stopping: watch::Receiver<()>,
}

impl Lines {
    pub(super) fn new(
        router: Router,
        options: &DoorOptions,
        stopping: watch::Receiver<()>,
    ) -> Self {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(options.read_timeout)
            .max_buf_size(HTTP1_BUFFER_BYTES);
        let streams = options.max_streams.saturating_add(SPARE_STREAMS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(options.keepalive)
            .keep_alive_timeout(options.keepalive_timeout)
            .max_concurrent_streams(u32::try_from(streams).unwrap_or(u32::MAX))
            .max_send_buf_size(SEND_BUFFER_BYTES);
        Self {
            router,
            builder,
            read_timeout: options.read_timeout,
            write_timeout: options.write_timeout,
            stopping,
        }
    }
}

/// A connection that was accepted and not yet read from.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) lines: Lines,
}

impl Connection {
    pub(super) async fn serve(self) {
        let Some(tls) = self.tls else {
            return self.lines.speak(self.stream).await;
        };
        let handshake = tls.accept(self.stream);
        match tokio::time::timeout(self.lines.read_timeout, handshake).await {
            Ok(Ok(stream)) => self.lines.speak(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }
}

impl Lines {
    async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(mut self, stream: S) {
        let bounds = Bounds {
            first_bytes: self.read_timeout,
            write: self.write_timeout,
        };
        let io = TokioIo::new(Guarded::new(stream, bounds));
        let service = TowerToHyperService::new(self.router);
        let connection = self.builder.serve_connection(io, service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            // Nothing is ever sent: this is the sender's end.
            _ = self.stopping.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            // Garbage and resets are the client's affair, and no one's error.
            tracing::debug!(error, "a connection broke off");
        }
    }
}
