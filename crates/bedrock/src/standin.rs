//! A stand-in for Bedrock: a server that speaks Converse's wire over any
//! [`Infer`]. `demo` runs one as a local process when it finds no AWS
//! credentials; the tests run one with a script of faults. It signs nothing
//! off and bills nobody, and whoever shows it says that it is a stand-in.

use axum::Router;
use axum::routing::post;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use serve::Desk;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{Infer, ModelId};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

mod faults;
mod seen;
mod serve;

pub use faults::Fault;
pub use seen::SeenRequest;

/// The most connections at once; further ones wait in the listener's queue.
const MAX_CONNECTIONS: usize = 1_024;
/// A connection that sends no request head for this long is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// What the stand-in is.
#[derive(Debug, Clone, Default)]
pub struct StandinOptions {
    /// The Bedrock model ids it knows, and the brain's model behind each.
    pub models: BTreeMap<String, ModelId>,
    /// Keeps request bodies for [`StandinHandle::saw_bytes`]. For tests that
    /// prove what never arrived; nothing else reads them.
    pub keep_bodies: bool,
}

/// The stand-in's maker.
#[derive(Debug)]
pub struct Standin;

impl Standin {
    /// Serves on `listener` until the handle is dropped.
    ///
    /// # Errors
    /// When the listener has no local address. Needs a tokio runtime.
    pub fn start(
        listener: TcpListener,
        brain: Arc<dyn Infer>,
        options: StandinOptions,
    ) -> io::Result<StandinHandle> {
        let addr = listener.local_addr()?;
        let desk = Arc::new(Desk::new(brain, options));
        let router = Router::new()
            .route("/model/{*path}", post(serve::converse))
            .with_state(Arc::clone(&desk));
        let task = tokio::spawn(accept(listener, router, Arc::clone(&desk)));
        Ok(StandinHandle { addr, desk, task })
    }
}

/// A running stand-in. Dropping it stops the server and cuts every connection.
pub struct StandinHandle {
    addr: SocketAddr,
    desk: Arc<Desk>,
    task: JoinHandle<()>,
}

impl StandinHandle {
    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What a client's `endpoint_url` should be.
    #[must_use]
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Plays a fault on the next request that has none before it.
    pub fn push_fault(&self, fault: Fault) {
        self.desk.script.push(fault);
    }

    /// Plays a fault on every request for which none is queued, until `None`.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.desk.script.set(fault);
    }

    /// How many requests came, refused ones too.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.desk.seen.count()
    }

    /// The latest requests, oldest first, at most a thousand. Never content.
    #[must_use]
    pub fn seen(&self) -> Vec<SeenRequest> {
        self.desk.seen.list()
    }

    /// How many connections were accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.desk.seen.connections()
    }

    /// Answers being streamed now.
    #[must_use]
    pub fn active(&self) -> usize {
        self.desk.seen.active()
    }

    /// Answers whose client went away before their end.
    #[must_use]
    pub fn abandoned(&self) -> u64 {
        self.desk.seen.abandoned()
    }

    /// Whether any request held this text, as it is or escaped as JSON does.
    /// Always false without [`StandinOptions::keep_bodies`].
    #[must_use]
    pub fn saw_bytes(&self, text: &str) -> bool {
        self.desk.seen.saw_bytes(text)
    }

    /// Stops the server, cuts every connection, and returns when all are gone.
    pub async fn shutdown(mut self) {
        self.task.abort();
        // The only error left is the cancellation just asked for.
        let _cancelled = (&mut self.task).await;
    }
}

impl Drop for StandinHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for StandinHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StandinHandle")
            .field("addr", &self.addr)
            .field("requests", &self.requests())
            .finish_non_exhaustive()
    }
}

/// Owns every connection: aborting this future aborts them.
async fn accept(listener: TcpListener, router: Router, desk: Arc<Desk>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                match accepted {
                    Ok((socket, _)) => {
                        desk.seen.connected();
                        connections.spawn(talk(socket, router.clone()));
                    }
                    Err(error) => {
                        // Out of descriptors, most likely: let some close.
                        tracing::warn!(%error, "the Bedrock stand-in cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn talk(socket: TcpStream, router: Router) {
    // Tokens are small and each should leave at once.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "the Bedrock stand-in lost a connection at once");
        return;
    }
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    let service = TowerToHyperService::new(router);
    if let Err(error) = server.serve_connection(TokioIo::new(socket), service).await {
        tracing::debug!(error, "a connection to the Bedrock stand-in broke");
    }
}
