//! Who may call, what they may spend, and how they come back, as the
//! configuration has it.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::id::MAX_NAME_BYTES;
use tiermesh_core::{Usd, UserId};
use tiermesh_daemon::{ConfigError, check};
use tiermesh_frontdoor::{DoorOptions, Holder, Keys, ReplayBounds};
use tiermesh_identity::{KeyDigest, ResumeSigner, SecretError, read_secret};
use tiermesh_router::{BudgetLimits, Window};

/// The most API keys of one gateway.
const MAX_KEYS: usize = 10_000;
/// The longest window: a leap year.
const MAX_WINDOW_S: u64 = 366 * 24 * 3600;
/// The most money a key may name.
const MAX_USD: f64 = 1e9;

/// An API key. The gateway knows its digest, and never the key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// What it is called in refusals and accounts.
    pub name: String,
    /// `sha256:` and 64 hexadecimal digits, as `tiermesh key` prints it.
    pub digest: KeyDigest,
    /// The customer it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The only user who asks with it. Without one its holder names users
    /// itself, and is believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// Whether its holder may list the nodes and tell them to load models.
    #[serde(default)]
    pub operator: bool,
    /// What may be spent with it, in place of `budgets.key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<WindowConfig>,
}

/// An amount of money in a time. Windows follow each other from the gateway's
/// start; each gateway counts what passes it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowConfig {
    /// The most, in US dollars.
    pub usd: f64,
    /// In so many seconds.
    pub per_s: u64,
}

/// How clients go on with answers whose connection they lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResumeConfig {
    /// A file with 64 hexadecimal digits that others cannot read, the same for
    /// every gateway whose clients may come back to any of them. Without it a
    /// token is good at the gateway that gave it, until that ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// How long a token is good for, in seconds.
    pub good_for_s: u64,
    /// Kibibytes that are kept of what each answer said last; 0 keeps nothing.
    pub replay_kib: usize,
    /// Kibibytes that are kept of all answers together.
    pub replay_all_kib: usize,
    /// Seconds that they are kept after the answer or its connection ended.
    pub replay_s: u64,
}

impl Default for ResumeConfig {
    fn default() -> Self {
        Self {
            key: None,
            good_for_s: 900,
            replay_kib: 64,
            replay_all_kib: 32 * 1024,
            replay_s: 30,
        }
    }
}

impl ResumeConfig {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        check("resume.good_for_s", self.good_for_s, 1..=86_400)?;
        check("resume.replay_kib", self.replay_kib, 0..=16 * 1024)?;
        let all = self.replay_kib..=64 * 1024 * 1024;
        check("resume.replay_all_kib", self.replay_all_kib, all)?;
        check("resume.replay_s", self.replay_s, 1..=600)
    }

    /// Puts it into a door.
    ///
    /// # Errors
    /// When the key's file does not hold one that others cannot read.
    pub(crate) fn apply(&self, options: &mut DoorOptions) -> Result<(), SecretError> {
        if let Some(path) = &self.key {
            let signer = ResumeSigner::from_secret(&read_secret(path)?);
            options.resume = Some(Arc::new(signer));
        }
        options.resume_for = Duration::from_secs(self.good_for_s);
        options.replay = ReplayBounds {
            stream_bytes: self.replay_kib << 10,
            all_bytes: self.replay_all_kib << 10,
            kept: Duration::from_secs(self.replay_s),
        };
        Ok(())
    }
}

/// What answers may cost, and whom. Absent ones bind nobody.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetsConfig {
    /// The most one request may cost, in US dollars, whatever it asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_usd: Option<f64>,
    /// Every user's. Users of two tenants are two, whatever their names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<WindowConfig>,
    /// Every API key's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<WindowConfig>,
    /// Every tenant's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<WindowConfig>,
    /// Users by name, in place of every user's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<UserId, WindowConfig>,
    /// Tenants by name, in place of every tenant's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tenants: BTreeMap<String, WindowConfig>,
}

impl BudgetsConfig {
    /// Nothing is bound.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn validate(&self, keys: &[KeyConfig]) -> Result<(), ConfigError> {
        if let Some(usd) = self.request_usd {
            check("budgets.request_usd", usd, 0.0..=MAX_USD)?;
        }
        let every = [
            ("user", self.user),
            ("key", self.key),
            ("tenant", self.tenant),
        ];
        for (name, window) in every {
            window.map_or(Ok(()), |w| w.validate(&format!("budgets.{name}")))?;
        }
        for (user, window) in &self.users {
            window.validate(&format!("budgets.users.{user}"))?;
        }
        for (tenant, window) in &self.tenants {
            let key = format!("budgets.tenants.{tenant}");
            window.validate(&key)?;
            if !keys.iter().any(|key| key.tenant.as_ref() == Some(tenant)) {
                let allowed = "the `tenant` of one of [[keys]]";
                return Err(ConfigError::value(key, "set", allowed));
            }
        }
        Ok(())
    }

    /// The most one request may cost.
    pub(crate) fn of_a_request(&self) -> Option<Usd> {
        self.request_usd.and_then(Usd::from_dollars)
    }

    /// As the ledger holds them.
    pub(crate) fn limits(&self, keys: &[KeyConfig]) -> BudgetLimits {
        let own = |key: &KeyConfig| Some((key.name.clone(), key.budget?.window()));
        let windows = |(name, window): (String, &WindowConfig)| (name, window.window());
        let users = self.users.iter().map(|(user, w)| (user.to_string(), w));
        let tenants = self.tenants.iter().map(|(tenant, w)| (tenant.clone(), w));
        BudgetLimits {
            user: self.user.map(WindowConfig::window),
            key: self.key.map(WindowConfig::window),
            tenant: self.tenant.map(WindowConfig::window),
            users: users.map(windows).collect(),
            keys: keys.iter().filter_map(own).collect(),
            tenants: tenants.map(windows).collect(),
        }
    }
}

impl WindowConfig {
    fn validate(self, key: &str) -> Result<(), ConfigError> {
        check(&format!("{key}.usd"), self.usd, 0.0..=MAX_USD)?;
        check(&format!("{key}.per_s"), self.per_s, 1..=MAX_WINDOW_S)
    }

    fn window(self) -> Window {
        Window {
            most: Usd::from_dollars(self.usd).unwrap_or_default(),
            per: Duration::from_secs(self.per_s),
        }
    }
}

/// Checks every key and that no two are one.
pub(crate) fn validate(keys: &[KeyConfig]) -> Result<(), ConfigError> {
    check("keys", keys.len(), 0..=MAX_KEYS)?;
    let (mut names, mut digests) = (BTreeSet::new(), BTreeSet::new());
    for (at, key) in keys.iter().enumerate() {
        let of = |field: &str| format!("keys[{at}].{field}");
        name(&of("name"), &key.name)?;
        if let Some(tenant) = &key.tenant {
            name(&of("tenant"), tenant)?;
        }
        if let Some(budget) = key.budget {
            budget.validate(&of("budget"))?;
        }
        if !names.insert(&key.name) {
            let allowed = "a name that no other key has";
            return Err(ConfigError::value(of("name"), &key.name, allowed));
        }
        if !digests.insert(key.digest) {
            let allowed = "the digest of a key that is configured once";
            return Err(ConfigError::value(of("digest"), key.digest, allowed));
        }
    }
    Ok(())
}

fn name(key: &str, name: &str) -> Result<(), ConfigError> {
    // Names of keys and tenants are of the form all names have.
    UserId::new(name).map(drop).map_err(|error| {
        let allowed = format!("1 to {MAX_NAME_BYTES} characters of A-Z a-z 0-9 . _ : / @ + -");
        ConfigError::value(key, format!("`{}`", error.value), allowed)
    })
}

/// What the door checks callers with; none where everybody may call.
pub(crate) fn keys(keys: &[KeyConfig]) -> Option<Keys> {
    let holder = |key: &KeyConfig| Holder {
        name: key.name.clone(),
        tenant: key.tenant.clone(),
        user: key.user.clone(),
        operator: key.operator,
    };
    let entries = keys.iter().map(|key| (key.digest, holder(key)));
    (!keys.is_empty()).then(|| Keys::new(entries))
}
