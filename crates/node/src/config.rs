//! The configuration of an edge node or a device agent.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use tiermesh_core::{NodeId, PolicyName, Region, Tier, UserId};
use tiermesh_daemon::{ConfigError, TlsPaths, check, require_tls_off_loopback};

/// Which of the two daemons this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Serves a zone.
    EdgeNode,
    /// Serves its owner.
    DeviceAgent,
}

impl Role {
    /// Its tier.
    #[must_use]
    pub const fn tier(self) -> Tier {
        match self {
            Self::EdgeNode => Tier::Mec,
            Self::DeviceAgent => Tier::Device,
        }
    }

    /// Its name in announcements and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EdgeNode => "edge-node",
            Self::DeviceAgent => "device-agent",
        }
    }
}

/// A node's configuration, as its TOML file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Its id, as its certificate has it.
    pub node: NodeId,
    /// Its region or zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// Whom a device agent serves; an edge node has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<UserId>,
    /// The charge a device starts from, in percent, where the system tells none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub battery_percent: Option<u8>,
    /// Allows the client API off loopback without TLS.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// Where clients reach the door from outside; its own address when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// The user of requests that name none; a device's owner when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_user: Option<UserId>,
    /// The policy of requests that name none; the policies' own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_policy: Option<PolicyName>,
    /// A TOML file of policies that extend or replace the built-in ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies: Option<PathBuf>,
    /// An edge's door demands a ticket from the gateway.
    #[serde(default)]
    pub require_ticket: bool,
    /// Addresses to listen on.
    #[serde(default)]
    pub listen: ListenConfig,
    /// The door's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsPaths>,
    /// The gateway to link to; a node without one stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayConfig>,
    /// The local engine.
    pub engine: EngineConfig,
    /// What an answer from here costs.
    #[serde(default)]
    pub prices: PriceConfig,
}

/// Addresses to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenConfig {
    /// The client API, gRPC and HTTP; port 0 picks one.
    pub api: SocketAddr,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            api: SocketAddr::from(([127, 0, 0, 1], 8081)),
        }
    }
}

/// The gateway and what the link to it is authenticated with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Its UDP address.
    pub address: SocketAddr,
    /// The authority's certificate.
    pub ca: PathBuf,
    /// This node's certificate.
    pub certificate: PathBuf,
    /// This node's private key.
    pub key: PathBuf,
}

/// The local engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// Directories of models, artifacts or Hugging Face style; and repositories
    /// of the hub that hold an artifact, as `hf:ORG/NAME[@REVISION]`, which are
    /// fetched when they are asked for.
    pub models: Vec<PathBuf>,
    /// Streams computed together.
    #[serde(default = "streams")]
    pub streams: NonZeroUsize,
    /// Threads that share a step's work; as many as the machine has cores.
    #[serde(default = "threads")]
    pub threads: NonZeroUsize,
    /// Streams that may wait; one more is refused.
    #[serde(default = "queue")]
    pub queue: usize,
    /// Milliseconds that reading somebody's prompt may delay another stream's
    /// next token.
    #[serde(default = "step_ms")]
    pub step_ms: u64,
    /// Mebibytes of memory for keys and values, kept prefixes included.
    #[serde(default = "kv_mib")]
    pub kv_mib: usize,
    /// Mebibytes of weights in memory. Models beyond it stay on disk until
    /// they are asked for; all are in memory when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models_mib: Option<u64>,
    /// Whose prompts share what was computed for an equal beginning: `all`,
    /// `user` (one user's own) or `off`.
    #[serde(default)]
    pub prefix_sharing: SharingConfig,
    /// How keys and values are held: `auto` (f16 beside quantised weights, f32
    /// beside floats), or `q8` (half of f16's memory, a little less exact).
    #[serde(default)]
    pub kv_cache: KvCacheConfig,
    /// `auto`, `avx512`, `avx2`, `portable`, `scalar`, or `wgpu` in a program
    /// that was built with that feature.
    #[serde(default = "auto")]
    pub kernel: String,
    /// Users with another share of the engine than 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub user_weights: BTreeMap<UserId, f64>,
}

/// How keys and values are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvCacheConfig {
    /// f16 beside quantised weights, f32 beside floats.
    #[default]
    Auto,
    /// Eight bits a number.
    Q8,
}

/// Whose prompts share computed beginnings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharingConfig {
    /// Everybody's: the soonest answers, and a user can tell from the time to
    /// the first token that somebody asked the like.
    #[default]
    All,
    /// One user's own.
    User,
    /// Nobody's.
    Off,
}

const fn streams() -> NonZeroUsize {
    NonZeroUsize::new(32).expect("32 is not 0")
}

fn threads() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

const fn queue() -> usize {
    64
}

const fn step_ms() -> u64 {
    100
}

const fn kv_mib() -> usize {
    512
}

fn auto() -> String {
    "auto".to_owned()
}

/// What a million tokens cost, in US dollars.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PriceConfig {
    /// Of the prompt.
    pub input_usd_per_million: f64,
    /// Of the answer.
    pub output_usd_per_million: f64,
}

impl NodeConfig {
    /// Checks every value and how they fit together, for this role.
    ///
    /// # Errors
    /// The key, its value and what is allowed.
    pub fn validate(&self, role: Role) -> Result<(), ConfigError> {
        match (role, &self.owner) {
            (Role::DeviceAgent, None) => {
                let allowed = "the user whose device this is: a device serves only its owner";
                return Err(ConfigError::value("owner", "absent", allowed));
            }
            (Role::EdgeNode, Some(owner)) => {
                let allowed = "absent: only a device agent has an owner";
                return Err(ConfigError::value("owner", owner, allowed));
            }
            _ => {}
        }
        if let Some(percent) = self.battery_percent {
            check("battery_percent", percent, 0..=100)?;
        }
        if self.engine.models.is_empty() {
            let allowed = "at least one model directory, such as models/brand-extractor";
            return Err(ConfigError::value("engine.models", "empty", allowed));
        }
        for entry in &self.engine.models {
            if let Some(Err(error)) = crate::remote::repository(entry) {
                let (entry, allowed) = (entry.display(), error.to_string());
                return Err(ConfigError::value("engine.models", entry, allowed));
            }
        }
        check("engine.streams", self.engine.streams.get(), 1..=1024)?;
        check("engine.threads", self.engine.threads.get(), 1..=256)?;
        check("engine.queue", self.engine.queue, 0..=10_000)?;
        check("engine.step_ms", self.engine.step_ms, 1..=10_000)?;
        check("engine.kv_mib", self.engine.kv_mib, 1..=1 << 20)?;
        check(
            "engine.models_mib",
            self.engine.models_mib.unwrap_or(1),
            1..=1 << 24,
        )?;
        for (user, weight) in &self.engine.user_weights {
            check(
                &format!("engine.user_weights.{user}"),
                *weight,
                0.01..=100.0,
            )?;
        }
        let prices = &self.prices;
        check(
            "prices.input_usd_per_million",
            prices.input_usd_per_million,
            0.0..=1e6,
        )?;
        check(
            "prices.output_usd_per_million",
            prices.output_usd_per_million,
            0.0..=1e6,
        )?;
        if self.require_ticket && self.gateway.is_none() {
            let allowed = "false, or a [gateway] whose tickets to check";
            return Err(ConfigError::value("require_ticket", true, allowed));
        }
        require_tls_off_loopback(
            "listen.api",
            self.listen.api,
            self.tls.is_some(),
            self.allow_plaintext,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: impl FnOnce(&mut NodeConfig)) -> NodeConfig {
        let mut config = NodeConfig {
            node: NodeId::new("edge-1").unwrap(),
            region: None,
            owner: None,
            battery_percent: None,
            allow_plaintext: false,
            advertise: None,
            default_user: None,
            default_policy: None,
            policies: None,
            require_ticket: false,
            listen: ListenConfig::default(),
            tls: None,
            gateway: None,
            engine: EngineConfig {
                models: vec!["models/brand-extractor".into()],
                streams: streams(),
                threads: threads(),
                queue: 32,
                step_ms: step_ms(),
                kv_mib: kv_mib(),
                models_mib: None,
                prefix_sharing: SharingConfig::All,
                kv_cache: KvCacheConfig::Auto,
                kernel: auto(),
                user_weights: BTreeMap::new(),
            },
            prices: PriceConfig::default(),
        };
        change(&mut config);
        config
    }

    fn refused(role: Role, change: impl FnOnce(&mut NodeConfig)) -> String {
        config(change).validate(role).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_key_the_value_and_what_is_allowed() {
        assert!(config(|_| {}).validate(Role::EdgeNode).is_ok());
        let ann = || Some(UserId::new("ann").unwrap());
        assert!(refused(Role::DeviceAgent, |_| {}).contains("`owner` is absent"));
        assert!(refused(Role::EdgeNode, |c| c.owner = ann()).contains("`owner` is ann"));
        assert!(refused(Role::EdgeNode, |c| c.engine.models.clear()).contains("engine.models"));
        assert!(refused(Role::EdgeNode, |c| c.engine.queue = 99_999).contains("0 to 10000"));
        let nan = |c: &mut NodeConfig| c.prices.input_usd_per_million = f64::NAN;
        assert!(refused(Role::EdgeNode, nan).contains("NaN"));
        let open = |c: &mut NodeConfig| c.listen.api = "0.0.0.0:8081".parse().unwrap();
        assert!(refused(Role::EdgeNode, open).contains("allow_plaintext"));
    }

    #[test]
    fn what_is_printed_reads_back() {
        let text = tiermesh_daemon::print(&config(|_| {}));
        let dir = std::env::temp_dir().join(format!("tiermesh-node-config-{}", std::process::id()));
        std::fs::write(&dir, &text).unwrap();
        let back: NodeConfig = tiermesh_daemon::load(&dir).unwrap();
        std::fs::remove_file(&dir).unwrap();
        assert_eq!(back, config(|_| {}));
    }
}
