//! `tiermesh ca`: a certificate authority and certificates for nodes.

use crate::out;
use anyhow::{Context as _, bail};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tiermesh_identity::{CertificateAuthority, Principal, Validity};

/// Arguments of `tiermesh ca`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tiermesh ca init --dir pki
  tiermesh ca issue spiffe://tiermesh/gateway/gateway-1 --dir pki --address 10.0.0.5
  tiermesh ca issue spiffe://tiermesh/mec/edge-1 --dir pki
  tiermesh ca issue spiffe://tiermesh/device/phone-1/owner/ann --dir pki --days 30")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make an authority: ca.pem to hand out, ca.key to keep.
    Init {
        /// Where to write.
        #[arg(long, value_name = "DIR", default_value = "pki")]
        dir: PathBuf,
        /// How long it is good for.
        #[arg(long, default_value_t = 3650)]
        days: u32,
    },
    /// Make a certificate and key for a gateway, an edge node or a device.
    Issue {
        /// Whom it names: spiffe://tiermesh/gateway/NODE, .../mec/NODE or .../device/NODE/owner/USER.
        name: Principal,
        /// The authority's folder, and where to write.
        #[arg(long, value_name = "DIR", default_value = "pki")]
        dir: PathBuf,
        /// IP addresses of its client door, for TLS there.
        #[arg(long, value_name = "IP")]
        address: Vec<IpAddr>,
        /// How long it is good for.
        #[arg(long, default_value_t = 90)]
        days: u32,
    },
}

/// Runs the command.
///
/// # Errors
/// What could not be read, made or written.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Init { dir, days } => {
            std::fs::create_dir_all(&dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
            let ca = CertificateAuthority::generate(validity(days))?;
            write(&dir.join("ca.key"), &ca.key_pem(), 0o600)?;
            write(&dir.join("ca.pem"), ca.certificate_pem(), 0o644)
        }
        Command::Issue {
            name,
            dir,
            address,
            days,
        } => {
            let read = |file: &str| {
                let path = dir.join(file);
                std::fs::read_to_string(&path).with_context(|| {
                    format!(
                        "cannot read {}: make an authority with `tiermesh ca init`",
                        path.display()
                    )
                })
            };
            let ca = CertificateAuthority::from_pem(read("ca.pem")?, &read("ca.key")?)?;
            let issued = ca.issue(&name, &address, validity(days))?;
            write(
                &dir.join(format!("{}.key", name.node())),
                &issued.key_pem,
                0o600,
            )?;
            write(
                &dir.join(format!("{}.pem", name.node())),
                &issued.certificate_pem,
                0o644,
            )
        }
    }
}

fn validity(days: u32) -> Validity {
    Validity::for_next(Duration::from_secs(u64::from(days) * 86_400))
}

/// Never overwrites: a lost key cannot be had again.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    if path.exists() {
        bail!("{} exists: move it away first", path.display());
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes())?;
    out::line(&path.display().to_string());
    Ok(())
}
