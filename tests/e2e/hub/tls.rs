//! The hub over TLS.

use super::standin::{self, FakeHub, REPO, honest};
use super::{Client, files};
use crate::models::ended;
use crate::support::text;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tiermesh_identity::{CertificateAuthority, Validity, door_config};

/// A certificate for this machine, and the file of who signed it.
fn tls(dir: &Path) -> (Arc<rustls::ServerConfig>, PathBuf) {
    let validity = || Validity::for_next(Duration::from_secs(3600));
    let ca = CertificateAuthority::generate(validity()).unwrap();
    let name = "spiffe://tiermesh/gateway/hub".parse().unwrap();
    let here = [std::net::Ipv4Addr::LOCALHOST.into()];
    let issued = ca.issue(&name, &here, validity()).unwrap();
    let [root, certificate, key] = ["ca.pem", "hub.pem", "hub.key"].map(|file| dir.join(file));
    std::fs::write(&root, ca.certificate_pem()).unwrap();
    std::fs::write(&certificate, issued.certificate_pem).unwrap();
    std::fs::write(&key, issued.key_pem).unwrap();
    (Arc::new(door_config(&certificate, &key).unwrap()), root)
}

#[tokio::test]
async fn https_is_checked_and_goes_through_the_proxy_that_the_environment_names() {
    let pki = tempfile::tempdir().unwrap();
    let (tls, root) = tls(pki.path());
    let both = [Some(Arc::clone(&tls)), Some(tls)];
    let hub = FakeHub::with_tls(files(), honest(), honest(), both);
    let client = Client::of(&hub);
    let wanted = format!("hf:{REPO}");
    let (address, asked) = standin::proxy();
    let mut command = client.command();
    command
        .args(["import", &wanted])
        .env("SSL_CERT_FILE", &root);
    command.env("HTTPS_PROXY", &address).env("NO_PROXY", "");
    let output = ended(&mut command).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let log = asked;
    let asked = log.lock().unwrap().clone();
    let to = |host: &str| format!("CONNECT {host} HTTP/1.1");
    let endpoint = hub.endpoint().replace("https://", "");
    assert_eq!(asked[0], to(&endpoint));
    assert!(
        asked.iter().any(|line| *line != to(&endpoint)),
        "the bytes' host too"
    );

    let mut command = client.command();
    command.args(["import", &wanted, "--name", "direct"]);
    command
        .env("SSL_CERT_FILE", &root)
        .env("NO_PROXY", "127.0.0.1");
    let output = ended(command.env("HTTPS_PROXY", &address)).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(
        *log.lock().unwrap(),
        asked,
        "the proxy was asked nothing more"
    );

    // Another authority's certificate is nobody's.
    let (_, other) = self::tls(pki.path());
    let mut command = client.command();
    command.args(["import", &wanted, "--name", "other"]);
    let output = ended(command.env("SSL_CERT_FILE", &other).env("NO_PROXY", "*")).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("certificate"), "{said}");
}

#[tokio::test]
async fn a_redirect_from_https_to_http_is_refused() {
    let pki = tempfile::tempdir().unwrap();
    let (tls, root) = tls(pki.path());
    let hub = FakeHub::with_tls(files(), honest(), honest(), [Some(tls), None]);
    let client = Client::of(&hub);
    let wanted = format!("hf:{REPO}");
    let mut command = client.command();
    command
        .args(["import", &wanted])
        .env("SSL_CERT_FILE", &root);
    let output = ended(command.env("NO_PROXY", "*")).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("from https to http"), "{said}");
    assert!(hub.fetched().is_empty());
}
