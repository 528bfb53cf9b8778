//! Who is who: certificates for nodes and gateways, the rustls configurations
//! of both ends of a link, the tickets a gateway signs for edge doors, resume
//! tokens, and the API keys that clients bring.
//!
//! A certificate carries its holder's name as a SPIFFE URI
//! (`spiffe://tiermesh/mec/edge-1`), so what a peer may be called is what the
//! certificate authority signed and not what the peer says.

mod ca;
mod key;
mod principal;
mod resume;
mod secret;
mod ticket;
mod tls;

pub use ca::{CaError, CertificateAuthority, Issued, Validity};
pub use key::{
    InvalidDigest, InvalidKey, KeyDigest, Keyring, MAX_KEY_BYTES, MIN_KEY_BYTES, generate_key,
};
pub use principal::{InvalidPrincipal, Principal};
pub use resume::{ResumeError, ResumeSigner, Resumption, fingerprint};
pub use secret::{SecretError, new_secret, read_secret};
pub use ticket::{Ticket, TicketError, TicketSigner, TicketVerifier};
pub use tls::{
    ALPN, Credentials, GATEWAY_NAME, TlsError, door_config, gateway_config, node_config,
    peer_principal,
};
