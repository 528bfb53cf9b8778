//! The node's driver: dials its gateway, reports, and dials again.

use crate::backoff::Backoff;
use crate::codec::{FrameError, FrameReader, MAX_CONTROL, encode};
use crate::session::{NodeEvent, NodeSession, NodeSessionConfig};
use crate::stream::{Admit, answer};
use crate::transport::{
    Chain, KEEP_ALIVE, LinkError, STREAMS_FROM_GATEWAY, code, endpoint_config, socket, transport,
};
use bytes::BytesMut;
use prost::Message as _;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, SendStream};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{CapacityReport, Clock, Context, Infer, InferError, ModelId, RequestMeta};
use tiermesh_identity::GATEWAY_NAME;
use tiermesh_proto::link::{CapacityDatagram, ControlFrame};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

mod upstream;

use upstream::Joined;
pub use upstream::{Upstream, UpstreamOffer, UpstreamStatus};

/// The first wait between dials is drawn below this.
const BACKOFF_BASE: Duration = Duration::from_millis(250);
/// And no wait is longer.
const BACKOFF_CAP: Duration = Duration::from_secs(30);
/// A link that stood this long was good: the next failure starts over.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// A handshake that takes longer is given up.
const DIAL_WITHIN: Duration = Duration::from_secs(8);

/// How a node reaches its gateway.
pub struct NodeLinkOptions {
    /// The gateway's UDP address.
    pub gateway: SocketAddr,
    /// Our end of TLS, from `tiermesh_identity::node_config`.
    pub tls: rustls::ClientConfig,
    /// What we say of ourselves.
    pub session: NodeSessionConfig,
}

/// How the node is doing, asked at every report.
pub trait CapacitySource: Send + Sync + 'static {
    /// Streams the node could serve at once: the most it grants.
    fn capacity(&self) -> u32;

    /// The gateway expects requests for a model. A source that has all of its
    /// models in memory has nothing to do.
    fn preload(&self, _model: &ModelId) {}

    /// The present report. Sequence, credits and lease are the link's to fill.
    fn report(&self) -> CapacityReport;
}

/// Keeps a node linked to its gateway until dropped.
pub struct NodeLink {
    upstream: Arc<Upstream>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

struct Shared {
    options: NodeLinkOptions,
    crypto: Arc<QuicClientConfig>,
    clock: Arc<dyn Clock>,
    source: Arc<dyn CapacitySource>,
    infer: Arc<dyn Infer>,
    upstream: Arc<Upstream>,
    stop: watch::Receiver<bool>,
}

impl NodeLink {
    /// Starts dialling. `infer` answers the streams the gateway opens.
    ///
    /// # Errors
    /// When no UDP socket can be had or the TLS material does not fit.
    pub fn start(
        options: NodeLinkOptions,
        clock: Arc<dyn Clock>,
        source: Arc<dyn CapacitySource>,
        infer: Arc<dyn Infer>,
    ) -> Result<Self, LinkError> {
        let crypto = QuicClientConfig::try_from(options.tls.clone()).map_err(|_| LinkError::Tls)?;
        let local: SocketAddr = if options.gateway.is_ipv6() {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        };
        let endpoint = Endpoint::new(
            endpoint_config(),
            None,
            socket(local)?,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(|source| LinkError::Bind {
            address: local,
            source,
        })?;
        let (stop, stopped) = watch::channel(false);
        let upstream = Arc::new(Upstream::new(clock.clone()));
        let shared = Shared {
            options,
            crypto: Arc::new(crypto),
            clock,
            source,
            infer,
            upstream: upstream.clone(),
            stop: stopped,
        };
        let task = tokio::spawn(keep_linked(endpoint, shared));
        Ok(Self {
            upstream,
            stop,
            task,
        })
    }

    /// The way up, and what is known of the gateway.
    #[must_use]
    pub const fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Says goodbye, lets open streams finish for at most `within`, and ends.
    pub async fn drain(mut self, within: Duration) {
        let _ = self.stop.send(true);
        let _ = tokio::time::timeout(within, &mut self.task).await;
    }
}

impl Drop for NodeLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_linked(endpoint: Endpoint, shared: Shared) {
    let mut backoff = Backoff::new(BACKOFF_BASE, BACKOFF_CAP);
    let gateway = shared.options.gateway;
    loop {
        let began = shared.clock.now();
        let ended = link_once(&endpoint, &shared).await;
        shared.upstream.set(None);
        if *shared.stop.borrow() {
            endpoint.close(code::DONE, b"drained");
            let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
            return;
        }
        if shared.clock.now().since(began) > GOOD_AFTER {
            backoff.reset();
        }
        let wait = backoff.next(fastrand::f64());
        match ended {
            Ok(()) => tracing::info!(%gateway, ?wait, "the gateway ended the link; dialling again"),
            Err(error) => {
                tracing::warn!(%gateway, error = %Chain(&error), ?wait, "the link is down; dialling again")
            }
        }
        let mut stop = shared.stop.clone();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stop.changed() => {}
        }
    }
}

async fn link_once(endpoint: &Endpoint, shared: &Shared) -> Result<(), LinkError> {
    let mut config = ClientConfig::new(shared.crypto.clone());
    config.transport_config(transport(STREAMS_FROM_GATEWAY, Some(KEEP_ALIVE)));
    let address = shared.options.gateway;
    let connecting = endpoint
        .connect_with(config, address, GATEWAY_NAME)
        .map_err(|source| LinkError::Dial { address, source })?;
    let connection = tokio::time::timeout(DIAL_WITHIN, connecting)
        .await
        .map_err(|_| quinn::ConnectionError::TimedOut)??;
    let (control, reader) = connection.open_bi().await?;
    let mut driver = Driver {
        session: NodeSession::new(shared.options.session.clone(), shared.clock.now()),
        connection: connection.clone(),
        control,
        shared,
        answers: JoinSet::new(),
        draining: false,
    };
    let ended = driver.run(FrameReader::new(reader, MAX_CONTROL)).await;
    let (code, reason) = match &ended {
        Ok(()) => (code::DONE, String::new()),
        Err(error) => (code::PROTOCOL, error.to_string()),
    };
    connection.close(code, reason.as_bytes());
    ended
}

/// The gateway was authenticated as one; what it may send is bounded by the
/// permit that the local engine asks for.
struct AdmitGateway;

impl Admit for AdmitGateway {
    fn admit(&self, _request: &mut RequestMeta, _context: &mut Context) -> Result<(), InferError> {
        Ok(())
    }
}

struct Driver<'a> {
    session: NodeSession,
    connection: Connection,
    control: SendStream,
    shared: &'a Shared,
    answers: JoinSet<()>,
    draining: bool,
}

impl Driver<'_> {
    async fn run(&mut self, mut reader: FrameReader) -> Result<(), LinkError> {
        let mut stop = self.shared.stop.clone();
        loop {
            self.settle().await?;
            if self.draining && self.answers.is_empty() {
                return Ok(());
            }
            let now = self.shared.clock.now();
            let wait = self
                .session
                .next_timeout()
                .map_or(Duration::from_secs(60), |at| at.since(now));
            tokio::select! {
                frame = reader.next::<ControlFrame>() => match frame {
                    Ok(Some(frame)) => {
                        let capacity = self.shared.source.capacity();
                        self.session.handle_frame(frame, capacity, self.shared.clock.now());
                    }
                    Ok(None) => return Ok(()),
                    Err(FrameError::Broken(quinn::ReadError::ConnectionLost(error))) => return Err(error.into()),
                    Err(error) => return Err(error.into()),
                },
                stream = self.connection.accept_bi() => {
                    let (send, recv) = stream?;
                    self.answers.spawn(answer(
                        send, recv, self.shared.infer.clone(), Arc::new(AdmitGateway), self.shared.clock.clone(),
                    ));
                }
                Some(_) = self.answers.join_next() => {}
                changed = stop.changed(), if !self.draining => {
                    if changed.is_err() || *stop.borrow() {
                        self.draining = true;
                        self.session.drain("the node drains");
                    }
                }
                () = tokio::time::sleep(wait) => self.session.handle_timeout(self.shared.clock.now()),
            }
        }
    }

    /// Acts on what the session wants and tells it what changed.
    async fn settle(&mut self) -> Result<(), LinkError> {
        let now = self.shared.clock.now();
        let streams = u32::try_from(self.answers.len()).unwrap_or(u32::MAX);
        self.session.set_streams(streams, now);
        while let Some(event) = self.session.poll_event() {
            match event {
                NodeEvent::Welcomed(welcome) => {
                    tracing::info!(gateway = %welcome.gateway, version = welcome.version, "linked to the gateway");
                    let joined = Joined::new(self.connection.clone(), welcome)?;
                    self.shared.upstream.set(Some(joined));
                }
                NodeEvent::Offers(offers) => self.shared.upstream.offers(offers)?,
                NodeEvent::Preload(model) => self.shared.source.preload(&model),
                NodeEvent::GatewayDrains => {
                    tracing::info!("the gateway drains");
                    self.shared.upstream.drains();
                }
            }
        }
        let mut bytes = BytesMut::new();
        while let Some(frame) = self.session.poll_frame() {
            encode(&frame, &mut bytes);
        }
        if !bytes.is_empty() {
            self.control.write_all(&bytes).await?;
        }
        if let Some(error) = self.session.closed() {
            return Err(error.clone().into());
        }
        let capacity = self.shared.source.capacity();
        if let Some((sequence, credits, lease)) = self.session.poll_report(capacity, now) {
            let mut report = self.shared.source.report();
            report.sequence = sequence;
            report.credits = if self.draining { 0 } else { credits };
            report.lease = lease;
            let bytes = CapacityDatagram::from(&report).encode_to_vec();
            // A full datagram buffer drops the oldest: the latest report wins.
            let _ = self.connection.send_datagram(bytes.into());
        }
        Ok(())
    }
}
