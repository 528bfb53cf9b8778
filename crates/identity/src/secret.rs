//! Secrets that daemons share, in files of their own.

use crate::key::{random, unhex};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Nobody else may read it, and the group may not write it.
const OTHERS: u32 = 0o027;

/// Why a secret is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Others can read it.
    #[error(
        "the secret in {} has the mode {mode:03o}: others may not read it, nor its group write it (chmod 600)",
        path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds something else.
    #[error(
        "{} does not hold 64 hexadecimal digits, as `tiermesh key secret` and `openssl rand -hex 32` print them",
        path.display()
    )]
    Form {
        /// The file.
        path: PathBuf,
    },
}

/// Reads 32 bytes, written as 64 hexadecimal digits, from a file that others
/// cannot read.
///
/// # Errors
/// When it cannot be read, others can read it, or it holds something else. The
/// content is never told.
pub fn read_secret(path: &Path) -> Result<[u8; 32], SecretError> {
    let read = |source| SecretError::Read {
        path: path.to_owned(),
        source,
    };
    let mode = std::fs::metadata(path).map_err(read)?.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        let path = path.to_owned();
        return Err(SecretError::Open { path, mode });
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    unhex(text.trim()).ok_or_else(|| SecretError::Form {
        path: path.to_owned(),
    })
}

/// A new secret, as [`read_secret`] reads it.
///
/// # Panics
/// When the system has no randomness to give.
#[must_use]
pub fn new_secret() -> String {
    let hex = |byte: &u8| format!("{byte:02x}");
    random().iter().map(hex).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str, mode: u32) -> Result<[u8; 32], String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(file.path(), mode).unwrap();
        read_secret(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_is_read_and_never_told() {
        let secret = new_secret();
        assert!(written(&format!("{secret}\n"), 0o600).is_ok());
        assert!(written(&secret, 0o440).is_ok());
        for mode in [0o644, 0o604, 0o620, 0o666] {
            let error = written(&secret, mode).unwrap_err();
            assert!(error.contains(&format!("{mode:03o}")), "{error}");
            assert!(error.contains("chmod 600") && !error.contains(&secret));
        }
        for wrong in [&secret[1..], "", &"g".repeat(64), &format!("{secret}00")] {
            let error = written(wrong, 0o600).unwrap_err();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
            assert!(wrong.is_empty() || !error.contains(wrong));
        }
        assert!(read_secret(Path::new("/nowhere/key")).is_err());
    }
}
