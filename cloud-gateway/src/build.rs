//! From a configuration to a gateway that serves.

use crate::accounts;
use crate::advisor::Advisor;
use crate::catalog::GatewayCatalog;
use crate::config::GatewayConfig;
use crate::fleet::{GatewayFleet, Listener};
use crate::rules::Rules;
use anyhow::Context as _;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_bedrock::{BedrockCloud, BedrockConfig, CredentialSource, Wiring};
use tiermesh_core::{Clock, Destination, MonotonicClock, Tier, UserId};
use tiermesh_daemon::{DRAIN, DecisionLog, PolicyWatch, epoch, policies, watch_policies};
use tiermesh_frontdoor::{Door, DoorOptions};
use tiermesh_identity::{Credentials, TicketSigner, door_config, gateway_config};
use tiermesh_link::{GatewayLink, GatewayLinkOptions, NodeTable, Upward};
use tiermesh_router::{
    Advise, BreakerConfig, Breakers, Dispatcher, Journal, Keeps, Memory, Options, Setup,
};
use tokio::net::TcpListener;

/// How long the last records of decisions may take to be written.
const LAST_RECORDS: Duration = Duration::from_secs(3);

/// A gateway, built and ready to serve.
pub struct Gateway {
    door: Door,
    tls: Option<Arc<rustls::ServerConfig>>,
    listener: TcpListener,
    endpoint: String,
    link: GatewayLink,
    decisions: Option<Arc<DecisionLog>>,
    /// Reloads the policies as long as this serves.
    _reload: Option<PolicyWatch>,
}

/// Connects the cloud tier, opens the link's port and builds the door on
/// `listener`.
///
/// # Errors
/// The part that could not be built, and why.
pub async fn build(config: &GatewayConfig, listener: TcpListener) -> anyhow::Result<Gateway> {
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let own = Destination {
        tier: Tier::Cloud,
        region: config.region.clone(),
        node: config.node.clone(),
        owner: None,
    };
    let cloud = match &config.bedrock {
        Some(bedrock) => Some(connect(bedrock, config, &clock).await?),
        None => None,
    };
    let epoch = epoch();
    let advisor = match (&config.advisor, &config.bedrock) {
        (Some(advisor), Some(bedrock)) => {
            let client = advise(&advisor.client(bedrock), config, &clock).await?;
            let advisor = Advisor::new(advisor, client, clock.clone(), epoch);
            Some(Arc::new(advisor))
        }
        _ => None,
    };
    let memory = match advisor.clone() {
        Some(advisor) => Memory::estimating(epoch, advisor),
        None => Memory::new(epoch),
    };
    let hears = Listener {
        memory: memory.clone(),
        clock: clock.clone(),
    };
    let table = NodeTable::watched(epoch, Arc::new(hears));
    let fleet = Arc::new(GatewayFleet::new(
        table.clone(),
        memory.clone(),
        cloud,
        clock.clone(),
    ));
    let (policies, default_policy) =
        policies(config.policies.as_deref(), config.default_policy.as_ref())?;
    let setup = Setup {
        own: own.clone(),
        fleet: fleet.clone(),
        policies,
        breakers: Breakers::new(breaker(config), epoch),
        clock: clock.clone(),
        options: Options {
            budgets: config.budgets.limits(&config.keys),
            ..Options::default()
        },
    };
    let decisions = config.decisions.as_ref();
    let decisions = decisions.map(DecisionLog::open).transpose()?;
    let journal = decisions.clone().map(|log| log as Arc<dyn Journal>);
    let keeps = Keeps {
        memory: Some(memory),
        journal,
        adviser: advisor.map(|advisor| advisor as Arc<dyn Advise>),
    };
    let dispatcher = Arc::new(Dispatcher::keeping(setup, keeps));
    let reload = config.policies.clone().map(|file| {
        let dispatcher = dispatcher.clone();
        let put = move |policies| dispatcher.set_policies(policies);
        watch_policies(file, default_policy.clone(), put)
    });
    let rules = Arc::new(Rules {
        dispatcher: dispatcher.clone(),
        table: table.clone(),
        most: config.budgets.of_a_request(),
    });
    let tickets = Arc::new(TicketSigner::generate());
    let upward = Upward {
        infer: dispatcher.clone(),
        admit: rules.clone(),
        offers: fleet.clone(),
    };
    let options = link_options(config, &tickets)?;
    let link = GatewayLink::start(options, table.clone(), clock.clone(), upward)?;
    let default_user = config.default_user.clone();
    let default_user = default_user
        .unwrap_or_else(|| UserId::new("anonymous").expect("a constant name that is valid"));
    let mut options = DoorOptions::new(own.node, own.tier, default_user, default_policy);
    options.region = own.region;
    options.guard = Some(rules.guard());
    config
        .resume
        .apply(&mut options)
        .context("cannot use `resume.key`")?;
    options.keys = accounts::keys(&config.keys).map(Arc::new);
    let policies = dispatcher.clone();
    let own_default = move |tenant: &str| policies.policies().default_for(Some(tenant)).cloned();
    options.tenant_default = Some(Arc::new(own_default));
    let door = Door {
        infer: dispatcher.clone(),
        explain: dispatcher.clone(),
        catalog: Arc::new(GatewayCatalog {
            fleet,
            table,
            dispatcher,
            tickets,
            ticket_ttl: Duration::from_secs(config.ticket_ttl_s),
        }),
        options,
        clock,
    };
    let tls = config
        .tls
        .as_ref()
        .map(|tls| door_config(&tls.certificate, &tls.key))
        .transpose()?
        .map(Arc::new);
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = format!("{scheme}://{}", listener.local_addr()?);
    Ok(Gateway {
        door,
        tls,
        listener,
        endpoint,
        link,
        decisions,
        _reload: reload,
    })
}

impl Gateway {
    /// Where clients reach the door.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where nodes dial.
    #[must_use]
    pub const fn link_address(&self) -> SocketAddr {
        self.link.local_addr()
    }

    /// Serves until `stop` resolves, then drains: nothing new is taken, what
    /// is open may finish for a bounded time.
    ///
    /// # Errors
    /// When the door cannot be served at all.
    pub async fn serve(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let served = tiermesh_frontdoor::serve(self.door, self.listener, self.tls, stop).await;
        self.link.drain(DRAIN).await;
        if let Some(log) = self.decisions {
            let closed = tokio::task::spawn_blocking(move || log.close(LAST_RECORDS)).await;
            if !matches!(closed, Ok(true)) {
                tracing::warn!("the last records of decisions were not written in time");
            }
        }
        Ok(served?)
    }
}

fn breaker(config: &GatewayConfig) -> BreakerConfig {
    BreakerConfig {
        open: Duration::from_millis(config.breaker_open_ms),
        ..BreakerConfig::default()
    }
}

async fn connect(
    bedrock: &BedrockConfig,
    config: &GatewayConfig,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Arc<BedrockCloud>> {
    let cloud = BedrockCloud::connect(bedrock.clone(), wiring(config, clock))
        .await
        .context("cannot set up the cloud tier of [bedrock]")?;
    tracing::info!(place = cloud.place(), "cloud tier ready");
    Ok(Arc::new(cloud))
}

async fn advise(
    bedrock: &BedrockConfig,
    config: &GatewayConfig,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<BedrockCloud> {
    let cloud = BedrockCloud::connect(bedrock.clone(), wiring(config, clock))
        .await
        .context("cannot set up the models of [advisor]")?;
    tracing::info!(place = cloud.place(), "advisor ready");
    Ok(cloud)
}

fn wiring(config: &GatewayConfig, clock: &Arc<dyn Clock>) -> Wiring {
    Wiring {
        credentials: if config.cloud_standin {
            CredentialSource::Standin
        } else {
            CredentialSource::Chain
        },
        clock: clock.clone(),
        gateway: config.node.clone(),
    }
}

fn link_options(
    config: &GatewayConfig,
    tickets: &TicketSigner,
) -> anyhow::Result<GatewayLinkOptions> {
    let credentials = Credentials {
        ca: config.link.ca.clone(),
        certificate: config.link.certificate.clone(),
        key: config.link.key.clone(),
    };
    let certified = credentials.principal()?;
    anyhow::ensure!(
        certified.tier() == Tier::Cloud && certified.node() == &config.node,
        "the certificate {} is for {certified}, and this is the gateway `{}`",
        credentials.certificate.display(),
        config.node,
    );
    Ok(GatewayLinkOptions {
        listen: config.listen.link,
        gateway: config.node.clone(),
        region: config.region.clone(),
        tls: gateway_config(&credentials)?,
        ticket_key: tickets.public_key(),
        credits_want: config.link.credits_want,
        credits_max: config.link.credits_max,
    })
}
