//! An authority for one run, and what it signs for the daemons.

use std::path::Path;
use std::time::Duration;
use tiermesh_identity::{CertificateAuthority, Principal, Validity};

/// A throw-away authority's certificates.
const VALID_FOR: Duration = Duration::from_secs(24 * 3600);

/// Makes an authority and writes into `dir` its certificate (`ca.pem`) and,
/// for every SPIFFE URI, one with its key by the node's name (`edge-1.pem`,
/// `edge-1.key`).
///
/// # Errors
/// When a URI names no daemon, or a file cannot be written.
pub fn certify(dir: &Path, uris: &[String]) -> anyhow::Result<()> {
    let ca = CertificateAuthority::generate(Validity::for_next(VALID_FOR))?;
    std::fs::write(dir.join("ca.pem"), ca.certificate_pem())?;
    for uri in uris {
        let principal: Principal = uri.parse()?;
        let issued = ca.issue(&principal, &[], Validity::for_next(VALID_FOR))?;
        let name = principal.node();
        std::fs::write(dir.join(format!("{name}.pem")), issued.certificate_pem)?;
        write_private(&dir.join(format!("{name}.key")), &issued.key_pem)?;
    }
    Ok(())
}

/// A private key is for its owner's eyes.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)?.write_all(text.as_bytes())
}
