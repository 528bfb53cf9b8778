//! A scripted answerer, a catalog, and a door that serves them.

use futures::stream;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tiermesh_core::{
    Alternative, BreakerState, Context, DecisionSummary, Done, ErrorClass, Event, EventStream,
    Explain, FinishReason, Infer, InferError, InferFuture, ModelId, ModelOffer, MonotonicClock,
    NodeId, PolicyName, Reason, ReasonRecord, Refusal, Request, RequestMeta, Sealed, Task, Tier,
    Token, TokenDetail, Usage, Usd, UserId,
};
use tiermesh_frontdoor::{
    Catalog, CatalogModel, Door, DoorOptions, Locate, Located, NodeStatus, ServeError, serve,
};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How a scripted answer ends.
#[derive(Clone)]
pub(crate) enum End {
    Done,
    Fail(InferError),
    Hang,
    CutOff,
}

/// What every answer of a fake looks like.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) words: Vec<&'static str>,
    pub(crate) gap: Duration,
    pub(crate) end: End,
    pub(crate) refuse: Option<InferError>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            words: vec!["Sam", "", "sung ", "\"Galaxy\"\n"],
            gap: Duration::ZERO,
            end: End::Done,
            refuse: None,
        }
    }
}

#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) script: Script,
    /// Answers that were begun and not dropped.
    pub(crate) live: Arc<AtomicUsize>,
    pub(crate) seen: Mutex<Vec<(RequestMeta, Context)>>,
}

impl Fake {
    pub(crate) fn new(script: Script) -> Arc<Self> {
        Arc::new(Self {
            script,
            ..Self::default()
        })
    }

    pub(crate) async fn all_dropped(&self) {
        let none = async {
            while self.live.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let bound = Duration::from_secs(2);
        tokio::time::timeout(bound, none).await.expect("dropped");
    }
}

struct Live(Arc<AtomicUsize>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Infer for Fake {
    fn infer(&self, request: Arc<Sealed<Request>>, context: Context) -> InferFuture<'_> {
        let from = context.continuation.said();
        let seen = (request.meta().clone(), context);
        self.seen.lock().unwrap().push(seen);
        let script = self.script.clone();
        let scored = request.meta().sampling.logprobs;
        self.live.fetch_add(1, Ordering::SeqCst);
        let live = Live(Arc::clone(&self.live));
        Box::pin(async move {
            match script.refuse.clone() {
                Some(refusal) => Err(refusal),
                None => Ok(events(script, live, scored, from)),
            }
        })
    }
}

/// `scored` tokens tell their bytes and a rising log-probability, and as many
/// alternatives as were asked for.
fn token(script: &Script, at: usize, scored: Option<u8>) -> Token {
    let text = script.words[at].to_owned();
    let top = |count: u8| {
        (0..count).map(|place| Alternative {
            id: place.into(),
            bytes: vec![0xe0, place],
            logprob: -1.0 - f32::from(place),
        })
    };
    Token {
        id: Some(7),
        logprob: scored.map(|_| -0.25 * at as f32),
        detail: scored.map(|count| {
            Box::new(TokenDetail {
                bytes: text.as_bytes().to_vec(),
                top: top(count).collect(),
            })
        }),
        text,
    }
}

/// Goes on behind the first `from` words.
fn events(script: Script, live: Live, scored: Option<u8>, from: u64) -> EventStream {
    let state = (0_usize, script, live);
    let from = usize::try_from(from).unwrap();
    Box::pin(stream::unfold(
        state,
        move |(at, script, live)| async move {
            let words = script.words.len().saturating_sub(from);
            let event = if at == 0 {
                Ok(Event::Accepted(Box::new(decision())))
            } else if at <= words {
                if !script.gap.is_zero() {
                    tokio::time::sleep(script.gap).await;
                }
                Ok(Event::Tokens {
                    first_seq: (from + at) as u64 - 1,
                    items: vec![token(&script, from + at - 1, scored)],
                })
            } else if at == words + 1 {
                match script.end.clone() {
                    End::Done => Ok(Event::Done(Box::new(done((from + words) as u64)))),
                    End::Fail(error) => Err(error),
                    End::Hang => std::future::pending().await,
                    End::CutOff => return None,
                }
            } else {
                return None;
            };
            Some((event, (at + 1, script, live)))
        },
    ))
}

fn done(words: u64) -> Done {
    Done {
        finish: FinishReason::Stop,
        usage: Usage {
            input_tokens: 11,
            output_tokens: words,
        },
        cost: Usd::from_nanos(1500),
        first_token: Some(Duration::from_millis(3)),
        total: Duration::from_millis(9),
        attempts: Vec::new(),
    }
}

pub(crate) fn decision() -> DecisionSummary {
    DecisionSummary {
        policy: PolicyName::new("interactive").unwrap(),
        tier: Tier::Mec,
        node: NodeId::new("edge-1").unwrap(),
        model: ModelId::new("brand-extractor").unwrap(),
        scores: Vec::new(),
        confidence: 0.5,
        reasons: vec![ReasonRecord {
            node: None,
            model: None,
            reason: Reason::NoCredit,
        }],
        fallbacks: Vec::new(),
        first_token_ms: 12.0,
        total_ms: 60.0,
        cost: Usd::from_nanos(42),
        epoch: 3,
        sequence: 77,
    }
}

impl Explain for Fake {
    fn explain(&self, meta: &RequestMeta, context: &Context) -> Result<DecisionSummary, Refusal> {
        let seen = (meta.clone(), context.clone());
        self.seen.lock().unwrap().push(seen);
        Ok(decision())
    }
}

impl Catalog for Fake {
    fn models(&self) -> Vec<CatalogModel> {
        vec![CatalogModel {
            offer: ModelOffer {
                id: ModelId::new("org/brand-extractor").unwrap(),
                family: "brand".into(),
                digest: None,
                numerics_id: None,
                tasks: vec![Task::Chat],
                context_tokens: 2048,
                quality: 0.75,
                input_per_million: Usd::ZERO,
                output_per_million: Usd::ZERO,
            },
            tiers: vec![Tier::Device, Tier::Mec],
        }]
    }

    fn nodes(&self) -> Vec<NodeStatus> {
        vec![NodeStatus {
            node: NodeId::new("edge-1").unwrap(),
            tier: Tier::Mec,
            region: None,
            owner: None,
            models: Vec::new(),
            credits_free: 4,
            active: 1,
            queued: 0,
            slots: 3,
            breaker: BreakerState::HalfOpen,
            rtt_ms: 5.0,
            first_token_ms: 12.0,
            decode_tok_s: 90.0,
            report_age: Duration::from_millis(250),
            load: 0.25,
            endpoint: Some("http://127.0.0.1:8081".into()),
            states: Vec::new(),
            engine: Default::default(),
            calibration: Vec::new(),
        }]
    }

    fn locate(&self, ask: &Locate) -> Result<Vec<Located>, InferError> {
        if ask.region.is_some() {
            let message = "no edge there";
            return Err(InferError::new(ErrorClass::NotFound, "NO_EDGE", message));
        }
        Ok(vec![Located {
            node: NodeId::new("edge-1").unwrap(),
            tier: Tier::Mec,
            endpoint: "http://127.0.0.1:8081".into(),
            ticket: format!("for {}", ask.user),
            ttl: Duration::from_secs(60),
        }])
    }
}

/// A door that is open.
pub(crate) struct House {
    pub(crate) address: SocketAddr,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) served: JoinHandle<Result<(), ServeError>>,
}

impl Drop for House {
    fn drop(&mut self) {
        self.served.abort();
    }
}

pub(crate) async fn open(fake: &Arc<Fake>) -> House {
    open_with(fake, None, |_| {}).await
}

pub(crate) async fn open_with(
    fake: &Arc<Fake>,
    tls: Option<Arc<rustls::ServerConfig>>,
    change: impl FnOnce(&mut DoorOptions),
) -> House {
    let mut options = DoorOptions::new(
        NodeId::new("gw-1").unwrap(),
        Tier::Cloud,
        UserId::new("somebody").unwrap(),
        PolicyName::new("interactive").unwrap(),
    );
    change(&mut options);
    let door = Door {
        infer: fake.clone(),
        explain: fake.clone(),
        catalog: fake.clone(),
        options,
        clock: Arc::new(MonotonicClock::new()),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let shutdown = async {
        let _ = stopped.await;
    };
    House {
        address,
        stop: Some(stop),
        served: tokio::spawn(serve(door, listener, tls, shutdown)),
    }
}
