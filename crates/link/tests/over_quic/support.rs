//! A gateway and nodes with scripted answers, and a hand-made peer.

use futures::StreamExt as _;
use prost::Message;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tiermesh_core::{
    CapacityReport, Clock, Content, Context, Done, Event, EventStream, FinishReason, Infer,
    InferError, InferFuture, ModelId, ModelOffer, ModelState, MonotonicClock, NodeId, RawRequest,
    Region, Request, RequestMeta, Sealed, Task, Token, Usage, Usd,
};
use tiermesh_identity::{
    CertificateAuthority, Credentials, GATEWAY_NAME, Principal, Validity, gateway_config,
    node_config,
};
use tiermesh_link::session::{NodeHello, NodeSessionConfig};
use tiermesh_link::{
    Admit, CapacitySource, GatewayLink, GatewayLinkOptions, LinkError, NodeLink, NodeLinkOptions,
    NodeTable, OfferSource, Upward,
};
use tiermesh_proto::link::Offer;

pub(crate) const GATEWAY: &str = "spiffe://tiermesh/gateway/gw";
pub(crate) const EDGE: &str = "spiffe://tiermesh/mec/edge-1";
pub(crate) const PHONE: &str = "spiffe://tiermesh/device/phone-1/owner/ann";

/// An authority and a folder for what it signs.
pub(crate) struct Pki {
    ca: CertificateAuthority,
    dir: TempDir,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let ca =
            CertificateAuthority::generate(Validity::for_next(Duration::from_secs(3600))).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), ca.certificate_pem()).unwrap();
        Self { ca, dir }
    }

    pub(crate) fn credentials(&self, name: &str) -> Credentials {
        let principal: Principal = name.parse().unwrap();
        let validity = Validity::for_next(Duration::from_secs(3600));
        let issued = self.ca.issue(&principal, &[], validity).unwrap();
        let path = |end| {
            let file = format!("{}.{end}", principal.node());
            self.dir.path().join(file)
        };
        std::fs::write(path("pem"), issued.certificate_pem).unwrap();
        std::fs::write(path("key"), issued.key_pem).unwrap();
        Credentials {
            ca: self.dir.path().join("ca.pem"),
            certificate: path("pem"),
            key: path("key"),
        }
    }
}

/// Says `words` words, one every `pause`, and counts who listens.
pub(crate) struct Script {
    pub(crate) words: u64,
    pub(crate) pause: Duration,
    /// Answers that were begun and neither ended nor dropped.
    pub(crate) live: Arc<AtomicUsize>,
    pub(crate) asked: AtomicUsize,
}

impl Script {
    pub(crate) fn new(words: u64, pause_ms: u64) -> Arc<Self> {
        Arc::new(Self {
            words,
            pause: Duration::from_millis(pause_ms),
            live: Arc::default(),
            asked: AtomicUsize::new(0),
        })
    }

    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }
}

struct Live(Arc<AtomicUsize>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Infer for Script {
    fn infer(&self, _request: Arc<Sealed<Request>>, _context: Context) -> InferFuture<'_> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.live.fetch_add(1, Ordering::SeqCst);
        let live = Live(self.live.clone());
        let (words, pause) = (self.words, self.pause);
        let events = futures::stream::unfold((0, live), move |(at, live)| async move {
            if at > words {
                return None;
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            Some((Ok(word(at, words)), (at + 1, live)))
        });
        Box::pin(async move { Ok(Box::pin(events) as EventStream) })
    }
}

fn word(at: u64, words: u64) -> Event {
    if at < words {
        return Event::Tokens {
            first_seq: at,
            items: vec![Token {
                text: format!("w{at} "),
                id: u32::try_from(at).ok(),
                logprob: None,
                detail: None,
            }],
        };
    }
    Event::Done(Box::new(Done {
        finish: FinishReason::Stop,
        usage: Usage {
            input_tokens: 3,
            output_tokens: words,
        },
        cost: Usd::ZERO,
        first_token: None,
        total: Duration::from_millis(1),
        attempts: Vec::new(),
    }))
}

/// A node's capacity; while `blocked` its driver gets no report and no rest.
pub(crate) struct Steady {
    pub(crate) capacity: u32,
    pub(crate) blocked: AtomicBool,
}

impl Steady {
    pub(crate) fn new(capacity: u32) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            blocked: AtomicBool::new(false),
        })
    }
}

impl CapacitySource for Steady {
    fn capacity(&self) -> u32 {
        self.capacity
    }

    fn report(&self) -> CapacityReport {
        while self.blocked.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        CapacityReport {
            sequence: 0,
            credits: 0,
            slots: 0,
            lease: Duration::ZERO,
            active: 0,
            queued: 0,
            load: 0.0,
            battery_percent: None,
            engine: Default::default(),
            models: vec![ModelState {
                prefill_tok_s: 1000.0,
                decode_tok_s: 100.0,
                first_token_ms: 40.0,
                first_token_p99_ms: 80.0,
                ..ModelState::default()
            }],
        }
    }
}

struct Everything;

impl Admit for Everything {
    fn admit(&self, _request: &mut RequestMeta, _context: &mut Context) -> Result<(), InferError> {
        Ok(())
    }
}

impl OfferSource for Everything {
    fn offers_for(&self, _node: &NodeHello) -> Vec<Offer> {
        Vec::new()
    }
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(MonotonicClock::new())
}

/// A gateway on `listen` whose upward streams `infer` answers.
pub(crate) fn try_gateway(
    pki: &Pki,
    listen: SocketAddr,
    infer: Arc<dyn Infer>,
) -> Result<(GatewayLink, Arc<NodeTable>), LinkError> {
    let table = NodeTable::new(1);
    let options = GatewayLinkOptions {
        listen,
        gateway: NodeId::new("gw").unwrap(),
        region: Some(Region::new("here").unwrap()),
        tls: gateway_config(&pki.credentials(GATEWAY)).unwrap(),
        ticket_key: vec![7; 32],
        credits_want: 4,
        credits_max: 8,
    };
    let upward = Upward {
        infer,
        admit: Arc::new(Everything),
        offers: Arc::new(Everything),
    };
    let link = GatewayLink::start(options, table.clone(), clock(), upward)?;
    Ok((link, table))
}

pub(crate) fn gateway(pki: &Pki, infer: Arc<dyn Infer>) -> (GatewayLink, Arc<NodeTable>) {
    try_gateway(pki, "127.0.0.1:0".parse().unwrap(), infer).unwrap()
}

pub(crate) fn model() -> ModelOffer {
    ModelOffer {
        id: ModelId::new("m").unwrap(),
        family: "f".into(),
        digest: None,
        numerics_id: None,
        tasks: vec![Task::Generate],
        context_tokens: 1000,
        quality: 0.5,
        input_per_million: Usd::ZERO,
        output_per_million: Usd::ZERO,
    }
}

/// What `name` truthfully says of itself.
pub(crate) fn hello(name: &str) -> NodeSessionConfig {
    let principal: Principal = name.parse().unwrap();
    NodeSessionConfig {
        node: principal.node().clone(),
        tier: principal.tier(),
        region: Some(Region::new("here").unwrap()),
        owner: principal.owner().cloned(),
        endpoint: String::new(),
        models: vec![(&model()).into()],
        software: "test".into(),
    }
}

/// A node that dials `gateway` with the credentials of `name`.
pub(crate) fn node(
    credentials: &Credentials,
    name: &str,
    gateway: SocketAddr,
    source: Arc<Steady>,
    infer: Arc<dyn Infer>,
) -> NodeLink {
    let options = NodeLinkOptions {
        gateway,
        tls: node_config(credentials).unwrap(),
        session: hello(name),
    };
    NodeLink::start(options, clock(), source, infer).unwrap()
}

/// A request of `user`'s that may go anywhere.
pub(crate) fn request(user: &str) -> Arc<Sealed<Request>> {
    let raw = RawRequest {
        request_id: "r-1".into(),
        user_id: user.into(),
        policy: "interactive".into(),
        content: Some(Content::Prompt("hello".into())),
        ..RawRequest::default()
    };
    Arc::new(Sealed::new(raw.validate().unwrap()))
}

/// The texts of an answer, and how it ended.
pub(crate) async fn read(mut events: EventStream) -> (String, Result<Done, InferError>) {
    let mut text = String::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Tokens { items, .. }) => text.extend(items.into_iter().map(|t| t.text)),
            Ok(Event::Done(done)) => return (text, Ok(*done)),
            Ok(other) => panic!("unexpected {other:?}"),
            Err(error) => return (text, Err(error)),
        }
    }
    panic!("the stream ended without Done");
}

/// Waits, at most half a minute, for something another task does.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}

/// Waits until `name` is in the table and has credits.
pub(crate) async fn joined(table: &NodeTable, name: &str) -> Arc<dyn Infer> {
    let id = NodeId::new(name).unwrap();
    eventually("the node joins", || {
        let nodes = table.list();
        nodes
            .iter()
            .any(|node| node.hello.node == id && node.report.is_some() && node.credits_free() > 0)
    })
    .await;
    table.infer(&id).unwrap()
}

/// A peer without our session: a bare QUIC connection.
pub(crate) struct Stranger {
    /// Kept open as long as the connection.
    pub(crate) endpoint: Endpoint,
    pub(crate) connection: Connection,
}

impl Stranger {
    pub(crate) async fn dial(
        gateway: SocketAddr,
        tls: rustls::ClientConfig,
    ) -> Result<Self, quinn::ConnectionError> {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let crypto = Arc::new(QuicClientConfig::try_from(tls).unwrap());
        let config = quinn::ClientConfig::new(crypto);
        let connecting = endpoint.connect_with(config, gateway, GATEWAY_NAME);
        let connection = connecting.unwrap().await?;
        Ok(Self {
            endpoint,
            connection,
        })
    }

    pub(crate) async fn closed(&self) -> quinn::ConnectionError {
        let closed = self.connection.closed();
        let bound = Duration::from_secs(30);
        let error = tokio::time::timeout(bound, closed).await;
        error.expect("the gateway closes the connection")
    }
}

/// One frame as the link's wire has it.
pub(crate) fn framed(message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

pub(crate) async fn send(stream: &mut SendStream, message: &impl Message) {
    stream.write_all(&framed(message)).await.unwrap();
}

pub(crate) async fn receive<M: Message + Default>(stream: &mut RecvStream) -> M {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.unwrap();
    let mut body = vec![0; u32::from_be_bytes(head) as usize];
    stream.read_exact(&mut body).await.unwrap();
    M::decode(body.as_slice()).unwrap()
}
