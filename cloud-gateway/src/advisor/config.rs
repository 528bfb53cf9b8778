//! `[advisor]` of the gateway's configuration.

use super::asks::Role;
use serde::{Deserialize, Serialize};
use tiermesh_bedrock::{BedrockConfig, BedrockModel};
use tiermesh_core::{ModelId, NodeId, Usd};
use tiermesh_daemon::{ConfigError, check};

/// Which models are asked about requests before they are decided, and within
/// which bounds. They are asked where `[bedrock]` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdvisorConfig {
    /// Milliseconds a look may take.
    #[serde(default = "timeout")]
    pub timeout_ms: u64,
    /// A look is taken only if the deadline is at least so many times longer.
    #[serde(default = "room")]
    pub room: u32,
    /// Prompts of which is remembered what was said.
    #[serde(default = "cache")]
    pub cache: u32,
    /// Dollars it may spend in an hour.
    pub max_usd_per_hour: f64,
    /// How long a model that keeps failing is left alone, in milliseconds.
    #[serde(default = "breaker_open")]
    pub breaker_open_ms: u64,
    /// Questions at once.
    #[serde(default = "max_streams")]
    pub max_streams: u32,
    /// Says what kind of request it is; Nova Micro does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<BedrockModel>,
    /// Says how hard it is; Nova Lite does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complexity: Option<BedrockModel>,
    /// Ranks the tiers with reasons; Nova Pro does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<BedrockModel>,
}

const fn timeout() -> u64 {
    1_000
}

const fn room() -> u32 {
    5
}

const fn cache() -> u32 {
    4_096
}

const fn breaker_open() -> u64 {
    60_000
}

const fn max_streams() -> u32 {
    16
}

impl AdvisorConfig {
    fn named(&self) -> [(&'static str, Role, Option<&BedrockModel>); 3] {
        [
            ("class", Role::Class, self.class.as_ref()),
            ("complexity", Role::Complexity, self.complexity.as_ref()),
            ("plan", Role::Plan, self.plan.as_ref()),
        ]
    }

    pub(super) fn roles(&self) -> Vec<(Role, ModelId)> {
        let named = self.named().into_iter();
        named
            .filter_map(|(_, role, model)| Some((role, model?.id.clone())))
            .collect()
    }

    /// A client of the advisor's own models, where the cloud tier's is.
    pub(crate) fn client(&self, cloud: &BedrockConfig) -> BedrockConfig {
        let node = NodeId::new(format!("{}-advisor", cloud.node));
        let models = self.named().into_iter();
        BedrockConfig {
            node: node.unwrap_or_else(|_| cloud.node.clone()),
            idle_timeout_ms: self.timeout_ms,
            max_streams: self.max_streams,
            models: models.filter_map(|(_, _, model)| model.cloned()).collect(),
            ..cloud.clone()
        }
    }

    /// Checks every value, and that there is somewhere to ask.
    ///
    /// # Errors
    /// The key, its value and what is allowed.
    pub fn validate(&self, cloud: Option<&BedrockConfig>) -> Result<(), ConfigError> {
        check("advisor.timeout_ms", self.timeout_ms, 10..=60_000)?;
        check("advisor.room", self.room, 1..=1_000)?;
        check("advisor.cache", self.cache, 1..=1_000_000)?;
        check(
            "advisor.breaker_open_ms",
            self.breaker_open_ms,
            100..=3_600_000,
        )?;
        check("advisor.max_streams", self.max_streams, 1..=1_000)?;
        if Usd::from_dollars(self.max_usd_per_hour).is_none() {
            let allowed = "dollars, 0 to 1000000000";
            let value = self.max_usd_per_hour;
            return Err(ConfigError::value(
                "advisor.max_usd_per_hour",
                value,
                allowed,
            ));
        }
        let Some(cloud) = cloud else {
            let allowed = "absent without [bedrock], which says where to ask";
            return Err(ConfigError::value("advisor", "there", allowed));
        };
        if self.roles().is_empty() {
            let allowed = "at least one of [advisor.class], [advisor.complexity], [advisor.plan]";
            return Err(ConfigError::value("advisor", "without a model", allowed));
        }
        self.client(cloud).validate().map_err(|error| {
            ConfigError::value(
                format!("advisor: {}", error.key),
                error.value,
                error.allowed,
            )
        })
    }
}
