//! What a user or a server may name: repositories, revisions, files.

use super::HubError;
use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;

/// The revision when none is named.
const MAIN: &str = "main";
/// The longest segment of a repository's name that the hub allows.
const MAX_SEGMENT: usize = 96;
/// Longer than any branch, tag or commit that people use.
const MAX_REVISION: usize = 200;

/// A repository at a revision: `ORG/NAME`, or the old `NAME`, and `@REVISION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoRef {
    repo: String,
    revision: String,
}

impl RepoRef {
    /// `ORG/NAME`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// A branch, a tag, a commit, or `refs/pr/N`.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// `NAME`.
    pub fn name(&self) -> &str {
        self.repo.rsplit('/').next().unwrap_or(&self.repo)
    }
}

impl FromStr for RepoRef {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let (repo, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let segment = |segment: &str| {
            (1..=MAX_SEGMENT).contains(&segment.len())
                && !segment.starts_with(['.', '-'])
                && !segment.ends_with(['.', '-'])
                && !segment.contains("..")
                // The cache folder's name separates segments by two dashes.
                && !segment.contains("--")
                && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let good_repo = repo.split('/').count() <= 2 && repo.split('/').all(segment);
        if !good_repo || !is_revision(revision) {
            return Err(HubError::Name {
                value: text
                    .chars()
                    .take(200)
                    .flat_map(char::escape_debug)
                    .collect(),
            });
        }
        Ok(Self {
            repo: repo.to_owned(),
            revision: revision.to_owned(),
        })
    }
}

impl fmt::Display for RepoRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repo, self.revision)
    }
}

fn is_revision(text: &str) -> bool {
    text.len() <= MAX_REVISION
        && is_plain_path(text)
        && !text.contains("..")
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._/+-".contains(&b))
}

/// Whether `text` is a full commit.
pub(crate) fn is_commit(text: &str) -> bool {
    is_lower_hex(text, 40)
}

/// Whether `text` is so many lower-case hexadecimal digits.
pub(crate) fn is_lower_hex(text: &str, digits: usize) -> bool {
    text.len() == digits
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether a path that somebody else wrote stays below the folder it is joined
/// to: relative, without `.` or `..`, without what other systems split at.
pub fn is_plain_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 1024
        && !path.chars().any(|c| c == '\\' || c.is_control())
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Percent-encodes everything but unreserved characters, and `/` if `keep`.
pub(crate) fn encoded(text: &str, keep: Option<u8>) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep == Some(byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_has_an_owner_a_name_and_a_revision() {
        let named: RepoRef = "Qwen/Qwen2.5-0.5B-Instruct@refs/pr/1".parse().unwrap();
        assert_eq!(named.repo(), "Qwen/Qwen2.5-0.5B-Instruct");
        assert_eq!(named.name(), "Qwen2.5-0.5B-Instruct");
        assert_eq!(named.revision(), "refs/pr/1");
        let bare: RepoRef = "gpt2".parse().unwrap();
        assert_eq!((bare.name(), bare.revision()), ("gpt2", "main"));
    }

    #[test]
    fn names_that_would_leave_the_cache_are_refused() {
        for bad in [
            "", "a/b/c", "../b", "a/..", "a/b@", "a/b@../x", "a/b@/x", "a/b@x//y", "a b/c",
            "a/b?x", "a--b/c", "a/b@x\ny", "a/.b", "a\\b",
        ] {
            assert!(bad.parse::<RepoRef>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_plain_paths_stay_below_their_folder() {
        for good in ["a", "1_Pooling/config.json", "a b.json", "..a"] {
            assert!(is_plain_path(good), "{good:?}");
        }
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a\0"] {
            assert!(!is_plain_path(bad), "{bad:?}");
        }
    }

    #[test]
    fn addresses_hold_nothing_but_unreserved_characters() {
        assert_eq!(encoded("refs/pr/1", None), "refs%2Fpr%2F1");
        assert_eq!(encoded("a b/ü?#%", Some(b'/')), "a%20b/%C3%BC%3F%23%25");
    }
}
