//! HAProxy as Debian has it, passing gRPC over HTTP/2 on both sides.

use anyhow::{Context as _, bail};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// How long it may take to listen.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// A running HAProxy; killed when dropped.
pub(crate) struct Haproxy {
    /// Its first line of `-v`.
    pub(crate) version: String,
    /// Where clients reach it.
    pub(crate) endpoint: String,
    /// Its process.
    pub(crate) pid: u32,
    _child: Child,
}

impl Haproxy {
    /// Starts it in front of `target`, with as many threads as the machine
    /// has cores; `None` when it is not installed.
    pub(crate) async fn start(dir: &Path, target: SocketAddr) -> anyhow::Result<Option<Self>> {
        let version = match Command::new("haproxy").arg("-v").output().await {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("cannot run haproxy"),
        };
        // HAProxy does not tell which port it got: take a free one and hope.
        let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = dir.join("haproxy.cfg");
        std::fs::write(&config, configuration(listen, target)?)?;
        let child = Command::new("haproxy")
            .args(["-db", "-f"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start haproxy")?;
        let listens = async {
            while TcpStream::connect(listen).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(READY_WITHIN, listens).await.is_err() {
            bail!("haproxy does not listen on {listen}");
        }
        Ok(Some(Self {
            version: version.lines().next().unwrap_or_default().to_owned(),
            endpoint: format!("http://{listen}"),
            pid: child.id().context("haproxy ended at once")?,
            _child: child,
        }))
    }
}

fn configuration(listen: SocketAddr, target: SocketAddr) -> anyhow::Result<String> {
    let threads = std::thread::available_parallelism()?;
    Ok(format!(
        "global\n  nbthread {threads}\n  maxconn 4096\n\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 120s\n  timeout server 120s\n\n\
         frontend clients\n  bind {listen} proto h2\n  default_backend node\n\n\
         backend node\n  server node {target} proto h2\n"
    ))
}
