//! Tickets: what a gateway's `Locate` hands to a client for an edge's door.
//!
//! A ticket says that the gateway sent this user to this node, until when. It
//! carries no content and no secret. Ed25519; nodes learn the gateway's public
//! key in `Welcome`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tiermesh_core::{NodeId, UserId};

/// The longest ticket that is looked at.
const MAX_TICKET_BYTES: usize = 2048;

/// What a ticket says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The node whose door it is for.
    pub node: NodeId,
    /// The user it was given to.
    pub user: UserId,
    /// Until when, in milliseconds of Unix time.
    pub expires_unix_ms: u64,
}

/// Why a ticket is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It is not of a ticket's form.
    #[error("the ticket is malformed")]
    Malformed,
    /// It was not signed by the gateway we know.
    #[error("the ticket's signature is not the gateway's")]
    Signature,
    /// It is over.
    #[error("the ticket has expired: ask Locate for a new one")]
    Expired,
    /// It is for somebody or somewhere else.
    #[error("the ticket is for node `{0}`")]
    WrongNode(NodeId),
}

/// Signs tickets with a key drawn at start.
pub struct TicketSigner {
    key: Ed25519KeyPair,
}

impl TicketSigner {
    /// A signer with a new key.
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

    /// What verifies its tickets.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        self.key.public_key().as_ref().to_vec()
    }

    /// A ticket for `node` and `user`, good for `ttl`.
    #[must_use]
    pub fn sign(&self, node: NodeId, user: UserId, ttl: Duration) -> String {
        let ticket = Ticket {
            node,
            user,
            expires_unix_ms: unix_ms(SystemTime::now() + ttl),
        };
        let body = serde_json::to_vec(&ticket).expect("a ticket is plain data");
        let signature = self.key.sign(&body);
        format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(&body),
            URL_SAFE_NO_PAD.encode(signature)
        )
    }
}

/// Checks tickets against a gateway's public key.
#[derive(Debug, Clone)]
pub struct TicketVerifier {
    key: UnparsedPublicKey<Vec<u8>>,
}

impl TicketVerifier {
    /// A verifier for the key a `Welcome` carried.
    #[must_use]
    pub fn new(public_key: Vec<u8>) -> Self {
        Self {
            key: UnparsedPublicKey::new(&ED25519, public_key),
        }
    }

    /// What the ticket says, if it is good at `node` now.
    ///
    /// # Errors
    /// Why it is not.
    pub fn verify(
        &self,
        text: &str,
        node: &NodeId,
        now: SystemTime,
    ) -> Result<Ticket, TicketError> {
        if text.len() > MAX_TICKET_BYTES {
            return Err(TicketError::Malformed);
        }
        let (body, signature) = text.split_once('.').ok_or(TicketError::Malformed)?;
        let decode = |part: &str| {
            URL_SAFE_NO_PAD
                .decode(part)
                .map_err(|_| TicketError::Malformed)
        };
        let (body, signature) = (decode(body)?, decode(signature)?);
        self.key
            .verify(&body, &signature)
            .map_err(|_| TicketError::Signature)?;
        let ticket: Ticket = serde_json::from_slice(&body).map_err(|_| TicketError::Malformed)?;
        if ticket.expires_unix_ms < unix_ms(now) {
            return Err(TicketError::Expired);
        }
        if &ticket.node != node {
            return Err(TicketError::WrongNode(ticket.node));
        }
        Ok(ticket)
    }
}

fn unix_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_for_its_node_its_time_and_its_gateway() {
        let signer = TicketSigner::generate();
        let (edge, other) = (
            NodeId::new("edge-1").unwrap(),
            NodeId::new("edge-2").unwrap(),
        );
        let user = UserId::new("ann").unwrap();
        let text = signer.sign(edge.clone(), user.clone(), Duration::from_secs(60));
        let verifier = TicketVerifier::new(signer.public_key());
        let now = SystemTime::now();
        assert_eq!(verifier.verify(&text, &edge, now).unwrap().user, user);
        assert!(matches!(
            verifier.verify(&text, &other, now),
            Err(TicketError::WrongNode(_))
        ));
        let later = now + Duration::from_secs(61);
        assert_eq!(
            verifier.verify(&text, &edge, later),
            Err(TicketError::Expired)
        );
        let stranger = TicketVerifier::new(TicketSigner::generate().public_key());
        assert_eq!(
            stranger.verify(&text, &edge, now),
            Err(TicketError::Signature)
        );
    }

    #[test]
    fn garbage_is_malformed_or_unsigned() {
        let verifier = TicketVerifier::new(TicketSigner::generate().public_key());
        let node = NodeId::new("edge-1").unwrap();
        for bad in ["", ".", "a.b", "!!!.???", &"x".repeat(5000)] {
            assert!(verifier.verify(bad, &node, SystemTime::now()).is_err());
        }
    }
}
