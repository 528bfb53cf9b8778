//! The house: a door, a dispatcher, a link, and a node behind it.

use crate::streams::{CAPACITY, Endless, Held, Notes, Watched, offer};
use anyhow::Context as _;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tiermesh_core::{
    BreakerState, CandidateState, Clock, Destination, ErrorClass, Fleet, Infer, InferError,
    MonotonicClock, NodeId, Outlook, PolicyName, RequestMeta, Snapshot, Tier, Usd, UserId,
};
use tiermesh_decision::Policies;
use tiermesh_frontdoor::{Catalog, CatalogModel, Door, DoorOptions, Locate, Located, NodeStatus};
use tiermesh_harness::certify;
use tiermesh_identity::{Credentials, TicketSigner, gateway_config, node_config};
use tiermesh_link::session::{NodeHello, NodeSessionConfig};
use tiermesh_link::{
    Admit, GatewayLink, GatewayLinkOptions, NodeLink, NodeLinkOptions, NodeTable, OfferSource,
    Upward,
};
use tiermesh_router::{BreakerConfig, Breakers, BudgetLimits, Dispatcher, Options, Setup, Window};
use tokio::net::TcpListener;
use tonic::transport::Channel;

const GATEWAY: &str = "gateway-1";
const NODE: &str = "edge-1";
const LINKED_WITHIN: Duration = Duration::from_secs(20);
/// How often what is waited for is looked at.
const LOOK: Duration = Duration::from_micros(200);

/// Everything, in this process.
pub(crate) struct House {
    pub(crate) channel: Channel,
    notes: Arc<Notes>,
    table: Arc<NodeTable>,
    dispatcher: Arc<Dispatcher>,
    door: tokio::task::JoinHandle<()>,
    _links: (GatewayLink, NodeLink),
}

impl Drop for House {
    fn drop(&mut self) {
        self.door.abort();
    }
}

impl House {
    /// Opens it and waits until the node has lent its streams.
    pub(crate) async fn open() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let daemons = [
            format!("spiffe://tiermesh/gateway/{GATEWAY}"),
            format!("spiffe://tiermesh/mec/{NODE}"),
        ];
        certify(dir.path(), &daemons)?;
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
        let notes = Arc::<Notes>::default();
        let table = NodeTable::new(1);
        let dispatcher = Arc::new(dispatcher(&table, &clock)?);
        let gateway = GatewayLink::start(
            gateway_options(dir.path())?,
            table.clone(),
            clock.clone(),
            Upward {
                infer: dispatcher.clone(),
                admit: Arc::new(Nobody),
                offers: Arc::new(Nobody),
            },
        )?;
        let node = Arc::new(Endless {
            notes: notes.clone(),
            own: own(Tier::Mec, NODE)?,
            offer: Arc::new(offer()?),
        });
        let options = node_options(dir.path(), &gateway, &node)?;
        let node = NodeLink::start(options, clock.clone(), node.clone(), node)?;
        let watched = Arc::new(Watched {
            notes: notes.clone(),
            inner: dispatcher.clone(),
        });
        let user = UserId::new("ann")?;
        let policy = PolicyName::new("iot")?;
        let mut options = DoorOptions::new(NodeId::new(GATEWAY)?, Tier::Cloud, user, policy);
        options.max_streams = 2 * CAPACITY as usize;
        let door = Door {
            infer: watched,
            explain: dispatcher.clone(),
            catalog: Arc::new(Nobody),
            options,
            clock,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let door = tokio::spawn(async move {
            let served = tiermesh_frontdoor::serve(door, listener, None, std::future::pending());
            if let Err(error) = served.await {
                crate::say(&format!("the door did not open: {error}"));
            }
        });
        let house = Self {
            channel: Channel::from_shared(url)?.connect_lazy(),
            notes,
            table,
            dispatcher,
            door,
            _links: (gateway, node),
        };
        let until = Instant::now() + LINKED_WITHIN;
        let lent = |house: &Self| {
            house
                .table
                .list()
                .iter()
                .any(|n| n.credits_free() >= CAPACITY / 2)
        };
        house.wait(until, "the node did not link up", lent).await?;
        Ok(house)
    }

    /// When what was held for a request went.
    pub(crate) async fn at(&self, held: Held, id: &str, until: Instant) -> anyhow::Result<Instant> {
        let key = (held, id.to_owned());
        let noted = |house: &Self| {
            let notes = house.notes.0.lock().unwrap_or_else(PoisonError::into_inner);
            notes.contains_key(&key)
        };
        self.wait(until, "a stream goes on", noted).await?;
        let mut notes = self.notes.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.remove(&key).context("it was just there")
    }

    /// When the gateway counts no stream on the node any more.
    pub(crate) async fn credits_back(&self, until: Instant) -> anyhow::Result<Instant> {
        let none = |house: &Self| house.table.list().iter().all(|node| node.streams == 0);
        self.wait(until, "credits are held", none).await?;
        Ok(Instant::now())
    }

    /// Reservations that are open.
    pub(crate) fn reservations(&self) -> usize {
        self.dispatcher.ledger().open()
    }

    async fn wait(
        &self,
        until: Instant,
        what: &'static str,
        is: impl Fn(&Self) -> bool,
    ) -> anyhow::Result<()> {
        while !is(self) {
            anyhow::ensure!(Instant::now() < until, what);
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

fn own(tier: Tier, node: &str) -> anyhow::Result<Destination> {
    Ok(Destination {
        tier,
        region: None,
        node: NodeId::new(node)?,
        owner: None,
    })
}

fn dispatcher(table: &Arc<NodeTable>, clock: &Arc<dyn Clock>) -> anyhow::Result<Dispatcher> {
    let window = Window {
        most: Usd::from_nanos(u64::MAX / 4),
        per: Duration::from_secs(3_600),
    };
    Ok(Dispatcher::new(Setup {
        own: own(Tier::Cloud, GATEWAY)?,
        fleet: Arc::new(Linked {
            table: table.clone(),
            clock: clock.clone(),
        }),
        policies: Policies::builtin(),
        breakers: Breakers::new(BreakerConfig::default(), 1),
        clock: clock.clone(),
        options: Options {
            budgets: BudgetLimits {
                user: Some(window),
                ..BudgetLimits::default()
            },
            ..Options::default()
        },
    }))
}

fn credentials(dir: &Path, name: &str) -> Credentials {
    Credentials {
        ca: dir.join("ca.pem"),
        certificate: dir.join(format!("{name}.pem")),
        key: dir.join(format!("{name}.key")),
    }
}

fn gateway_options(dir: &Path) -> anyhow::Result<GatewayLinkOptions> {
    Ok(GatewayLinkOptions {
        listen: "127.0.0.1:0".parse()?,
        gateway: NodeId::new(GATEWAY)?,
        region: None,
        tls: gateway_config(&credentials(dir, GATEWAY))?,
        ticket_key: TicketSigner::generate().public_key(),
        credits_want: CAPACITY,
        credits_max: CAPACITY,
    })
}

fn node_options(
    dir: &Path,
    gateway: &GatewayLink,
    node: &Endless,
) -> anyhow::Result<NodeLinkOptions> {
    Ok(NodeLinkOptions {
        gateway: gateway.local_addr(),
        tls: node_config(&credentials(dir, NODE))?,
        session: NodeSessionConfig {
            node: node.own.node.clone(),
            tier: node.own.tier,
            region: None,
            owner: None,
            endpoint: "http://127.0.0.1:1".to_owned(),
            models: vec![(&*node.offer).into()],
            software: "tiermesh-bench".into(),
        },
    })
}

/// The linked nodes as a fleet.
struct Linked {
    table: Arc<NodeTable>,
    clock: Arc<dyn Clock>,
}

impl Fleet for Linked {
    fn snapshot(&self) -> Snapshot {
        let (now, (epoch, sequence)) = (self.clock.now(), self.table.point());
        let candidates = self.table.list().into_iter().filter_map(|node| {
            let report = node.report.as_ref()?;
            Some(CandidateState {
                node: node.hello.node.clone(),
                tier: node.hello.tier,
                region: None,
                owner: None,
                transit: None,
                model: node.hello.models.first()?.clone(),
                state: *report.models.first()?,
                rtt_ms: node.rtt.as_secs_f32() * 1e3,
                credits_free: node.credits_free(),
                load: report.load,
                battery_percent: None,
                report_age: now.since(node.reported_at),
                breaker: BreakerState::Closed,
                outlook: Outlook::default(),
            })
        });
        Snapshot {
            epoch,
            sequence,
            candidates: candidates.collect::<Vec<_>>().into(),
        }
    }

    fn node(&self, node: &NodeId) -> Option<Arc<dyn Infer>> {
        self.table.infer(node)
    }
}

/// Knows nothing, offers nothing, and lets everything in.
struct Nobody;

impl Admit for Nobody {
    fn admit(&self, _: &mut RequestMeta, _: &mut tiermesh_core::Context) -> Result<(), InferError> {
        Ok(())
    }
}

impl OfferSource for Nobody {
    fn offers_for(&self, _: &NodeHello) -> Vec<tiermesh_proto::link::Offer> {
        Vec::new()
    }
}

impl Catalog for Nobody {
    fn models(&self) -> Vec<CatalogModel> {
        Vec::new()
    }

    fn nodes(&self) -> Vec<NodeStatus> {
        Vec::new()
    }

    fn locate(&self, _: &Locate) -> Result<Vec<Located>, InferError> {
        let message = "a benchmark locates nobody";
        Err(InferError::new(
            ErrorClass::NotFound,
            "NO_ENDPOINT",
            message,
        ))
    }
}
