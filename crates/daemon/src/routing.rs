//! What every daemon's dispatcher starts from.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
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

/// How often a policy file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Looks at a policy file until it is dropped.
#[derive(Debug)]
pub struct PolicyWatch(tokio::task::JoinHandle<()>);

impl Drop for PolicyWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Puts a file's policies in force by `apply` within a second of every change.
/// A file that is refused, or lacks the `default`, changes nothing and is
/// logged once. Streams under way keep the policy they began with.
#[must_use]
pub fn watch_policies(
    file: PathBuf,
    default: PolicyName,
    apply: impl Fn(Policies) + Send + 'static,
) -> PolicyWatch {
    PolicyWatch(tokio::spawn(async move {
        let mut last = tokio::fs::read_to_string(&file).await.ok();
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            let text = tokio::fs::read_to_string(&file).await.ok();
            if text.is_none() || text == last {
                continue;
            }
            last = text;
            match policies(Some(&file), Some(&default)) {
                Ok((policies, _)) => {
                    apply(policies);
                    tracing::info!(file = %file.display(), "policies reloaded");
                }
                Err(error) => {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, source, "policies refused; the old ones stay");
                }
            }
        }
    }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    const SITE: &str = r#"
[policy.site]
description = "one"
deadline = "steer"
weights = { latency = 1, cost = 1, quality = 1, load = 1, energy = 0, preference = 0 }
preference = { DEVICE = 1, MEC = 2, CLOUD = 3 }
"#;

    #[tokio::test]
    async fn a_changed_file_is_in_force_soon_and_a_broken_one_never() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), SITE).unwrap();
        let (tell, told) = sync_channel(8);
        let name = PolicyName::new("interactive").unwrap();
        let watch = watch_policies(file.path().to_owned(), name, move |policies| {
            tell.send(policies).unwrap();
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        std::fs::write(file.path(), "nonsense =").unwrap();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(told.try_recv().is_err());
        std::fs::write(file.path(), SITE.replace("one", "two")).unwrap();
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let policies = told.try_recv().unwrap();
        let site = PolicyName::new("site").unwrap();
        assert_eq!(policies.get(&site).unwrap().description, "two");
        drop(watch);
    }
}
