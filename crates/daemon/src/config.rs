//! Configuration files: TOML in, a typed and checked struct out.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Why a configuration is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// It is no TOML, or has a key or a type that does not belong.
    #[error("{}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, the key and what was expected.
        message: String,
    },
    /// A value is out of its range, or does not fit another.
    #[error("`{key}` is {value}: {allowed}")]
    Value {
        /// The key, with its section.
        key: String,
        /// What it is set to.
        value: String,
        /// What it may be.
        allowed: String,
    },
}

impl ConfigError {
    /// A value that does not fit.
    #[must_use]
    pub fn value(key: impl Into<String>, value: impl ToString, allowed: impl Into<String>) -> Self {
        Self::Value {
            key: key.into(),
            value: value.to_string(),
            allowed: allowed.into(),
        }
    }
}

/// Reads a configuration file.
///
/// # Errors
/// When it cannot be read, or a key or a value does not belong; the error
/// names the file, the line and what was expected.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|error| ConfigError::Parse {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    })
}

/// The configuration as TOML, defaults filled in.
///
/// # Panics
/// When a configuration has a map whose keys are no strings; none has.
pub fn print<T: Serialize>(config: &T) -> String {
    toml::to_string_pretty(config).expect("a configuration is plain tables")
}

/// Refuses `value` outside `range`, naming the key.
///
/// # Errors
/// [`ConfigError::Value`].
pub fn check<T: PartialOrd + ToString + Copy>(
    key: &str,
    value: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    let allowed = format!(
        "{} to {}",
        range.start().to_string(),
        range.end().to_string()
    );
    Err(ConfigError::value(key, value, allowed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        node: tiermesh_core::NodeId,
        workers: u32,
    }

    fn parsed(text: &str) -> Result<Sample, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(&path, text).unwrap();
        load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn errors_name_the_key_and_what_is_allowed() {
        let unknown = parsed("node = 'a'\nworkers = 1\nwrokers = 2").unwrap_err();
        assert!(
            unknown.contains("wrokers") && unknown.contains("workers"),
            "{unknown}"
        );
        let name = parsed("node = 'a b'\nworkers = 1").unwrap_err();
        assert!(name.contains("a b") && name.contains("node"), "{name}");
        let kind = parsed("node = 'a'\nworkers = 'two'").unwrap_err();
        assert!(kind.contains("workers"), "{kind}");
        let range = check("engine.workers", 0, 1..=64).unwrap_err().to_string();
        assert_eq!(range, "`engine.workers` is 0: 1 to 64");
    }
}
