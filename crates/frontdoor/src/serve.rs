//! One port: accepts, serves HTTP/1.1 and HTTP/2 with or without TLS, and
//! drains.

use crate::Door;
use crate::answer::SWEEP_EVERY;
use crate::entry::Entry;
use crate::grpc::Health;
use crate::{bedrock, grpc, http};
use connection::{Connection, Lines};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

mod connection;
mod io;

/// How long to wait after the system refused to accept, for example because
/// file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What the last bytes of ended streams get to leave in, once nothing but
/// idle connections and health watches is left.
const LAST_WORDS: Duration = Duration::from_millis(500);
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// Why a door did not open.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors compiled in do not decode.
    #[error("the reflection service cannot read its descriptors")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves a door on a listener until `shutdown`, then drains it: it stops
/// accepting, says `NOT_SERVING`, lets open streams finish for at most
/// `drain_timeout`, and cuts the rest off. Dropping the future cuts
/// everything off at once.
///
/// With `tls`, ALPN is set to `h2` and `http/1.1` unless the configuration
/// names protocols itself.
///
/// # Errors
/// When the door cannot open. Nothing that clients do ends it.
pub async fn serve(
    door: Door,
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let entry = Entry::new(door);
    let (grpc, health) = grpc::routes(&entry).await?;
    let router = http::routes(&entry)
        .merge(bedrock::routes(&entry))
        .merge(grpc)
        .fallback(http::not_found);
    let (stop, stopping) = watch::channel(());
    let mut server = Server {
        connections: JoinSet::new(),
        places: Arc::new(Semaphore::new(entry.door.options.max_connections.max(1))),
        lines: Lines::new(router, &entry.door.options, stopping),
        tls: tls.map(acceptor),
    };
    let mut shutdown = std::pin::pin!(shutdown);
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = server.connections.join_next() => {}
            _ = sweep.tick() => {
                entry.sweeper.sweep();
                entry.replays.sweep();
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => server.start(stream),
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    entry.drain();
    drop(stop);
    server.drain(&entry, health).await;
    Ok(())
}

fn acceptor(config: Arc<rustls::ServerConfig>) -> TlsAcceptor {
    if !config.alpn_protocols.is_empty() {
        return TlsAcceptor::from(config);
    }
    let mut config = (*config).clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

struct Server {
    /// Every connection's task; all are aborted with the set.
    connections: JoinSet<()>,
    places: Arc<Semaphore>,
    lines: Lines,
    tls: Option<TlsAcceptor>,
}

impl Server {
    fn start(&mut self, stream: TcpStream) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            // Closing tells the client at once; a full backlog would not.
            tracing::debug!("a connection too many was closed");
            return;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it began");
            return;
        }
        let connection = Connection {
            stream,
            tls: self.tls.clone(),
            lines: self.lines.clone(),
        };
        self.connections.spawn(async move {
            connection.serve().await;
            drop(place);
        });
    }

    async fn drain(mut self, entry: &Entry, mut health: Health) {
        health.drain().await;
        let over = Instant::now() + entry.door.options.drain_timeout;
        // Streams first; then what never ends by itself is ended.
        while entry.slots.active() > 0 && Instant::now() < over {
            tokio::time::sleep(DRAIN_POLL).await;
        }
        health.close().await;
        let all_gone = async { while self.connections.join_next().await.is_some() {} };
        let last = (Instant::now() + LAST_WORDS).min(over);
        if tokio::time::timeout_at(last, all_gone).await.is_err() {
            let left = self.connections.len();
            tracing::info!(left, "connections were cut off at the end of the drain");
            self.connections.shutdown().await;
        }
    }
}
