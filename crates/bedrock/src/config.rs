//! What the cloud tier is told: where Bedrock is, and what its models cost.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;
use tiermesh_core::{ModelId, ModelOffer, NodeId, Task, Usd};

/// The longest model id Bedrock accepts, in bytes; an ARN is one.
const MAX_BEDROCK_ID_BYTES: usize = 2048;
/// The most models one cloud tier offers.
const MAX_MODELS: usize = 64;

/// The cloud tier's configuration. Credentials are not in it: they come by the
/// SDK's usual chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BedrockConfig {
    /// The node's name in decisions and reports.
    pub node: NodeId,
    /// The AWS region; the SDK's usual chain finds it when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Where to send requests. When absent, the region's public endpoint, and
    /// never what `AWS_ENDPOINT_URL` says: an application's variable that
    /// points at the mesh must not make the mesh call itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_url: Option<String>,
    /// A stream that sends nothing for this long has stalled. Milliseconds.
    pub idle_timeout_ms: u64,
    /// Bound on TCP and TLS together. Milliseconds.
    pub connect_timeout_ms: u64,
    /// Bound on finding credentials at start. Milliseconds.
    pub credentials_timeout_ms: u64,
    /// The most answers in flight at once.
    pub max_streams: u32,
    /// What is offered, first choice first.
    pub models: Vec<BedrockModel>,
}

impl Default for BedrockConfig {
    fn default() -> Self {
        Self {
            node: NodeId::new("bedrock").expect("a constant name that is valid"),
            region: None,
            endpoint_url: None,
            idle_timeout_ms: 15_000,
            connect_timeout_ms: 3_000,
            credentials_timeout_ms: 5_000,
            max_streams: 64,
            models: Vec::new(),
        }
    }
}

/// One model of Bedrock as the mesh offers it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BedrockModel {
    /// Its name in the mesh.
    pub id: ModelId,
    /// Its family in the mesh.
    pub family: String,
    /// Its name at Bedrock: a model id, an inference profile or an ARN.
    pub model_id: String,
    /// Prompt and answer together, in tokens.
    pub context_tokens: u32,
    /// Quality at its job, 0 to 1.
    pub quality: f32,
    /// Dollars for a million prompt tokens.
    pub input_usd_per_million: f64,
    /// Dollars for a million answer tokens.
    pub output_usd_per_million: f64,
    /// The day the prices were read, `YYYY-MM-DD`.
    pub priced_on: String,
    /// Milliseconds to the first token until enough answers were measured.
    #[serde(default = "first_token_prior")]
    pub first_token_ms: f32,
    /// Answer tokens a second until enough answers were measured.
    #[serde(default = "decode_prior")]
    pub decode_tok_s: f32,
    /// Whether it goes on from an assistant's text, so that it can take over
    /// an answer that broke elsewhere. When absent, its name tells: Anthropic's
    /// and Amazon's Nova do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assistant_prefill: Option<bool>,
}

const fn first_token_prior() -> f32 {
    600.0
}

const fn decode_prior() -> f32 {
    60.0
}

/// A value the cloud tier's configuration may not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` is {value}: {allowed}")]
pub struct ConfigError {
    /// The key, relative to the cloud tier's table.
    pub key: String,
    /// What it holds.
    pub value: String,
    /// What it may hold.
    pub allowed: String,
}

impl ConfigError {
    pub(crate) fn new(
        key: impl Into<String>,
        value: impl ToString,
        allowed: impl Into<String>,
    ) -> Self {
        let shown: String = value.to_string().chars().take(80).collect();
        Self {
            key: key.into(),
            value: shown.escape_debug().to_string(),
            allowed: allowed.into(),
        }
    }
}

impl BedrockConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The first that does not fit, with what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        within("idle_timeout_ms", self.idle_timeout_ms, 10..=600_000)?;
        within("connect_timeout_ms", self.connect_timeout_ms, 10..=60_000)?;
        let bound = self.credentials_timeout_ms;
        within("credentials_timeout_ms", bound, 10..=60_000)?;
        within("max_streams", u64::from(self.max_streams), 1..=10_000)?;
        if let Some(region) = &self.region {
            check_region(region)?;
        }
        if let Some(url) = &self.endpoint_url {
            check_endpoint(url)?;
        }
        if self.models.is_empty() || self.models.len() > MAX_MODELS {
            let found = format!("{} models", self.models.len());
            return Err(ConfigError::new("models", found, "1 to 64 models"));
        }
        let mut ids = BTreeSet::new();
        for (at, model) in self.models.iter().enumerate() {
            model.validate(&format!("models[{at}]"))?;
            if !ids.insert(&model.id) {
                let key = format!("models[{at}].id");
                return Err(ConfigError::new(key, &model.id, "a name no other has"));
            }
        }
        Ok(())
    }

    pub(crate) const fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    pub(crate) const fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) const fn credentials_timeout(&self) -> Duration {
        Duration::from_millis(self.credentials_timeout_ms)
    }
}

impl BedrockModel {
    /// What the mesh offers of it. Amounts that are not money count as
    /// nothing; [`BedrockConfig::validate`] refuses them beforehand.
    #[must_use]
    pub fn offer(&self) -> ModelOffer {
        ModelOffer {
            id: self.id.clone(),
            family: self.family.clone(),
            digest: None,
            numerics_id: None,
            tasks: vec![Task::Generate, Task::Chat],
            context_tokens: self.context_tokens,
            quality: self.quality,
            input_per_million: Usd::from_dollars(self.input_usd_per_million).unwrap_or_default(),
            output_per_million: Usd::from_dollars(self.output_usd_per_million).unwrap_or_default(),
        }
    }

    fn validate(&self, at: &str) -> Result<(), ConfigError> {
        let wrong = |key: &str, value: String, allowed: &str| {
            Err(ConfigError::new(format!("{at}.{key}"), value, allowed))
        };
        if self.family.is_empty() || self.family.len() > tiermesh_core::id::MAX_NAME_BYTES {
            return wrong("family", self.family.clone(), "a name of 1 to 200 bytes");
        }
        let id = &self.model_id;
        if id.is_empty()
            || id.len() > MAX_BEDROCK_ID_BYTES
            || !id.bytes().all(|b| b.is_ascii_graphic())
        {
            let allowed = "a Bedrock model id such as `amazon.nova-lite-v1:0`, or an ARN";
            return wrong("model_id", id.clone(), allowed);
        }
        if self.context_tokens == 0 {
            return wrong("context_tokens", "0".into(), "at least 1");
        }
        if !(0.0..=1.0).contains(&self.quality) {
            return wrong("quality", self.quality.to_string(), "0 to 1");
        }
        let prices = [
            ("input_usd_per_million", self.input_usd_per_million),
            ("output_usd_per_million", self.output_usd_per_million),
        ];
        for (key, price) in prices {
            if Usd::from_dollars(price).is_none() {
                return wrong(key, price.to_string(), "dollars, 0 to 1000000000");
            }
        }
        if !is_date(&self.priced_on) {
            let allowed = "the day the prices were read, YYYY-MM-DD";
            return wrong("priced_on", self.priced_on.clone(), allowed);
        }
        if !(1.0..=60_000.0).contains(&self.first_token_ms) {
            let shown = self.first_token_ms.to_string();
            return wrong("first_token_ms", shown, "1 to 60000");
        }
        if !(0.1..=100_000.0).contains(&self.decode_tok_s) {
            let shown = self.decode_tok_s.to_string();
            return wrong("decode_tok_s", shown, "0.1 to 100000");
        }
        Ok(())
    }
}

fn within(key: &str, value: u64, allowed: RangeInclusive<u64>) -> Result<(), ConfigError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let range = format!("{} to {}", allowed.start(), allowed.end());
    Err(ConfigError::new(key, value, range))
}

/// The region becomes part of a host name, so it holds nothing else.
pub(crate) fn check_region(region: &str) -> Result<(), ConfigError> {
    let good = (1..=63).contains(&region.len())
        && region
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if good {
        return Ok(());
    }
    let allowed = "a region such as `us-east-1`: 1 to 63 of a-z 0-9 -";
    Err(ConfigError::new("region", region, allowed))
}

fn check_endpoint(url: &str) -> Result<(), ConfigError> {
    let allowed = "https://HOST[:PORT], or http:// to a loopback address";
    let wrong = || ConfigError::new("endpoint_url", url, allowed);
    let uri: http::Uri = url.parse().map_err(|_| wrong())?;
    let host = uri.host().ok_or_else(wrong)?;
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if is_loopback(host) => Ok(()),
        _ => Err(wrong()),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else {
        return false;
    };
    let number = |part: &str, digits: usize| -> Option<u32> {
        let good = part.len() == digits && part.bytes().all(|b| b.is_ascii_digit());
        good.then(|| part.parse().ok()).flatten()
    };
    number(year, 4).is_some_and(|y| y >= 2000)
        && number(month, 2).is_some_and(|m| (1..=12).contains(&m))
        && number(day, 2).is_some_and(|d| (1..=31).contains(&d))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        region = "us-east-1"
        [[models]]
        id = "nova-lite"
        family = "nova"
        model_id = "amazon.nova-lite-v1:0"
        context_tokens = 300000
        quality = 0.8
        input_usd_per_million = 0.06
        output_usd_per_million = 0.24
        priced_on = "2026-11-20"
    "#;

    fn parse(text: &str) -> BedrockConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_short_configuration_is_enough() {
        let config = parse(GOOD);
        config.validate().unwrap();
        assert_eq!(config.node.as_str(), "bedrock");
        let offer = config.models[0].offer();
        assert_eq!(offer.input_per_million, Usd::from_dollars(0.06).unwrap());
    }

    #[test]
    fn errors_name_the_key_the_value_and_what_is_allowed() {
        let cases = [
            ("max_streams", "max_streams = 0\n", ""),
            ("idle_timeout_ms", "idle_timeout_ms = 1\n", ""),
            (
                "endpoint_url",
                "endpoint_url = \"http://example.com\"\n",
                "",
            ),
            ("endpoint_url", "endpoint_url = \"nonsense\"\n", ""),
            ("models[0].priced_on", "", "2026-13-20"),
            ("models[0].priced_on", "", "yesterday"),
        ];
        for (key, before, date) in cases {
            let text = format!("{before}{GOOD}");
            let text = match date {
                "" => text,
                date => text.replace("2026-11-20", date),
            };
            let error = parse(&text).validate().unwrap_err();
            assert_eq!(error.key, key, "{error}");
            assert!(!error.value.is_empty() && !error.allowed.is_empty());
        }
        let text = GOOD.replace("us-east-1", "us-east-1.evil.example/");
        assert_eq!(parse(&text).validate().unwrap_err().key, "region");
        assert_eq!(
            BedrockConfig::default().validate().unwrap_err().key,
            "models"
        );
    }

    #[test]
    fn a_key_that_does_not_exist_is_refused() {
        let text = format!("idle_timeout = 3\n{GOOD}");
        let error = toml::from_str::<BedrockConfig>(&text).unwrap_err();
        assert!(error.to_string().contains("idle_timeout"), "{error}");
    }

    #[test]
    fn the_name_of_a_model_is_given_once() {
        let mut config = parse(GOOD);
        config.models.push(config.models[0].clone());
        assert_eq!(config.validate().unwrap_err().key, "models[1].id");
    }
}
