//! The mesh's own parameters, which OpenAI's API has no field for: request
//! headers, or the same names without `x-` in `metadata`
//! (`tiermesh-policy`). A header wins, and the stricter privacy.

use super::ask::Ask;
use crate::call::text;
use http::HeaderMap;
use tiermesh_core::{Continuity, FieldError, Privacy};

pub(super) const POLICY: &str = "x-tiermesh-policy";
pub(super) const PRIVACY: &str = "x-tiermesh-privacy";
pub(super) const RESIDENCY: &str = "x-tiermesh-residency";
pub(super) const CONTINUITY: &str = "x-tiermesh-continuity";
pub(super) const DEADLINE_MS: &str = "x-tiermesh-deadline-ms";
pub(super) const FIRST_TOKEN_MS: &str = "x-tiermesh-first-token-ms";
pub(super) const MAX_COST_USD: &str = "x-tiermesh-max-cost-usd";
pub(super) const REQUEST_ID: &str = "x-tiermesh-request-id";

const ALL: [&str; 8] = [
    POLICY,
    PRIVACY,
    RESIDENCY,
    CONTINUITY,
    DEADLINE_MS,
    FIRST_TOKEN_MS,
    MAX_COST_USD,
    REQUEST_ID,
];

/// Reads every header of ours into the request.
pub(super) fn apply(headers: &HeaderMap, ask: &mut Ask) -> Result<(), FieldError> {
    for name in ALL {
        if headers.contains_key(name) {
            let value = text(headers, name)
                .ok_or_else(|| FieldError::new(name, "not text", "visible ASCII"))?;
            set(ask, name, value)?;
        }
    }
    Ok(())
}

/// Reads one entry of `metadata`; entries of other programs are theirs.
pub(super) fn from_metadata(ask: &mut Ask, key: &str, value: &str) -> Result<(), FieldError> {
    let ours = ALL
        .into_iter()
        .find(|name| name.strip_prefix("x-") == Some(key));
    match ours {
        Some(name) => set(ask, name, value),
        None => Ok(()),
    }
}

fn set(ask: &mut Ask, name: &'static str, value: &str) -> Result<(), FieldError> {
    let raw = &mut ask.raw;
    match name {
        POLICY => value.clone_into(&mut raw.policy),
        RESIDENCY => value.clone_into(&mut raw.residency),
        REQUEST_ID => value.clone_into(&mut raw.request_id),
        PRIVACY => {
            let privacy = privacy(name, value)?;
            raw.privacy = Some(raw.privacy.map_or(privacy, |other| other.min(privacy)));
        }
        CONTINUITY => raw.continuity = Some(continuity(name, value)?),
        DEADLINE_MS => raw.total_ms = Some(number(name, value, "whole milliseconds")?),
        FIRST_TOKEN_MS => raw.first_token_ms = Some(number(name, value, "whole milliseconds")?),
        MAX_COST_USD => raw.max_cost_usd = Some(number(name, value, "a number of US dollars")?),
        _ => {}
    }
    Ok(())
}

fn number<T: std::str::FromStr>(
    name: &'static str,
    value: &str,
    allowed: &'static str,
) -> Result<T, FieldError> {
    let refused = |_| FieldError::new(name, format!("`{value}`"), allowed);
    value.parse().map_err(refused)
}

/// Privacy by its name.
pub(crate) fn privacy(name: &'static str, value: &str) -> Result<Privacy, FieldError> {
    const ALL: [Privacy; 4] = [
        Privacy::Device,
        Privacy::Edge,
        Privacy::Region,
        Privacy::Any,
    ];
    ALL.into_iter()
        .find(|privacy| privacy.as_str() == value)
        .ok_or_else(|| FieldError::new(name, format!("`{value}`"), "device, edge, region or any"))
}

/// Continuity by its name.
pub(crate) fn continuity(name: &'static str, value: &str) -> Result<Continuity, FieldError> {
    const ALL: [Continuity; 5] = [
        Continuity::Exact,
        Continuity::SameModel,
        Continuity::Prefill,
        Continuity::Restart,
        Continuity::Fail,
    ];
    ALL.into_iter()
        .find(|continuity| continuity.as_str() == value)
        .ok_or_else(|| {
            let allowed = "exact, same_model, prefill, restart or fail";
            FieldError::new(name, format!("`{value}`"), allowed)
        })
}
