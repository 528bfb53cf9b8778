//! The gateway's driver: accepts nodes and keeps the table of them.

use crate::codec::{FrameReader, MAX_CONTROL, encode};
use crate::session::{GatewayEvent, GatewaySession, NodeHello, SessionError};
use crate::stream::{Admit, answer};
use crate::transport::{
    Chain, LinkError, STREAMS_FROM_DEVICE, STREAMS_FROM_MEC, code, endpoint_config, socket,
    transport,
};
use bytes::BytesMut;
use prost::Message as _;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, Incoming, SendStream, ServerConfig, VarInt};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    Account, CapacityReport, Clock, Context, ErrorClass, Infer, InferError, NodeId, Region,
    RequestMeta, Tier,
};
use tiermesh_identity::{Principal, peer_principal};
use tiermesh_proto::link::{CapacityDatagram, ControlFrame, Offer, Welcome};
use tokio::task::JoinSet;

mod offers;
mod table;

use table::Entry;
pub use table::{LinkedNode, NodeTable, NodeWatch};

/// Waiting handshakes. Beyond it clients see a refusal, not a timeout.
const MAX_INCOMING: usize = 4096;
/// Handshakes and sessions at once.
const MAX_NODES: usize = 65_536;
/// How often a node may hear new offers.
const OFFERS_EVERY: Duration = Duration::from_secs(1);
/// A closing peer gets this long to read its Reject.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How a gateway accepts nodes.
pub struct GatewayLinkOptions {
    /// The UDP address; port 0 picks one.
    pub listen: SocketAddr,
    /// The gateway's id.
    pub gateway: NodeId,
    /// Its region.
    pub region: Option<Region>,
    /// Its end of TLS, from `tiermesh_identity::gateway_config`.
    pub tls: rustls::ServerConfig,
    /// What nodes check tickets with.
    pub ticket_key: Vec<u8>,
    /// Streams asked for from each node at first.
    pub credits_want: u32,
    /// And at most.
    pub credits_max: u32,
}

/// What a gateway can reach on a node's behalf.
pub trait OfferSource: Send + Sync + 'static {
    /// The offers for this node.
    fn offers_for(&self, node: &NodeHello) -> Vec<Offer>;
}

/// What stands behind a gateway's links.
pub struct Upward {
    /// Answers the streams that nodes open.
    pub infer: Arc<dyn Infer>,
    /// Looks at each of their requests first.
    pub admit: Arc<dyn Admit>,
    /// What nodes hear can be had here.
    pub offers: Arc<dyn OfferSource>,
}

/// Everything the sessions share.
struct Shared {
    gateway: NodeId,
    region: Option<Region>,
    ticket_key: Vec<u8>,
    credits_want: u32,
    credits_max: u32,
    table: Arc<NodeTable>,
    clock: Arc<dyn Clock>,
    upward: Upward,
}

/// Accepts nodes until dropped.
pub struct GatewayLink {
    endpoint: Endpoint,
    address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
    table: Arc<NodeTable>,
}

impl GatewayLink {
    /// Binds the port and accepts.
    ///
    /// # Errors
    /// When the port cannot be had or the TLS material does not fit.
    pub fn start(
        options: GatewayLinkOptions,
        table: Arc<NodeTable>,
        clock: Arc<dyn Clock>,
        upward: Upward,
    ) -> Result<Self, LinkError> {
        let crypto = QuicServerConfig::try_from(options.tls).map_err(|_| LinkError::Tls)?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config
            .transport_config(transport(STREAMS_FROM_MEC + 1, None))
            .max_incoming(MAX_INCOMING);
        let udp = socket(options.listen)?;
        let bound = |source| LinkError::Bind {
            address: options.listen,
            source,
        };
        let endpoint = Endpoint::new(
            endpoint_config(),
            Some(config),
            udp,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(bound)?;
        let address = endpoint.local_addr().map_err(bound)?;
        let shared = Arc::new(Shared {
            gateway: options.gateway,
            region: options.region,
            ticket_key: options.ticket_key,
            credits_want: options.credits_want,
            credits_max: options.credits_max,
            table: table.clone(),
            clock,
            upward,
        });
        let accepting = tokio::spawn(accept(endpoint.clone(), shared));
        Ok(Self {
            endpoint,
            address,
            accepting,
            table,
        })
    }

    /// Where nodes dial.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Tells every node that the gateway drains, then waits for the streams
    /// that are open, at most `within`.
    pub async fn drain(&self, within: Duration) {
        self.table.drain_all();
        let quiet = async {
            while self.table.streams() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(within, quiet).await;
        self.endpoint.close(code::DONE, b"drained");
        let _ = tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

impl Drop for GatewayLink {
    fn drop(&mut self) {
        self.accepting.abort();
        self.endpoint.close(code::DONE, b"closed");
    }
}

async fn accept(endpoint: Endpoint, shared: Arc<Shared>) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                None => return,
                Some(incoming) if sessions.len() >= MAX_NODES => incoming.refuse(),
                Some(incoming) => {
                    sessions.spawn(serve(incoming, shared.clone()));
                }
            },
            Some(_) = sessions.join_next() => {}
        }
    }
}

/// One node, from handshake to end. Whatever goes wrong is logged once, here,
/// and ends with this connection.
async fn serve(incoming: Incoming, shared: Arc<Shared>) {
    let address = incoming.remote_address();
    let connection = match incoming.await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::warn!(%address, %error, "a peer failed the handshake");
            return;
        }
    };
    match session(&connection, &shared).await {
        Ok(()) => tracing::info!(%address, "a node left"),
        Err(error) => {
            tracing::warn!(%address, error = %Chain(&error), "a node was disconnected");
            let code = match &error {
                LinkError::Session(SessionError::LeaseExpired) => code::LEASE,
                LinkError::Session(_) | LinkError::Nameless(_) => code::REFUSED,
                _ => code::PROTOCOL,
            };
            connection.close(code, error.to_string().as_bytes());
        }
    }
}

async fn session(connection: &Connection, shared: &Arc<Shared>) -> Result<(), LinkError> {
    let peer = principal(connection)?;
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(match peer.tier() {
        Tier::Device => STREAMS_FROM_DEVICE + 1,
        Tier::Mec | Tier::Cloud => STREAMS_FROM_MEC + 1,
    }));
    let opened = tokio::time::timeout(crate::session::GREETING, connection.accept_bi()).await;
    let (control, reader) = opened.map_err(|_| SessionError::Silent)??;
    let welcome = Welcome {
        version: 0,
        features: Vec::new(),
        gateway: shared.gateway.to_string(),
        region: shared
            .region
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        ticket_key: shared.ticket_key.clone(),
        streams_max: match peer.tier() {
            Tier::Device => STREAMS_FROM_DEVICE,
            Tier::Mec | Tier::Cloud => STREAMS_FROM_MEC,
        },
    };
    let session = GatewaySession::new(
        peer.clone(),
        welcome,
        shared.credits_want,
        shared.credits_max,
        shared.clock.now(),
    );
    let mut driver = Driver {
        connection: connection.clone(),
        shared: shared.clone(),
        admit: Arc::new(AdmitNode {
            peer,
            next: shared.upward.admit.clone(),
        }),
        session,
        control,
        entry: None,
        offered: Vec::new(),
        answers: JoinSet::new(),
    };
    driver.run(FrameReader::new(reader, MAX_CONTROL)).await
}

fn principal(connection: &Connection) -> Result<Principal, LinkError> {
    let chain = connection
        .peer_identity()
        .and_then(|identity| {
            identity
                .downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>()
                .ok()
        })
        .ok_or(tiermesh_identity::TlsError::Nameless)?;
    Ok(peer_principal(&chain)?)
}

/// The most urgent that a device may be: continuations have 128 and more.
const MOST_OF_DEVICES: u8 = 127;

/// A device asks for its owner and nobody else.
struct AdmitNode {
    peer: Principal,
    next: Arc<dyn Admit>,
}

impl Admit for AdmitNode {
    fn admit(&self, request: &mut RequestMeta, context: &mut Context) -> Result<(), InferError> {
        if self.peer.owner().is_some() {
            // Who pays for a device's requests is its owner, whatever it says,
            // and no device puts itself before what others began.
            context.account = Account::default();
            context.priority = context.priority.min(MOST_OF_DEVICES);
        }
        match self.peer.owner() {
            Some(owner) if owner != &request.user_id => Err(InferError::new(
                ErrorClass::Forbidden,
                "PERMIT_REFUSED",
                format!("device `{}` may only ask for its owner", self.peer.node()),
            )),
            _ => self.next.admit(request, context),
        }
    }
}

struct Driver {
    connection: Connection,
    shared: Arc<Shared>,
    admit: Arc<AdmitNode>,
    session: GatewaySession,
    control: SendStream,
    entry: Option<Arc<Entry>>,
    offered: Vec<Offer>,
    answers: JoinSet<()>,
}

impl Driver {
    async fn run(&mut self, mut reader: FrameReader) -> Result<(), LinkError> {
        let mut offers = tokio::time::interval(OFFERS_EVERY);
        loop {
            self.settle().await?;
            let now = self.shared.clock.now();
            let wait = self
                .session
                .next_timeout()
                .map_or(Duration::from_secs(60), |at| at.since(now));
            tokio::select! {
                frame = reader.next::<ControlFrame>() => match frame {
                    Ok(Some(frame)) => self.session.handle_frame(frame, self.shared.clock.now()),
                    Ok(None) => return Ok(()),
                    // A peer that closed its connection in order broke nothing.
                    Err(crate::codec::FrameError::Broken(quinn::ReadError::ConnectionLost(error))) => {
                        return left(error);
                    }
                    Err(error) => return Err(error.into()),
                },
                datagram = self.connection.read_datagram() => match datagram {
                    Ok(bytes) => {
                        let report = CapacityDatagram::decode(bytes)
                            .map_err(|_| SessionError::Protocol("a datagram that does not decode"))?;
                        let report = CapacityReport::try_from(report).map_err(SessionError::Wire)?;
                        self.session.handle_report(report, self.shared.clock.now());
                    }
                    Err(error) => return left(error),
                },
                stream = self.connection.accept_bi() => match stream {
                    Ok((send, recv)) => {
                        self.answers.spawn(answer(
                            send, recv, self.shared.upward.infer.clone(), self.admit.clone(), self.shared.clock.clone(),
                        ));
                    }
                    Err(error) => return left(error),
                },
                () = changed(self.entry.as_deref()) => {}
                Some(_) = self.answers.join_next() => {}
                _ = offers.tick() => self.offer(),
                () = tokio::time::sleep(wait) => self.session.handle_timeout(self.shared.clock.now()),
            }
        }
    }

    /// Acts on what the session wants and tells it what changed.
    async fn settle(&mut self) -> Result<(), LinkError> {
        if let Some(entry) = &self.entry {
            self.session
                .set_streams(entry.streams(), self.shared.clock.now());
            if entry.is_draining() && entry.said_goodbye() {
                self.session.drain("the gateway drains");
            }
            for model in entry.take_hints() {
                self.session.preload(&model);
            }
        }
        let mut changed = false;
        while let Some(event) = self.session.poll_event() {
            match event {
                GatewayEvent::Joined(hello) => {
                    tracing::info!(node = %hello.node, tier = %hello.tier, software = %hello.software, "a node joined");
                    let entry =
                        Entry::new(hello, self.connection.clone(), self.shared.clock.clone());
                    self.shared.table.join(entry.clone());
                    self.entry = Some(entry);
                }
                GatewayEvent::Reported(report) => {
                    if let Some(entry) = &self.entry {
                        entry.report(report, self.shared.clock.now());
                        self.shared.table.applied();
                        changed = true;
                    }
                }
                GatewayEvent::NodeDrains => {
                    if let Some(entry) = &self.entry {
                        entry.drain();
                        changed = true;
                    }
                }
            }
        }
        if let Some(entry) = &self.entry {
            changed |= entry.set_credits(self.session.credits());
            if changed {
                self.shared.table.changed(entry);
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
            let error = error.clone();
            if !matches!(error, SessionError::LeaseExpired) {
                let _ = self.control.finish();
                let _ = tokio::time::timeout(LAST_WORDS, self.control.stopped()).await;
            }
            return Err(error.into());
        }
        Ok(())
    }

    fn offer(&mut self) {
        let Some(entry) = &self.entry else {
            return;
        };
        let offers = self.shared.upward.offers.offers_for(entry.hello());
        if offers::differ(&self.offered, &offers) {
            self.offered.clone_from(&offers);
            self.session.offer(offers);
        }
    }
}

/// However the session ends, by itself or dropped with the gateway: nobody is
/// sent there any more, and what it was answering ends at once.
impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.shared.table.leave(&entry);
        }
        self.answers.abort_all();
    }
}

/// Resolves when the entry has something to tell the session.
async fn changed(entry: Option<&Entry>) {
    match entry {
        Some(entry) => entry.changed().await,
        None => std::future::pending().await,
    }
}

/// A connection that ended in order is no error.
fn left(error: quinn::ConnectionError) -> Result<(), LinkError> {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) if close.error_code == code::DONE => {
            Ok(())
        }
        quinn::ConnectionError::LocallyClosed => Ok(()),
        other => Err(other.into()),
    }
}
