//! What every daemon's dispatcher starts from.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tiermesh_core::{InferError, PolicyName};
use tiermesh_decision::{Policies, PolicyError};

/// Why a daemon's policies are not accepted.
#[derive(Debug, thiserror::Error)]
pub enum PoliciesError {
    /// The file cannot be read.
    #[error("cannot read `policies` from {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file is no set of policies.
    #[error("`policies` in {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The key, its value and what is allowed.
        #[source]
        source: PolicyError,
    },
    /// `default_policy` names none of them.
    #[error("`default_policy`")]
    Default(#[source] InferError),
}

/// The built-in policies, extended by a file's, and the name of the one for
/// requests that name none.
///
/// # Errors
/// When the file is not one, or the default does not exist.
pub fn policies(
    file: Option<&Path>,
    default: Option<&PolicyName>,
) -> Result<(Policies, PolicyName), PoliciesError> {
    let mut policies = Policies::builtin();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|source| PoliciesError::Read {
            path: path.to_owned(),
            source,
        })?;
        policies = policies
            .extended(&text)
            .map_err(|source| PoliciesError::Parse {
                path: path.to_owned(),
                source,
            })?;
    }
    let name = match default {
        Some(name) => policies
            .require(name)
            .map_err(PoliciesError::Default)?
            .name
            .clone(),
        None => policies.default_name().clone(),
    };
    Ok((policies, name))
}

/// A number that tells this run of the process from any other: the
/// milliseconds of Unix time at which it began.
#[must_use]
pub fn epoch() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}
