//! A certificate authority of the mesh's own.

use crate::principal::Principal;
use crate::tls::GATEWAY_NAME;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use std::net::IpAddr;
use std::time::Duration;
use time::OffsetDateTime;

/// The subject every authority of the mesh has: with it, the key alone is
/// enough to sign again.
const CA_NAME: &str = "tiermesh certificate authority";

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The key or the names do not fit a certificate.
    #[error("cannot make the certificate for {subject}")]
    Make {
        /// Whose certificate it would have been.
        subject: String,
        /// What is wrong with it.
        #[source]
        source: rcgen::Error,
    },
    /// The authority's key is not a private key in PEM.
    #[error("the authority's key is not a PKCS#8 private key in PEM")]
    Key(#[source] rcgen::Error),
}

/// From when, and for how long, a certificate is good.
#[derive(Debug, Clone, Copy)]
pub struct Validity {
    from: OffsetDateTime,
    to: OffsetDateTime,
}

impl Validity {
    /// From an hour ago (clocks differ) for `span`.
    #[must_use]
    pub fn for_next(span: Duration) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            from: now - time::Duration::hours(1),
            to: now + span,
        }
    }
}

/// A certificate and its private key, both in PEM.
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key. Never log it.
    pub key_pem: String,
}

/// Signs certificates for gateways, edge nodes and device agents.
pub struct CertificateAuthority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// A new authority with a P-256 key.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate(validity: Validity) -> Result<Self, CaError> {
        let key = KeyPair::generate().map_err(|source| make(CA_NAME, source))?;
        let params = ca_params(validity);
        let certificate = params
            .self_signed(&key)
            .map_err(|source| make(CA_NAME, source))?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// An authority from its stored certificate and key.
    ///
    /// # Errors
    /// When the key is not a PKCS#8 key in PEM.
    pub fn from_pem(certificate_pem: String, key_pem: &str) -> Result<Self, CaError> {
        let key = KeyPair::from_pem(key_pem).map_err(CaError::Key)?;
        let params = ca_params(Validity::for_next(Duration::ZERO));
        Ok(Self {
            certificate_pem,
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority's certificate in PEM: what peers trust.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's private key in PEM. Never log it.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for `principal`. A gateway's is good for serving links
    /// (and the client door at `addresses`), a node's for dialling them and
    /// for its own door: neither can pass for the other.
    ///
    /// # Errors
    /// When the names do not fit a certificate.
    pub fn issue(
        &self,
        principal: &Principal,
        addresses: &[IpAddr],
        validity: Validity,
    ) -> Result<Issued, CaError> {
        let subject = principal.to_string();
        let key = KeyPair::generate().map_err(|source| make(&subject, source))?;
        let uri = subject
            .clone()
            .try_into()
            .map_err(|source| make(&subject, source))?;
        let mut names = vec![SanType::URI(uri)];
        names.extend(addresses.iter().copied().map(SanType::IpAddress));
        let mut usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        match principal {
            Principal::Gateway { .. } => names.push(SanType::DnsName(
                GATEWAY_NAME
                    .try_into()
                    .map_err(|source| make(&subject, source))?,
            )),
            Principal::Edge { .. } | Principal::Device { .. } => {
                usages.push(ExtendedKeyUsagePurpose::ClientAuth);
            }
        }
        let mut params = CertificateParams::default();
        params.not_before = validity.from;
        params.not_after = validity.to;
        params.distinguished_name = name(principal.node().as_str());
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|source| make(&subject, source))?;
        Ok(Issued {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

fn ca_params(validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = validity.from;
    params.not_after = validity.to;
    params.distinguished_name = name(CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn make(subject: &str, source: rcgen::Error) -> CaError {
    CaError::Make {
        subject: subject.to_owned(),
        source,
    }
}
