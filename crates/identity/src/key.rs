//! API keys: long random words that callers bring. Whoever checks them keeps
//! only their digests, from which no key can be made.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// What every digest's text begins with.
const PREFIX: &str = "sha256:";
/// What our own keys begin with, so that a leaked one is recognised.
const KEY_PREFIX: &str = "tm_";
/// A shorter key could be guessed from its digest.
pub const MIN_KEY_BYTES: usize = 16;
/// A longer one is not looked at.
pub const MAX_KEY_BYTES: usize = 512;

/// A key's SHA-256, written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyDigest([u8; 32]);

/// A text that is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is `sha256:` and 64 hexadecimal digits, as `tiermesh key digest` prints it")]
pub struct InvalidDigest;

/// A text that no key may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is {MIN_KEY_BYTES} to {MAX_KEY_BYTES} characters of visible ASCII without spaces")]
pub struct InvalidKey;

impl KeyDigest {
    /// The digest of a key.
    ///
    /// # Errors
    /// When the key is too short to be kept as a digest, or could not be sent
    /// in a header.
    pub fn of(key: &str) -> Result<Self, InvalidKey> {
        let fits = (MIN_KEY_BYTES..=MAX_KEY_BYTES).contains(&key.len());
        if fits && key.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self::hash(key))
        } else {
            Err(InvalidKey)
        }
    }

    fn hash(key: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let hex = text.strip_prefix(PREFIX).ok_or(InvalidDigest)?;
        unhex(hex).map(Self).ok_or(InvalidDigest)
    }
}

impl serde::Serialize for KeyDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for KeyDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// 64 hexadecimal digits.
pub(crate) fn unhex(hex: &str) -> Option<[u8; 32]> {
    let digits = hex.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

/// A new key of 32 random bytes.
///
/// # Panics
/// When the system has no randomness to give.
#[must_use]
pub fn generate_key() -> String {
    format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(random()))
}

pub(crate) fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system gives randomness");
    bytes
}

/// The keys that are known, and what each stands for.
///
/// They are found by a code under a secret of this process, and compared in
/// constant time: how long a wrong key takes says nothing of the right ones.
pub struct Keyring<T> {
    secret: hmac::Key,
    by_code: BTreeMap<Vec<u8>, T>,
}

impl<T> fmt::Debug for Keyring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} keys)", self.by_code.len())
    }
}

impl<T> Keyring<T> {
    /// A ring of these keys. Of two with one digest the later counts.
    pub fn new(keys: impl IntoIterator<Item = (KeyDigest, T)>) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &random());
        let code = |digest: KeyDigest| hmac::sign(&secret, &digest.0).as_ref().to_vec();
        let by_code = keys.into_iter().map(|(digest, of)| (code(digest), of));
        Self {
            by_code: by_code.collect(),
            secret,
        }
    }

    /// What a key stands for; none where it is not known.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<&T> {
        if key.len() > MAX_KEY_BYTES {
            return None;
        }
        let digest = KeyDigest::hash(key);
        let code = hmac::sign(&self.secret, &digest.0);
        let (known, of) = self.by_code.get_key_value(code.as_ref())?;
        let same = hmac::verify(&self.secret, &digest.0, known).is_ok();
        same.then_some(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_what_other_programs_print() {
        // printf %s abc | sha256sum
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(KeyDigest::hash("abc").to_string(), text);
        assert_eq!(text.parse(), Ok(KeyDigest::hash("abc")));
        for wrong in [
            "",
            "sha256:",
            "sha256:xyz",
            &text[..70],
            &text[7..],
            &text.replace('7', "g"),
        ] {
            assert_eq!(wrong.parse::<KeyDigest>(), Err(InvalidDigest), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_found_and_nothing_like_it_is() {
        let keys: Vec<String> = (0..20).map(|_| generate_key()).collect();
        let entries = keys.iter().enumerate();
        let ring = Keyring::new(entries.map(|(n, key)| (KeyDigest::of(key).unwrap(), n)));
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(ring.find(key), Some(&n));
            for near in [
                &key[1..],
                &format!("{key} "),
                &key.to_uppercase(),
                &format!("{key}A"),
            ] {
                assert_eq!(ring.find(near), None, "{near}");
            }
            // What is configured is no key.
            assert_eq!(ring.find(&KeyDigest::of(key).unwrap().to_string()), None);
        }
        assert_eq!(ring.find(""), None);
        assert_eq!(ring.find(&"x".repeat(100_000)), None);
        assert!(!format!("{ring:?}").contains(&keys[0]));
    }

    #[test]
    fn a_key_that_could_be_guessed_has_no_digest() {
        for weak in [
            "",
            "secret",
            "fifteen-letters",
            "with spaces in it, many",
            "ключ-ключ-ключ-ключ",
        ] {
            assert_eq!(KeyDigest::of(weak), Err(InvalidKey), "{weak}");
        }
    }
}
