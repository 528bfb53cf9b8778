//! The gateway's configuration.

use crate::accounts::{self, BudgetsConfig, KeyConfig, ResumeConfig};
use crate::advisor::AdvisorConfig;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use tiermesh_bedrock::BedrockConfig;
use tiermesh_core::{NodeId, PolicyName, Region, UserId};
use tiermesh_daemon::{ConfigError, DecisionsConfig, TlsPaths, check, require_tls_off_loopback};

/// The gateway's configuration, as its TOML file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Its id, as its certificate has it.
    pub node: NodeId,
    /// Its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// Allows the client API off loopback without TLS.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// The user of requests that name none; `anonymous` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_user: Option<UserId>,
    /// The policy of requests that name none; the policies' own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_policy: Option<PolicyName>,
    /// A TOML file of policies that extend or replace the built-in ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies: Option<PathBuf>,
    /// `[bedrock]` names a local stand-in: no AWS credentials are looked for,
    /// and none are sent to it.
    #[serde(default)]
    pub cloud_standin: bool,
    /// How long a ticket from `Locate` is good for, in seconds.
    #[serde(default = "ticket_ttl")]
    pub ticket_ttl_s: u64,
    /// How long a breaker stays open, in milliseconds, give or take a tenth.
    #[serde(default = "breaker_open")]
    pub breaker_open_ms: u64,
    /// Addresses to listen on.
    #[serde(default)]
    pub listen: ListenConfig,
    /// The door's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsPaths>,
    /// The link's identity and bounds.
    pub link: LinkConfig,
    /// The API keys that callers have to bring; without any, everybody may
    /// call and is taken at their word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyConfig>,
    /// What answers may cost, and whom.
    #[serde(default, skip_serializing_if = "BudgetsConfig::is_empty")]
    pub budgets: BudgetsConfig,
    /// How clients go on with answers whose connection they lost.
    #[serde(default)]
    pub resume: ResumeConfig,
    /// The cloud tier; without it the mesh is device and edge alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bedrock: Option<BedrockConfig>,
    /// Models that are asked how hard requests are; without it their length
    /// tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advisor: Option<AdvisorConfig>,
    /// Where decisions are recorded; without it they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decisions: Option<DecisionsConfig>,
}

const fn breaker_open() -> u64 {
    60_000
}

const fn ticket_ttl() -> u64 {
    300
}

/// Addresses to listen on; port 0 picks one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenConfig {
    /// The client API, gRPC and HTTP.
    pub api: SocketAddr,
    /// Where nodes dial, UDP.
    pub link: SocketAddr,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            api: SocketAddr::from(([127, 0, 0, 1], 8080)),
            link: SocketAddr::from(([127, 0, 0, 1], 4433)),
        }
    }
}

/// What links are authenticated with, and how much is asked of nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The gateway's certificate.
    pub certificate: PathBuf,
    /// The gateway's private key.
    pub key: PathBuf,
    /// Streams asked for from each node at first.
    #[serde(default = "credits_want")]
    pub credits_want: u32,
    /// And at most.
    #[serde(default = "credits_max")]
    pub credits_max: u32,
}

const fn credits_want() -> u32 {
    16
}

const fn credits_max() -> u32 {
    256
}

impl GatewayConfig {
    /// Checks every value and how they fit together.
    ///
    /// # Errors
    /// The key, its value and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check("ticket_ttl_s", self.ticket_ttl_s, 1..=86_400)?;
        check("breaker_open_ms", self.breaker_open_ms, 100..=3_600_000)?;
        check("link.credits_max", self.link.credits_max, 1..=256)?;
        check(
            "link.credits_want",
            self.link.credits_want,
            1..=self.link.credits_max,
        )?;
        if let Some(advisor) = &self.advisor {
            advisor.validate(self.bedrock.as_ref())?;
        }
        if let Some(decisions) = &self.decisions {
            decisions.validate()?;
        }
        accounts::validate(&self.keys)?;
        self.budgets.validate(&self.keys)?;
        self.resume.validate()?;
        if let Some(bedrock) = &self.bedrock {
            bedrock.validate().map_err(|error| {
                ConfigError::value(format!("bedrock.{}", error.key), error.value, error.allowed)
            })?;
            if bedrock.node == self.node {
                let allowed = "another name than the gateway's own";
                return Err(ConfigError::value("bedrock.node", &bedrock.node, allowed));
            }
        }
        if self.cloud_standin
            && self
                .bedrock
                .as_ref()
                .is_none_or(|b| b.endpoint_url.is_none())
        {
            let allowed = "false, or a [bedrock] with the stand-in's endpoint_url";
            return Err(ConfigError::value("cloud_standin", true, allowed));
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

    fn refused(text: &str) -> String {
        let dir = std::env::temp_dir().join(format!(
            "tiermesh-gateway-config-{}-{}",
            std::process::id(),
            text.len()
        ));
        let base = "node = 'gw'\n";
        let link = "\n[link]\nca = 'a'\ncertificate = 'b'\nkey = 'c'\n";
        let (top, rest) = text.split_once('|').unwrap_or((text, ""));
        std::fs::write(&dir, format!("{base}{top}{link}{rest}")).unwrap();
        let loaded: Result<GatewayConfig, _> = tiermesh_daemon::load(&dir);
        std::fs::remove_file(&dir).unwrap();
        loaded
            .and_then(|config| config.validate())
            .map_or_else(|error| error.to_string(), |()| "accepted".into())
    }

    #[test]
    fn what_is_printed_reads_back_with_keys_and_budgets() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let text = format!(
            "node = 'gw'\n[link]\nca = 'a'\ncertificate = 'b'\nkey = 'c'\n\
             [[keys]]\nname = 'web'\ndigest = '{digest}'\ntenant = 'acme'\n\
             budget = {{ usd = 20.0, per_s = 86400 }}\n\
             [budgets]\nrequest_usd = 0.05\nuser = {{ usd = 1.0, per_s = 3600 }}\n\
             [budgets.users]\nann = {{ usd = 2.0, per_s = 3600 }}\n\
             [budgets.tenants]\nacme = {{ usd = 500.0, per_s = 2592000 }}\n\
             [resume]\nkey = 'resume.key'\nreplay_s = 5\n"
        );
        let config: GatewayConfig = toml::from_str(&text).unwrap();
        config.validate().unwrap();
        let limits = config.budgets.limits(&config.keys);
        assert_eq!(limits.keys["web"].per.as_secs(), 86_400);
        assert_eq!(limits.tenants["acme"].most.as_dollars(), 500.0);
        assert_eq!(limits.users["ann"].most.as_dollars(), 2.0);
        let printed = tiermesh_daemon::print(&config);
        let again: GatewayConfig = toml::from_str(&printed).unwrap();
        assert_eq!(again, config, "{printed}");
    }

    #[test]
    fn errors_name_the_key_the_value_and_what_is_allowed() {
        assert_eq!(refused(""), "accepted");
        assert!(refused("ticket_ttl_s = 0").contains("`ticket_ttl_s` is 0: 1 to 86400"));
        assert!(refused("colour = 'red'").contains("colour"));
        let digest = format!("digest = 'sha256:{}'\n", "ab".repeat(32));
        let key = |rest: &str| refused(&format!("|[[keys]]\nname = 'web'\n{digest}{rest}"));
        assert_eq!(key("tenant = 'acme'\nuser = 'ann'"), "accepted");
        assert!(key("tenant = 'a b'").contains("`keys[0].tenant` is `a b`"));
        assert!(key("secret = 'x'").contains("secret"));
        let twice = key(&format!("[[keys]]\nname = 'app'\n{digest}"));
        assert!(twice.contains("keys[1].digest"), "{twice}");
        let plain = refused("|[[keys]]\nname = 'web'\ndigest = 'hunter2'");
        assert!(plain.contains("64 hexadecimal digits"), "{plain}");
        let budget = |text: &str| refused(&format!("|[budgets]\n{text}"));
        assert_eq!(budget("user = { usd = 0.5, per_s = 60 }"), "accepted");
        assert!(budget("key = { usd = -1.0, per_s = 60 }").contains("`budgets.key.usd` is -1"));
        assert!(budget("key = { usd = nan, per_s = 60 }").contains("NaN"));
        assert!(budget("user = { usd = 1.0, per_s = 0 }").contains("`budgets.user.per_s` is 0"));
        assert!(budget("request_usd = -0.1").contains("budgets.request_usd"));
        assert!(refused("|[resume]\nreplay_s = 0").contains("`resume.replay_s` is 0: 1 to 600"));
        let little = refused("|[resume]\nreplay_all_kib = 1");
        assert!(
            little.contains("`resume.replay_all_kib` is 1: 64 to"),
            "{little}"
        );
        let nobodys = budget("tenants = { acne = { usd = 1.0, per_s = 60 } }");
        assert!(nobodys.contains("`budgets.tenants.acne`"), "{nobodys}");
        assert!(refused("|credits_want = 9000").contains("link.credits_want"));
        let never = refused("|[decisions]\nfile = 'd.jsonl'\nmax_mib = 0");
        assert!(never.contains("`decisions.max_mib` is 0"), "{never}");
        let nowhere = refused("|[advisor]\nmax_usd_per_hour = 1.0");
        assert!(nowhere.contains("[bedrock]"), "{nowhere}");
        let own_name = refused(
            "|[bedrock]\nnode = 'gw'\nregion = 'us-east-1'\n[[bedrock.models]]\nid = 'm'\nfamily = 'f'\nmodel_id = 'x.y'\ncontext_tokens = 1000\nquality = 0.5\ninput_usd_per_million = 1.0\noutput_usd_per_million = 1.0\npriced_on = '2026-11-20'",
        );
        assert!(own_name.contains("bedrock.node"), "{own_name}");
    }
}
