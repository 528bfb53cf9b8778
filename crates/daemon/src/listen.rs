//! TCP listeners, with errors that say what to change.

use crate::config::ConfigError;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::net::TcpListener;

/// A port that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: choose another address with `{key}`")]
pub struct ListenError {
    /// The address asked for.
    address: SocketAddr,
    /// The configuration key that holds it.
    key: &'static str,
    /// The system's answer.
    #[source]
    source: std::io::Error,
}

/// Binds a TCP port; 0 picks one. `key` is where the address was configured.
///
/// # Errors
/// When the port cannot be had; the error says which and how to change it.
pub async fn bind_tcp(address: SocketAddr, key: &'static str) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ListenError {
            address,
            key,
            source,
        })
}

/// The certificate and key of a client door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsPaths {
    /// PEM certificate chain.
    pub certificate: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
}

/// A listener off loopback without TLS is refused, unless the operator said
/// that plaintext is what they want.
///
/// # Errors
/// Names the key, the address, and both ways out.
pub fn require_tls_off_loopback(
    key: &str,
    address: SocketAddr,
    has_tls: bool,
    allow_plaintext: bool,
) -> Result<(), ConfigError> {
    if address.ip().is_loopback() || has_tls || allow_plaintext {
        return Ok(());
    }
    Err(ConfigError::value(
        key,
        address,
        "a loopback address, or any address with `[tls]` (certificate and key), or with `allow_plaintext = true` behind a proxy that terminates TLS",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_key_to_change() {
        let first = bind_tcp("127.0.0.1:0".parse().unwrap(), "listen.api")
            .await
            .unwrap();
        let taken = first.local_addr().unwrap();
        let error = bind_tcp(taken, "listen.api").await.unwrap_err().to_string();
        assert!(
            error.contains(&taken.to_string()) && error.contains("listen.api"),
            "{error}"
        );
    }

    #[test]
    fn plaintext_off_loopback_needs_a_word() {
        let open: SocketAddr = "0.0.0.0:8080".parse().unwrap();
        assert!(require_tls_off_loopback("listen.api", open, false, false).is_err());
        assert!(require_tls_off_loopback("listen.api", open, false, true).is_ok());
        assert!(require_tls_off_loopback("listen.api", open, true, false).is_ok());
        let local: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        assert!(require_tls_off_loopback("listen.api", local, false, false).is_ok());
    }
}
