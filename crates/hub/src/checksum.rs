//! The two checksums the hub gives: SHA-256 of a large file, and git's SHA-1
//! of a small one.

use super::name::is_lower_hex;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use std::fmt::{self, Write as _};

/// What a file must hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// SHA-256 over the bytes.
    Sha256(String),
    /// SHA-1 over git's blob header and the bytes. It stands between us and a
    /// broken download, not between us and the hub.
    GitBlob(String),
}

impl Checksum {
    /// Reads an ETag: quoted or weak, 64 or 40 hexadecimal digits.
    pub(crate) fn from_etag(etag: &str) -> Option<Self> {
        let bare = etag.trim();
        let bare = bare.strip_prefix("W/").unwrap_or(bare);
        let hex = bare.trim_matches('"').to_owned();
        if is_lower_hex(&hex, 64) {
            Some(Self::Sha256(hex))
        } else if is_lower_hex(&hex, 40) {
            Some(Self::GitBlob(hex))
        } else {
            None
        }
    }

    /// The digits, which are the file's name in the cache.
    pub(crate) fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::GitBlob(hex) => hex,
        }
    }

    /// Starts to hash a file of `size` bytes.
    pub(crate) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher(Context::new(&SHA256)),
            Self::GitBlob(_) => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {size}\0").as_bytes());
                Hasher(context)
            }
        }
    }

    /// The same kind with another value, to tell what was found.
    pub(crate) fn found(&self, hex: String) -> Self {
        match self {
            Self::Sha256(_) => Self::Sha256(hex),
            Self::GitBlob(_) => Self::GitBlob(hex),
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(hex) => write!(f, "sha256 {hex}"),
            Self::GitBlob(hex) => write!(f, "git blob {hex}"),
        }
    }
}

/// A hash over what has come so far.
pub(crate) struct Hasher(Context);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> String {
        hex(self.0.finish().as_ref())
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(etag: &str, bytes: &[u8]) -> String {
        let checksum = Checksum::from_etag(etag).unwrap();
        let mut hasher = checksum.hasher(bytes.len() as u64);
        hasher.update(bytes);
        hasher.finish()
    }

    #[test]
    fn a_small_file_hashes_as_git_hashes_it() {
        // `printf 'hello\n' | git hash-object --stdin`
        let id = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(hash(&format!("\"{id}\""), b"hello\n"), id);
        assert_eq!(hash(&format!("W/\"{id}\""), b"hello\n"), id);
    }

    #[test]
    fn a_large_file_hashes_with_sha_256() {
        let id = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(hash(id, b"hello\n"), id);
    }

    #[test]
    fn an_etag_that_is_no_checksum_is_none() {
        for etag in [
            "",
            "\"\"",
            "\"abc\"",
            &"g".repeat(64),
            &"A".repeat(40),
            "../../etc",
        ] {
            assert_eq!(Checksum::from_etag(etag), None, "{etag:?}");
        }
    }
}
