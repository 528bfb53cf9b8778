//! rustls configurations: TLS 1.3 with the `ring` provider, both ends
//! authenticated on a link.

use crate::principal::Principal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The protocol of the link, by which each end knows the other speaks it.
pub const ALPN: &[u8] = b"tiermesh/1";

/// The name every gateway's certificate carries, whatever its address: nodes
/// trust the authority and the role, not a host name.
pub const GATEWAY_NAME: &str = "gateway.tiermesh.internal";

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read or holds nothing of the kind.
    #[error("cannot read {what} from {}", path.display())]
    Pem {
        /// What was expected.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The file holds no certificate.
    #[error("{} holds no certificate", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// rustls does not accept the material.
    #[error("the certificate and key do not make a TLS identity")]
    Material(#[source] rustls::Error),
    /// The authority's certificate is of no use for checking peers.
    #[error("the authority's certificate cannot check peers")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// A peer's certificate names nobody.
    #[error("the peer's certificate names nobody in the mesh")]
    Nameless,
}

/// Where one daemon's TLS material lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// Our certificate.
    pub certificate: PathBuf,
    /// Our private key.
    pub key: PathBuf,
}

impl Credentials {
    /// The name our own certificate gives us.
    ///
    /// # Errors
    /// When the certificate cannot be read or names nobody.
    pub fn principal(&self) -> Result<Principal, TlsError> {
        peer_principal(&certificates(&self.certificate)?)
    }

    fn chain(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|source| pem("a private key", &self.key, source))?;
        Ok((certificates(&self.certificate)?, key))
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots.add(certificate).map_err(TlsError::Material)?;
        }
        Ok(roots)
    }
}

/// The gateway's end of links: serves, and demands a node's certificate.
///
/// # Errors
/// When the material cannot be read or does not fit together.
pub fn gateway_config(credentials: &Credentials) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(
        Arc::new(credentials.roots()?),
        provider.clone(),
    )
    .build()
    .map_err(TlsError::Verifier)?;
    let (chain, key) = credentials.chain()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Material)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(TlsError::Material)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// A node's end of links: dials, and shows its certificate.
///
/// # Errors
/// When the material cannot be read or does not fit together.
pub fn node_config(credentials: &Credentials) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (chain, key) = credentials.chain()?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Material)?
        .with_root_certificates(credentials.roots()?)
        .with_client_auth_cert(chain, key)
        .map_err(TlsError::Material)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// A client door's TLS: no client certificate asked for, HTTP/2 preferred.
///
/// # Errors
/// When the material cannot be read or does not fit together.
pub fn door_config(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key =
        PrivateKeyDer::from_pem_file(key).map_err(|source| pem("a private key", key, source))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Material)?
        .with_no_client_auth()
        .with_single_cert(certificates(certificate)?, key)
        .map_err(TlsError::Material)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The name a verified peer's certificate gives it.
///
/// # Errors
/// [`TlsError::Nameless`] when it has none of ours.
pub fn peer_principal(chain: &[CertificateDer<'_>]) -> Result<Principal, TlsError> {
    let leaf = chain.first().ok_or(TlsError::Nameless)?;
    let certificate = webpki::EndEntityCert::try_from(leaf).map_err(|_| TlsError::Nameless)?;
    certificate
        .valid_uri_names()
        .find_map(|uri| uri.parse().ok())
        .ok_or(TlsError::Nameless)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|source| pem("a certificate", path, source))?
        .collect();
    let found = found.map_err(|source| pem("a certificate", path, source))?;
    if found.is_empty() {
        return Err(TlsError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(found)
}

fn pem(what: &'static str, path: &Path, source: rustls::pki_types::pem::Error) -> TlsError {
    TlsError::Pem {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::{CertificateAuthority, Validity};
    use std::time::Duration;

    fn credentials(ca: &CertificateAuthority, who: &str, dir: &Path) -> Credentials {
        let validity = Validity::for_next(Duration::from_secs(60));
        let issued = ca.issue(&who.parse().unwrap(), &[], validity).unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        Credentials {
            ca: write("ca.pem", ca.certificate_pem()),
            certificate: write("cert.pem", &issued.certificate_pem),
            key: write("key.pem", &issued.key_pem),
        }
    }

    #[test]
    fn an_issued_certificate_names_its_holder_and_makes_both_ends() {
        let dir = tempfile::tempdir().unwrap();
        let made =
            CertificateAuthority::generate(Validity::for_next(Duration::from_secs(60))).unwrap();
        // What was stored signs as well as what was made.
        let ca = CertificateAuthority::from_pem(made.certificate_pem().to_owned(), &made.key_pem())
            .unwrap();
        let who = "spiffe://tiermesh/device/phone-1/owner/ann";
        let ours = credentials(&ca, who, dir.path());
        assert_eq!(ours.principal().unwrap().to_string(), who);
        node_config(&ours).unwrap();
        let gateway = credentials(&ca, "spiffe://tiermesh/gateway/gw", dir.path());
        gateway_config(&gateway).unwrap();
    }

    #[test]
    fn a_missing_file_is_named() {
        let nowhere = Credentials {
            ca: "no/ca.pem".into(),
            certificate: "no/cert.pem".into(),
            key: "no/key.pem".into(),
        };
        let error = node_config(&nowhere).unwrap_err().to_string();
        assert!(error.contains("no/key.pem"), "{error}");
    }
}
