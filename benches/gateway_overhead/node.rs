//! A node as an edge node is built, with a script where the engine would be:
//! the door, the dispatcher and the link are the real ones.

use crate::fleet::Alone;
use crate::pacer::{Pacer, wall_us};
use futures::stream;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tiermesh_core::privacy::permit;
use tiermesh_core::{
    CapacityReport, Clock, Context, Destination, Done, ErrorClass, Event, EventStream,
    FinishReason, Infer, InferError, InferFuture, ModelId, ModelOffer, ModelState, MonotonicClock,
    NodeId, Request, Residency, Sealed, Task, Tier, Token, Usage, Usd, UserId,
};
use tiermesh_daemon::{Announcement, DRAIN, announce, epoch, policies, stop_requested};
use tiermesh_frontdoor::{Door, DoorOptions};
use tiermesh_identity::{Credentials, node_config};
use tiermesh_link::session::NodeSessionConfig;
use tiermesh_link::{CapacitySource, NodeLink, NodeLinkOptions};
use tiermesh_router::{BreakerConfig, Breakers, Dispatcher, Options, Setup};
use tokio::net::TcpListener;

/// The node's id.
pub(crate) const NODE: &str = "paced-1";
/// Answers a token every [`INTERVAL`].
pub(crate) const PACED: &str = "paced";
/// Answers at once.
pub(crate) const INSTANT: &str = "instant";
/// Between two tokens of a paced answer.
pub(crate) const INTERVAL: Duration = Duration::from_millis(10);

/// Streams it takes at once.
pub(crate) const CAPACITY: u32 = 256;
/// What every token says: as long as a token of English text.
const WORD: &str = " word";

/// Where to find what the node needs.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct NodeArguments {
    /// Serve as the node; certificates are in this directory.
    #[arg(long, hide = true)]
    pub(crate) paced_node: Option<PathBuf>,
    /// The gateway's link.
    #[arg(long, hide = true)]
    pub(crate) link: Option<SocketAddr>,
}

/// Serves until told to stop.
pub(crate) async fn serve(dir: &Path, gateway: SocketAddr) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let own = Destination {
        tier: Tier::Mec,
        region: None,
        node: NodeId::new(NODE)?,
        owner: None,
    };
    let script = Arc::new(Script::new(own.clone())?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let credentials = Credentials {
        ca: dir.join("ca.pem"),
        certificate: dir.join(format!("{NODE}.pem")),
        key: dir.join(format!("{NODE}.key")),
    };
    let options = NodeLinkOptions {
        gateway,
        tls: node_config(&credentials)?,
        session: NodeSessionConfig {
            node: own.node.clone(),
            tier: own.tier,
            region: None,
            owner: None,
            endpoint: endpoint.clone(),
            models: script.offers.iter().map(|o| (&**o).into()).collect(),
            software: "tiermesh-bench".into(),
        },
    };
    let link = NodeLink::start(options, clock.clone(), script.clone(), script.clone())?;
    let door = door(script, own, clock)?;
    announce(&Announcement::new("paced-node", NODE, endpoint));
    let stop = async {
        stop_requested().await;
    };
    tiermesh_frontdoor::serve(door, listener, None, stop).await?;
    link.drain(DRAIN).await;
    Ok(())
}

fn door(script: Arc<Script>, own: Destination, clock: Arc<dyn Clock>) -> anyhow::Result<Door> {
    let (policies, default_policy) = policies(None, None)?;
    let alone = Arc::new(Alone::new(script));
    let dispatcher = Arc::new(Dispatcher::new(Setup {
        own: own.clone(),
        fleet: alone.clone(),
        policies,
        breakers: Breakers::new(BreakerConfig::default(), epoch()),
        clock: clock.clone(),
        options: Options::default(),
    }));
    let user = UserId::new("anonymous")?;
    Ok(Door {
        infer: dispatcher.clone(),
        explain: dispatcher,
        catalog: alone,
        options: DoorOptions::new(own.node, own.tier, user, default_policy),
        clock,
    })
}

/// The engine's place: answers by the script that the model's name tells.
pub(crate) struct Script {
    pub(crate) own: Destination,
    pub(crate) offers: [Arc<ModelOffer>; 2],
    pacer: Pacer,
    active: Arc<AtomicU32>,
}

/// An answer that runs.
struct Live(Arc<AtomicU32>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Script {
    fn new(own: Destination) -> anyhow::Result<Self> {
        Ok(Self {
            own,
            offers: [Arc::new(offer(PACED)?), Arc::new(offer(INSTANT)?)],
            pacer: Pacer::start(INTERVAL)?,
            active: Arc::default(),
        })
    }

    /// Answers that run.
    pub(crate) fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    fn begin(
        &self,
        request: &Sealed<Request>,
        context: &Context,
    ) -> Result<EventStream, InferError> {
        let permit = permit(request, &self.own)?;
        request.open(&permit, &self.own.node)?;
        let tokens = request.meta().sampling.max_tokens;
        self.active.fetch_add(1, Ordering::Relaxed);
        let live = Live(self.active.clone());
        match context.model.as_ref().map(ModelId::as_str) {
            Some(PACED) => Ok(paced(self.pacer.answer(tokens), tokens, live)),
            Some(INSTANT) => Ok(instant(tokens, live)),
            _ => Err(InferError::new(
                ErrorClass::NotFound,
                "MODEL_NOT_FOUND",
                "the script knows `paced` and `instant`",
            )),
        }
    }
}

impl Infer for Script {
    fn infer(&self, request: Arc<Sealed<Request>>, context: Context) -> InferFuture<'_> {
        Box::pin(async move { self.begin(&request, &context) })
    }
}

fn paced(stamps: tokio::sync::mpsc::Receiver<u32>, tokens: u32, live: Live) -> EventStream {
    let state = (stamps, 0_u32, live);
    Box::pin(stream::unfold(
        state,
        move |(mut stamps, at, live)| async move {
            let event = if at < tokens {
                token(at, stamps.recv().await?)
            } else if at == tokens {
                done(tokens)
            } else {
                return None;
            };
            Some((Ok(event), (stamps, at + 1, live)))
        },
    ))
}

fn instant(tokens: u32, live: Live) -> EventStream {
    Box::pin(stream::unfold(
        (0_u32, live),
        move |(at, live)| async move {
            let event = match at {
                at if at < tokens => token(at, wall_us()),
                at if at == tokens => done(tokens),
                _ => return None,
            };
            Some((Ok(event), (at + 1, live)))
        },
    ))
}

fn token(at: u32, stamp: u32) -> Event {
    Event::Tokens {
        first_seq: u64::from(at),
        items: vec![Token {
            detail: None,
            text: WORD.to_owned(),
            id: Some(stamp),
            logprob: None,
        }],
    }
}

fn done(tokens: u32) -> Event {
    Event::Done(Box::new(Done {
        finish: FinishReason::Length,
        usage: Usage {
            input_tokens: 12,
            output_tokens: u64::from(tokens),
        },
        cost: Usd::ZERO,
        first_token: None,
        total: Duration::ZERO,
        attempts: Vec::new(),
    }))
}

/// How fast either model says it is.
pub(crate) const STATE: ModelState = ModelState {
    prefill_tok_s: 10_000.0,
    decode_tok_s: 100.0,
    first_token_ms: 1.0,
    first_token_p99_ms: 2.0,
    residency: Residency::Hot,
    load_ms: 0,
    kv_tokens_free: 0,
    calibration_error: 0.0,
};

fn offer(id: &str) -> anyhow::Result<ModelOffer> {
    Ok(ModelOffer {
        id: ModelId::new(id)?,
        family: "script".into(),
        digest: None,
        numerics_id: None,
        tasks: vec![Task::Generate],
        context_tokens: 32_768,
        quality: 0.7,
        input_per_million: Usd::ZERO,
        output_per_million: Usd::ZERO,
    })
}

impl CapacitySource for Script {
    fn capacity(&self) -> u32 {
        CAPACITY
    }

    fn report(&self) -> CapacityReport {
        let active = self.active();
        CapacityReport {
            sequence: 0,
            credits: 0,
            slots: 0,
            lease: Duration::ZERO,
            active,
            queued: 0,
            load: (active as f32 / CAPACITY as f32).min(1.0),
            battery_percent: None,
            engine: Default::default(),
            models: vec![STATE; self.offers.len()],
        }
    }
}
