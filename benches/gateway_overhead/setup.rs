//! The processes: a gateway, a paced node linked to it, and the peer.

use crate::haproxy::Haproxy;
use crate::node::NODE;
use anyhow::{Context as _, bail};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tiermesh_harness::{Daemon, certify};
use tiermesh_proto::v1;
use tiermesh_proto::v1::fleet_client::FleetClient;
use tokio::time::Instant;

const GATEWAY: &str = "gateway-1";
const LINKED_WITHIN: Duration = Duration::from_secs(20);

/// Everything that runs beside this process. Dropping it kills it all.
pub(crate) struct Place {
    pub(crate) gateway: Daemon,
    pub(crate) node: Daemon,
    pub(crate) haproxy: Option<Haproxy>,
    _dir: TempDir,
}

/// A way to the node's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Straight to the node's door.
    Direct,
    /// Through `tiermesh cloud-gateway` and the link.
    Gateway,
    /// Through HAProxy to the node's door.
    Haproxy,
}

impl Place {
    /// Starts everything and waits until the gateway hears from the node.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("tiermesh-bench-")
            .tempdir()?;
        let daemons = [
            format!("spiffe://tiermesh/gateway/{GATEWAY}"),
            format!("spiffe://tiermesh/mec/{NODE}"),
        ];
        certify(dir.path(), &daemons)?;
        let gateway = gateway(dir.path()).await?;
        let link = gateway.announcement.link.clone();
        let link = link.context("the gateway announces its link")?;
        let arguments = [
            "--paced-node".to_owned(),
            dir.path().display().to_string(),
            "--link".to_owned(),
            link,
        ];
        let exe = std::env::current_exe()?;
        let node = Daemon::start(&exe, dir.path(), NODE, &arguments, &[]).await?;
        let target = node.endpoint().trim_start_matches("http://").parse()?;
        let haproxy = Haproxy::start(dir.path(), target).await?;
        wait_until_linked(&gateway).await?;
        Ok(Self {
            gateway,
            node,
            haproxy,
            _dir: dir,
        })
    }

    /// The ways there are.
    pub(crate) fn ways(&self) -> Vec<Way> {
        let mut ways = vec![Way::Direct, Way::Gateway];
        ways.extend(self.haproxy.as_ref().map(|_| Way::Haproxy));
        ways
    }

    /// Where clients enter it.
    pub(crate) fn endpoint(&self, way: Way) -> &str {
        match way {
            Way::Direct => self.node.endpoint(),
            Way::Gateway => self.gateway.endpoint(),
            Way::Haproxy => self.haproxy.as_ref().map_or("", |h| &h.endpoint),
        }
    }

    /// The process in between.
    pub(crate) fn between(&self, way: Way) -> Option<u32> {
        match way {
            Way::Direct => None,
            Way::Gateway => Some(self.gateway.pid()),
            Way::Haproxy => self.haproxy.as_ref().map(|h| h.pid),
        }
    }

    /// Every process of the benchmark, this one included.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut pids = vec![std::process::id(), self.gateway.pid(), self.node.pid()];
        pids.extend(self.haproxy.as_ref().map(|h| h.pid));
        pids
    }
}

async fn gateway(dir: &Path) -> anyhow::Result<Daemon> {
    let path = |name: &str| format!("{:?}", dir.join(name).display().to_string());
    let text = format!(
        "node = \"{GATEWAY}\"\n\n\
         [listen]\napi = \"127.0.0.1:0\"\nlink = \"127.0.0.1:0\"\n\n\
         [link]\nca = {}\ncertificate = {}\nkey = {}\ncredits_want = 256\n",
        path("ca.pem"),
        path(&format!("{GATEWAY}.pem")),
        path(&format!("{GATEWAY}.key")),
    );
    let config = dir.join("gateway.toml");
    std::fs::write(&config, text)?;
    let arguments = [
        "cloud-gateway".to_owned(),
        "--config".to_owned(),
        config.display().to_string(),
    ];
    let exe = Path::new(env!("CARGO_BIN_EXE_tiermesh"));
    Daemon::start(exe, dir, GATEWAY, &arguments, &[]).await
}

async fn wait_until_linked(gateway: &Daemon) -> anyhow::Result<()> {
    let mut fleet = FleetClient::connect(gateway.endpoint().to_owned()).await?;
    let until = Instant::now() + LINKED_WITHIN;
    loop {
        let listed = fleet.list_nodes(v1::ListNodesRequest {}).await?;
        let nodes = listed.into_inner().nodes;
        if nodes.iter().any(|n| n.node == NODE && n.credits_free >= 64) {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("the node did not link up:\n{}", gateway.log());
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
