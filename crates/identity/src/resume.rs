//! Resume tokens: what lets a client that lost its connection go on with its
//! answer at any gateway that knows the key.
//!
//! A token says whose answer it is, of which request (by fingerprint, never by
//! content), with which seed, who spoke, and until when. It carries no content
//! and no secret. Ed25519, over a domain of its own, so that no other
//! signature of the mesh is one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{Context, SHA256};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest token that is looked at.
const MAX_TOKEN_BYTES: usize = 4096;
/// What a signature is for.
const DOMAIN: &[u8] = b"tiermesh resume token 1\0";

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumption {
    /// Whose answer it is.
    pub user: String,
    /// Who pays for it: a tenant, or an API key without one.
    #[serde(default)]
    pub account: Option<String>,
    /// The answer, at the door that gave it first.
    #[serde(default)]
    pub stream: u64,
    /// The request, as the client named it.
    pub request_id: String,
    /// [`fingerprint`] of everything the answer depends on.
    pub request: String,
    /// What its draws are keyed by.
    pub seed: u64,
    /// The model that speaks.
    pub model: Option<String>,
    /// Its digest.
    pub digest: Option<String>,
    /// How it is computed.
    pub numerics_id: Option<String>,
    /// Until when, in milliseconds of Unix time; set by [`ResumeSigner::sign`].
    pub expires_unix_ms: u64,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// It is not of a token's form.
    #[error("the resume token is malformed")]
    Malformed,
    /// It was altered, or signed by nobody we know.
    #[error("the resume token's signature is not ours")]
    Signature,
    /// It is over.
    #[error("the resume token has expired: ask anew")]
    Expired,
}

/// Signs and checks resume tokens.
pub struct ResumeSigner {
    key: Ed25519KeyPair,
}

impl std::fmt::Debug for ResumeSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResumeSigner")
    }
}

impl ResumeSigner {
    /// A signer with a key of this process: its tokens are good here alone.
    ///
    /// # Panics
    /// When the system has no randomness to give.
    #[must_use]
    pub fn generate() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .expect("the system gives randomness");
        let key = Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("a key just made is valid");
        Self { key }
    }

    /// A signer with a key that several gateways share.
    ///
    /// # Panics
    /// Never: every 32 bytes are a key.
    #[must_use]
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(secret).expect("32 bytes are a key");
        Self { key }
    }

    /// A token that is good for `ttl`.
    #[must_use]
    pub fn sign(&self, mut resumption: Resumption, ttl: Duration) -> String {
        resumption.expires_unix_ms = unix_ms(SystemTime::now() + ttl);
        let body = serde_json::to_vec(&resumption).expect("a token is plain data");
        let signature = self.key.sign(&in_domain(&body));
        format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(&body),
            URL_SAFE_NO_PAD.encode(signature)
        )
    }

    /// What a token says, if it is good now.
    ///
    /// # Errors
    /// Why it is not.
    pub fn verify(&self, text: &str, now: SystemTime) -> Result<Resumption, ResumeError> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(ResumeError::Malformed);
        }
        let (body, signature) = text.split_once('.').ok_or(ResumeError::Malformed)?;
        let decode = |part: &str| {
            let decoded = URL_SAFE_NO_PAD.decode(part);
            decoded.map_err(|_| ResumeError::Malformed)
        };
        let (body, signature) = (decode(body)?, decode(signature)?);
        UnparsedPublicKey::new(&ED25519, self.key.public_key().as_ref())
            .verify(&in_domain(&body), &signature)
            .map_err(|_| ResumeError::Signature)?;
        let resumption: Resumption =
            serde_json::from_slice(&body).map_err(|_| ResumeError::Malformed)?;
        if resumption.expires_unix_ms < unix_ms(now) {
            return Err(ResumeError::Expired);
        }
        Ok(resumption)
    }
}

/// SHA-256 over parts, each with its length, so that no two lists of parts
/// have one fingerprint.
#[must_use]
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    URL_SAFE_NO_PAD.encode(context.finish())
}

fn in_domain(body: &[u8]) -> Vec<u8> {
    [DOMAIN, body].concat()
}

fn unix_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resumption() -> Resumption {
        Resumption {
            user: "ann".into(),
            account: None,
            stream: 3,
            request_id: "r-1".into(),
            request: fingerprint([b"a".as_slice(), b"title"]),
            seed: 7,
            model: Some("m".into()),
            digest: None,
            numerics_id: None,
            expires_unix_ms: 0,
        }
    }

    #[test]
    fn a_token_is_good_for_its_time_at_whoever_has_the_key() {
        let (here, there) = (
            ResumeSigner::from_secret(&[7; 32]),
            ResumeSigner::from_secret(&[7; 32]),
        );
        let token = here.sign(resumption(), Duration::from_secs(60));
        let now = SystemTime::now();
        let told = there.verify(&token, now).unwrap();
        assert_eq!((told.user.as_str(), told.seed), ("ann", 7));
        let late = now + Duration::from_secs(61);
        assert_eq!(there.verify(&token, late), Err(ResumeError::Expired));
        let stranger = ResumeSigner::generate();
        assert_eq!(stranger.verify(&token, now), Err(ResumeError::Signature));
    }

    #[test]
    fn an_altered_token_is_refused_wherever_it_was_altered() {
        let signer = ResumeSigner::generate();
        let token = signer.sign(resumption(), Duration::from_secs(60));
        let now = SystemTime::now();
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(bytes).unwrap();
            // The last character of a part has bits that mean nothing.
            let same = signer
                .verify(&altered, now)
                .is_ok_and(|told| told == signer.verify(&token, now).unwrap());
            let end = at + 1 == token.len() || token.as_bytes()[at + 1] == b'.';
            assert!(end || !same, "altered at {at}");
        }
        for garbage in ["", ".", "a.b", "!!!.???", &"x".repeat(9_000)] {
            assert!(signer.verify(garbage, now).is_err());
        }
    }

    #[test]
    fn parts_cannot_be_moved_into_each_other() {
        let one = fingerprint([b"ab".as_slice(), b"c"]);
        assert_ne!(one, fingerprint([b"a".as_slice(), b"bc"]));
        assert_ne!(one, fingerprint([b"abc".as_slice()]));
    }
}
