//! Who is who: certificates for nodes and gateways, the rustls configurations
//! of both ends of a link, and the tickets a gateway signs for edge doors.
//!
//! A certificate carries its holder's name as a SPIFFE URI
//! (`spiffe://tiermesh/mec/edge-1`), so what a peer may be called is what the
//! certificate authority signed and not what the peer says.

mod ca;
mod principal;
mod resume;
mod ticket;
mod tls;

pub use ca::{CaError, CertificateAuthority, Issued, Validity};
pub use principal::{InvalidPrincipal, Principal};
pub use resume::{ResumeError, ResumeSigner, Resumption, fingerprint};
pub use ticket::{Ticket, TicketError, TicketSigner, TicketVerifier};
pub use tls::{
    ALPN, Credentials, GATEWAY_NAME, TlsError, door_config, gateway_config, node_config,
    peer_principal,
};
