//! The TOML form of policies, and its checks.

use super::tenants::{TenantEntry, tenants};
use super::{
    DeadlineRule, Hedge, MAX_POLICIES, MAX_POLICY_DEADLINE_MS, Metered, Policies, Policy,
    PolicyError, Preference, Weights,
};
use crate::plan::MAX_FALLBACKS;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{PolicyName, Privacy, Tier, Usd};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Option<String>,
    #[serde(default)]
    policy: BTreeMap<String, Entry>,
    #[serde(default)]
    tenants: BTreeMap<String, TenantEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    description: String,
    first_token_ms: Option<u64>,
    total_ms: Option<u64>,
    deadline: DeadlineRule,
    #[serde(default = "anywhere")]
    privacy: Privacy,
    #[serde(default)]
    least_quality: f32,
    max_cost_usd: Option<f64>,
    #[serde(default)]
    device_energy_usd_per_1k_tokens: f64,
    #[serde(default = "most_fallbacks")]
    fallbacks: usize,
    #[serde(default = "nearly_always")]
    sure: f64,
    least_chance: Option<f64>,
    #[serde(default)]
    explore: f64,
    #[serde(default)]
    complexity: f64,
    #[serde(default)]
    priority: u64,
    #[serde(default)]
    metered: Metered,
    hedge: Option<HedgeEntry>,
    weights: WeightsEntry,
    preference: PreferenceEntry,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HedgeEntry {
    #[serde(default = "yes")]
    enabled: bool,
    tiers: Vec<TierName>,
    max_share: f64,
    after_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum TierName {
    Device,
    Mec,
    Cloud,
}

impl From<TierName> for Tier {
    fn from(name: TierName) -> Self {
        match name {
            TierName::Device => Self::Device,
            TierName::Mec => Self::Mec,
            TierName::Cloud => Self::Cloud,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightsEntry {
    latency: f64,
    cost: f64,
    quality: f64,
    load: f64,
    energy: f64,
    preference: f64,
    #[serde(default)]
    affinity: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "UPPERCASE")]
struct PreferenceEntry {
    device: f64,
    mec: f64,
    cloud: f64,
}

const fn nearly_always() -> f64 {
    0.99
}

const fn yes() -> bool {
    true
}

const fn anywhere() -> Privacy {
    Privacy::Any
}

const fn most_fallbacks() -> usize {
    MAX_FALLBACKS
}

pub(super) fn parse(text: &str, base: Option<&Policies>) -> Result<Policies, PolicyError> {
    let file: File = toml::from_str(text).map_err(|e| PolicyError::Shape(Box::new(e)))?;
    let mut by_name = base.map_or_else(BTreeMap::new, |base| base.by_name.clone());
    for (name, entry) in file.policy {
        let name = PolicyName::new(name).map_err(PolicyError::Name)?;
        let policy = entry.checked(&name)?;
        by_name.insert(name, Arc::new(policy));
    }
    if by_name.is_empty() || by_name.len() > MAX_POLICIES {
        return Err(PolicyError::Count {
            count: by_name.len(),
        });
    }
    let wanted = file
        .default
        .or_else(|| base.map(|base| base.default.to_string()))
        .unwrap_or_default();
    match by_name.keys().find(|name| name.as_str() == wanted) {
        Some(default) => {
            let known = base.map(|base| base.tenants.clone());
            let tenants = tenants(known.unwrap_or_default(), file.tenants, &by_name)?;
            Ok(Policies {
                default: default.clone(),
                by_name,
                tenants,
            })
        }
        None => Err(PolicyError::Default {
            value: wanted,
            allowed: by_name
                .keys()
                .map(PolicyName::as_str)
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// Checks one policy's values, and names what does not fit.
struct Check<'a>(&'a PolicyName);

impl Check<'_> {
    fn refuse(
        &self,
        key: &'static str,
        value: impl ToString,
        allowed: impl ToString,
    ) -> PolicyError {
        PolicyError::Range {
            policy: self.0.to_string(),
            key,
            value: value.to_string(),
            allowed: allowed.to_string(),
        }
    }

    fn number(&self, key: &'static str, value: f64, most: f64) -> Result<f64, PolicyError> {
        if (0.0..=most).contains(&value) {
            return Ok(value);
        }
        Err(self.refuse(key, value, format_args!("0 to {most}")))
    }

    fn between(
        &self,
        key: &'static str,
        value: f64,
        least: f64,
        most: f64,
    ) -> Result<f64, PolicyError> {
        if (least..=most).contains(&value) {
            return Ok(value);
        }
        Err(self.refuse(key, value, format_args!("{least} to {most}")))
    }

    fn duration(
        &self,
        key: &'static str,
        ms: Option<u64>,
    ) -> Result<Option<Duration>, PolicyError> {
        match ms {
            Some(ms) if ms == 0 || ms > MAX_POLICY_DEADLINE_MS => {
                Err(self.refuse(key, ms, format_args!("1 to {MAX_POLICY_DEADLINE_MS}")))
            }
            ms => Ok(ms.map(Duration::from_millis)),
        }
    }

    fn money(&self, key: &'static str, dollars: f64) -> Result<Usd, PolicyError> {
        Usd::from_dollars(dollars)
            .ok_or_else(|| self.refuse(key, dollars, "0 to 1000000000 dollars"))
    }

    fn weights(&self, raw: &WeightsEntry) -> Result<Weights, PolicyError> {
        let number = |key, value| self.number(key, value, 1e6);
        let weights = Weights {
            latency: number("weights.latency", raw.latency)?,
            cost: number("weights.cost", raw.cost)?,
            quality: number("weights.quality", raw.quality)?,
            load: number("weights.load", raw.load)?,
            energy: number("weights.energy", raw.energy)?,
            preference: number("weights.preference", raw.preference)?,
            affinity: number("weights.affinity", raw.affinity)?,
        };
        let sum = weights.latency
            + weights.cost
            + weights.quality
            + weights.load
            + weights.energy
            + weights.preference
            + weights.affinity;
        if sum <= 0.0 {
            return Err(self.refuse("weights", "all 0", "at least one over 0"));
        }
        Ok(Weights {
            latency: weights.latency / sum,
            cost: weights.cost / sum,
            quality: weights.quality / sum,
            load: weights.load / sum,
            energy: weights.energy / sum,
            preference: weights.preference / sum,
            affinity: weights.affinity / sum,
        })
    }
}

impl HedgeEntry {
    fn checked(self, check: &Check<'_>) -> Result<Hedge, PolicyError> {
        if self.tiers.is_empty() {
            return Err(check.refuse("hedge.tiers", "[]", "at least one of DEVICE, MEC, CLOUD"));
        }
        Ok(Hedge {
            enabled: self.enabled,
            tiers: self.tiers.into_iter().map(Tier::from).collect(),
            max_share: check.between("hedge.max_share", self.max_share, 0.0, 1.0)?,
            after: check.duration("hedge.after_ms", self.after_ms)?,
        })
    }
}

impl Entry {
    fn checked(self, name: &PolicyName) -> Result<Policy, PolicyError> {
        let check = Check(name);
        check.number("least_quality", f64::from(self.least_quality), 1.0)?;
        if self.fallbacks > MAX_FALLBACKS {
            let allowed = format_args!("0 to {MAX_FALLBACKS}");
            return Err(check.refuse("fallbacks", self.fallbacks, allowed));
        }
        let first_token = check.duration("first_token_ms", self.first_token_ms)?;
        let total = check.duration("total_ms", self.total_ms)?;
        if let (Some(first), Some(total)) = (first_token, total)
            && first > total
        {
            return Err(check.refuse("first_token_ms", first.as_millis(), "at most `total_ms`"));
        }
        let energy = check.money(
            "device_energy_usd_per_1k_tokens",
            self.device_energy_usd_per_1k_tokens * 1_000.0,
        )?;
        let sure = check.between("sure", self.sure, 0.5, 0.999)?;
        let least_chance = match self.least_chance {
            Some(least) if least > sure => {
                return Err(check.refuse("least_chance", least, "at most `sure`"));
            }
            Some(least) => check.between("least_chance", least, 0.0, 0.999)?,
            None => sure,
        };
        let points = |key, value| check.number(key, value, 100.0);
        Ok(Policy {
            name: name.clone(),
            first_token,
            total,
            deadline: self.deadline,
            privacy: self.privacy,
            least_quality: self.least_quality,
            max_cost: self
                .max_cost_usd
                .map(|dollars| check.money("max_cost_usd", dollars))
                .transpose()?,
            sure,
            sure_z: crate::estimate::normal_quantile(sure),
            least_chance,
            explore: check.between("explore", self.explore, 0.0, 0.5)?,
            complexity: check.between("complexity", self.complexity, 0.0, 1.0)?,
            metered: self.metered,
            priority: u8::try_from(self.priority)
                .map_err(|_| check.refuse("priority", self.priority, "0 to 255"))?,
            hedge: self.hedge.map(|hedge| hedge.checked(&check)).transpose()?,
            device_energy_per_million: energy,
            fallbacks: self.fallbacks,
            weights: check.weights(&self.weights)?,
            preference: Preference {
                device: points("preference.DEVICE", self.preference.device)?,
                mec: points("preference.MEC", self.preference.mec)?,
                cloud: points("preference.CLOUD", self.preference.cloud)?,
            },
            description: self.description,
        })
    }
}
