//! From a configuration to a node that serves.

use crate::capacity::EngineCapacity;
use crate::catalog::NodeCatalog;
use crate::config::{EngineConfig, GatewayConfig, KvCacheConfig, NodeConfig, Role, SharingConfig};
use crate::fleet::NodeFleet;
use crate::guard::Rules;
use anyhow::Context as _;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tiermesh_core::{Clock, Destination, MonotonicClock, Usd, UserId};
use tiermesh_daemon::{DRAIN, PolicyWatch, epoch, policies, watch_policies};
use tiermesh_engine::{
    Engine, EngineOptions, KernelChoice, KvCacheType, LoadOptions, LocalInfer, PrefixSharing,
    Prices, Quantization,
};
use tiermesh_frontdoor::{Door, DoorOptions};
use tiermesh_identity::{Credentials, door_config, node_config};
use tiermesh_link::session::NodeSessionConfig;
use tiermesh_link::{NodeLink, NodeLinkOptions};
use tiermesh_router::{BreakerConfig, Breakers, Dispatcher, Keeps, Memory, Options, Setup};
use tokio::net::TcpListener;

/// A node, built and ready to serve.
pub struct Node {
    door: Door,
    tls: Option<Arc<rustls::ServerConfig>>,
    listener: TcpListener,
    address: SocketAddr,
    endpoint: String,
    engine: Arc<Engine>,
    link: Option<NodeLink>,
    /// Reloads the policies as long as this serves.
    _reload: Option<PolicyWatch>,
}

/// Loads the models, starts the engine and the link, and builds the door on
/// `listener`.
///
/// # Errors
/// The part that could not be built, and why.
pub fn build(config: &NodeConfig, role: Role, listener: TcpListener) -> anyhow::Result<Node> {
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let address = listener.local_addr()?;
    let endpoint = endpoint(config, address);
    let own = Destination {
        tier: role.tier(),
        region: config.region.clone(),
        node: config.node.clone(),
        owner: config.owner.clone(),
    };
    let engine = Arc::new(start_engine(&config.engine)?);
    let local = Arc::new(LocalInfer::new(
        engine.clone(),
        own.clone(),
        prices(config)?,
        clock.clone(),
    ));
    let link = match &config.gateway {
        Some(gateway) => {
            let capacity = Arc::new(EngineCapacity {
                engine: engine.clone(),
                battery_percent: config.battery_percent,
            });
            let options = link_options(gateway, &own, &endpoint, &local)?;
            Some(NodeLink::start(
                options,
                clock.clone(),
                capacity,
                local.clone(),
            )?)
        }
        None => None,
    };
    let upstream = link.as_ref().map(|link| link.upstream().clone());
    let (policies, default_policy) =
        policies(config.policies.as_deref(), config.default_policy.as_ref())?;
    let epoch = epoch();
    let memory = Memory::new(epoch);
    let fleet = Arc::new(NodeFleet::new(
        own.clone(),
        (local, upstream.clone()),
        config.battery_percent,
        memory.clone(),
        clock.clone(),
    ));
    let setup = Setup {
        own: own.clone(),
        fleet: fleet.clone(),
        policies,
        breakers: Breakers::new(BreakerConfig::default(), epoch),
        clock: clock.clone(),
        options: Options::default(),
    };
    let keeps = Keeps {
        memory: Some(memory),
        ..Keeps::default()
    };
    let dispatcher = Arc::new(Dispatcher::keeping(setup, keeps));
    let reload = config.policies.clone().map(|file| {
        let dispatcher = dispatcher.clone();
        let put = move |policies| dispatcher.set_policies(policies);
        watch_policies(file, default_policy.clone(), put)
    });
    let mut options = DoorOptions::new(
        own.node.clone(),
        own.tier,
        default_user(config),
        default_policy,
    );
    options.region.clone_from(&own.region);
    let policies = dispatcher.clone();
    let own_default = move |tenant: &str| policies.policies().default_for(Some(tenant)).cloned();
    options.tenant_default = Some(Arc::new(own_default));
    options.guard = Some(
        Rules {
            own,
            dispatcher: dispatcher.clone(),
            upstream,
            require_ticket: config.require_ticket,
        }
        .into_guard(),
    );
    let told = Arc::new(OnceLock::from(endpoint.clone()));
    let door = Door {
        infer: dispatcher.clone(),
        explain: dispatcher.clone(),
        catalog: Arc::new(NodeCatalog {
            fleet,
            dispatcher,
            endpoint: told,
            takes_hints: address.ip().is_loopback(),
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
    Ok(Node {
        door,
        tls,
        listener,
        address,
        endpoint,
        engine,
        link,
        _reload: reload,
    })
}

impl Node {
    /// Where the door listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where clients reach the door.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
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
        if let Some(link) = self.link {
            link.drain(DRAIN).await;
        }
        let engine = self.engine;
        tokio::task::spawn_blocking(move || engine.drain(DRAIN)).await?;
        Ok(served?)
    }
}

fn start_engine(config: &EngineConfig) -> anyhow::Result<Engine> {
    let kernel: KernelChoice = config
        .kernel
        .parse()
        .with_context(|| format!("`engine.kernel` is `{}`", config.kernel))?;
    let options = LoadOptions {
        kv_cache: match config.kv_cache {
            KvCacheConfig::Auto => KvCacheType::Auto,
            KvCacheConfig::Q8 => KvCacheType::Q8,
        },
        ..LoadOptions::new(kernel.resolve()?, Quantization::Q8)
    };
    let sources = config.models.iter();
    let sources = sources.map(|entry| crate::remote::source(entry, options));
    let engine = Engine::open(
        sources.collect::<anyhow::Result<_>>()?,
        EngineOptions {
            streams: config.streams,
            threads: config.threads,
            queue_capacity: config.queue,
            step: Duration::from_millis(config.step_ms),
            kv_bytes: config.kv_mib << 20,
            model_bytes: config.models_mib.map_or(u64::MAX, |mib| mib << 20),
            prefix_sharing: match config.prefix_sharing {
                SharingConfig::All => PrefixSharing::All,
                SharingConfig::User => PrefixSharing::User,
                SharingConfig::Off => PrefixSharing::Off,
            },
            user_weights: config.user_weights.clone(),
        },
    )?;
    for (info, state) in engine.models().zip(engine.load().models) {
        let residency = state.residency.as_str();
        tracing::info!(model = %info.id, numerics_id = %info.numerics_id, residency, "model ready");
    }
    Ok(engine)
}

fn prices(config: &NodeConfig) -> anyhow::Result<Prices> {
    let price = |dollars: f64| {
        Usd::from_dollars(dollars).context("a price is a number of dollars from 0 on")
    };
    Ok(Prices {
        input_per_million: price(config.prices.input_usd_per_million)?,
        output_per_million: price(config.prices.output_usd_per_million)?,
    })
}

fn link_options(
    gateway: &GatewayConfig,
    own: &Destination,
    endpoint: &str,
    local: &LocalInfer,
) -> anyhow::Result<NodeLinkOptions> {
    let credentials = Credentials {
        ca: gateway.ca.clone(),
        certificate: gateway.certificate.clone(),
        key: gateway.key.clone(),
    };
    let certified = credentials.principal()?;
    anyhow::ensure!(
        certified.node() == &own.node
            && certified.owner() == own.owner.as_ref()
            && certified.tier() == own.tier,
        "the certificate {} is for {certified}, and this is the {} `{}`",
        credentials.certificate.display(),
        own.tier,
        own.node,
    );
    Ok(NodeLinkOptions {
        gateway: gateway.address,
        tls: node_config(&credentials)?,
        session: NodeSessionConfig {
            node: own.node.clone(),
            tier: own.tier,
            region: own.region.clone(),
            owner: own.owner.clone(),
            endpoint: endpoint.to_owned(),
            models: local
                .offers()
                .iter()
                .map(|offer| (&**offer).into())
                .collect(),
            software: concat!("tiermesh/", env!("CARGO_PKG_VERSION")).to_owned(),
        },
    })
}

fn default_user(config: &NodeConfig) -> UserId {
    let named = config.default_user.clone().or_else(|| config.owner.clone());
    named.unwrap_or_else(|| UserId::new("anonymous").expect("a constant name that is valid"))
}

fn endpoint(config: &NodeConfig, address: SocketAddr) -> String {
    match (&config.advertise, &config.tls) {
        (Some(advertised), _) => advertised.clone(),
        (None, Some(_)) => format!("https://{address}"),
        (None, None) => format!("http://{address}"),
    }
}
