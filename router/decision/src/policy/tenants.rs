//! Whose requests run under which policies.

use super::{Policies, Policy, PolicyError};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tiermesh_core::{ErrorClass, InferError, PolicyName};

/// The most tenants a set knows.
const MAX_TENANTS: usize = 4_096;
/// The longest tenant's name, in bytes: as it travels with requests.
const MAX_NAME: usize = 200;

/// What one tenant's requests run under.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    /// The policy of its requests that name none.
    pub default: PolicyName,
    /// The policies it may name; all when none is listed.
    pub may_use: Option<BTreeSet<PolicyName>>,
}

/// `[tenants.NAME]` of a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantEntry {
    default: String,
    may_use: Option<Vec<String>>,
}

impl Policies {
    /// What is said of a tenant; none where nothing is.
    #[must_use]
    pub fn tenant(&self, name: &str) -> Option<&Tenant> {
        self.tenants.get(name)
    }

    /// The policy for a request of a tenant that names none; none where nothing
    /// is said of the tenant.
    #[must_use]
    pub fn default_for(&self, tenant: Option<&str>) -> Option<&PolicyName> {
        Some(&self.tenant(tenant?)?.default)
    }

    /// The policy of that name, if the tenant may name it. Whoever is no tenant
    /// that anything is said of may name any.
    ///
    /// # Errors
    /// `POLICY_NOT_FOUND` or `POLICY_NOT_ALLOWED`, naming the value and the
    /// allowed ones.
    pub fn permitted(
        &self,
        name: &PolicyName,
        tenant: Option<&str>,
    ) -> Result<&Arc<Policy>, InferError> {
        let limited = tenant.and_then(|tenant| self.tenant(tenant));
        let Some(allowed) = limited.and_then(|limited| limited.may_use.as_ref()) else {
            return self.require(name);
        };
        if let Some(policy) = self.get(name).filter(|_| allowed.contains(name)) {
            return Ok(policy);
        }
        let allowed: Vec<_> = allowed.iter().map(PolicyName::as_str).collect();
        let allowed = allowed.join(", ");
        Err(InferError::new(
            ErrorClass::Forbidden,
            "POLICY_NOT_ALLOWED",
            format!("policy `{name}` is not for this tenant: use one of {allowed}"),
        )
        .with("policy", name.as_str())
        .with("allowed", allowed))
    }
}

/// The tenants known before, with a file's added or replaced by name.
pub(super) fn tenants(
    mut known: BTreeMap<String, Tenant>,
    entries: BTreeMap<String, TenantEntry>,
    policies: &BTreeMap<PolicyName, Arc<Policy>>,
) -> Result<BTreeMap<String, Tenant>, PolicyError> {
    for (name, entry) in entries {
        let tenant = entry.checked(&name, policies)?;
        known.insert(name, tenant);
    }
    if known.len() > MAX_TENANTS {
        return Err(PolicyError::Tenant {
            tenant: known.keys().next_back().cloned().unwrap_or_default(),
            key: "tenants",
            value: format!("one of {}", known.len()),
            allowed: format!("at most {MAX_TENANTS}"),
        });
    }
    Ok(known)
}

impl TenantEntry {
    fn checked(
        self,
        tenant: &str,
        policies: &BTreeMap<PolicyName, Arc<Policy>>,
    ) -> Result<Tenant, PolicyError> {
        let refuse = |key, value: &str, allowed: String| PolicyError::Tenant {
            tenant: tenant.chars().take(MAX_NAME).collect(),
            key,
            value: format!("`{value}`"),
            allowed,
        };
        if tenant.is_empty() || tenant.len() > MAX_NAME {
            let allowed = format!("1 to {MAX_NAME} bytes");
            return Err(refuse("name", tenant, allowed));
        }
        let known = |key, name: &str| {
            let found = policies.keys().find(|known| known.as_str() == name);
            found.cloned().ok_or_else(|| {
                let names: Vec<_> = policies.keys().map(PolicyName::as_str).collect();
                refuse(key, name, names.join(", "))
            })
        };
        let default = known("default", &self.default)?;
        let named = self.may_use.map(|names| {
            let each = names.iter().map(|name| known("may_use", name));
            each.collect::<Result<BTreeSet<_>, _>>()
        });
        let may_use = named.transpose()?;
        if let Some(allowed) = may_use.as_ref().filter(|all| !all.contains(&default)) {
            let names: Vec<_> = allowed.iter().map(PolicyName::as_str).collect();
            return Err(refuse("default", default.as_str(), names.join(", ")));
        }
        Ok(Tenant { default, may_use })
    }
}
