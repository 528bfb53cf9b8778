//! The mesh: a gateway, edge nodes, a device agent, and a cloud tier.

use crate::certificates::certify;
use crate::config::{self, GatewayPlace, NodePlace};
use crate::daemon::Daemon;
use crate::{BEDROCK_MODEL, DEVICE, GATEWAY, OWNER};
use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tiermesh_proto::v1;
use tiermesh_proto::v1::fleet_client::FleetClient;
use tokio::time::Instant;

/// How long the nodes may take to link up and report.
const HEALTHY_WITHIN: Duration = Duration::from_secs(30);
/// How long a daemon may take to drain.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Where the cloud tier is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cloud {
    /// There is none.
    None,
    /// Something that speaks Bedrock's wire at this URL.
    Endpoint(String),
    /// Amazon Bedrock, with the SDK's usual credentials.
    Aws,
}

/// What a mesh is to be.
#[derive(Debug, Clone)]
pub struct MeshSpec {
    /// The `tiermesh` program.
    pub exe: PathBuf,
    /// The models' directories.
    pub models: Vec<PathBuf>,
    /// How many edge nodes.
    pub edges: usize,
    /// Whether there is a device agent.
    pub device: bool,
    /// Whether to start a stand-in for Bedrock; otherwise `cloud` holds.
    pub standin: bool,
    /// The cloud tier, without a stand-in.
    pub cloud: Cloud,
    /// Use the documented ports instead of free ones.
    pub fixed_ports: bool,
    /// Streams a node computes at once.
    pub streams: usize,
    /// Streams that may wait on a node.
    pub queue: usize,
    /// The kernel path of each edge, by turns; the machine's best without.
    pub edge_kernels: Vec<String>,
    /// What the daemons log.
    pub log: String,
    /// A file of policies for the gateway, beside the built-in ones.
    pub policies: Option<PathBuf>,
    /// When a silent cloud stream counts as stalled; the default when absent.
    pub cloud_idle_timeout_ms: Option<u64>,
    /// How long the gateway's breakers stay open; its default when absent.
    pub breaker_open_ms: Option<u64>,
    /// Variables of the daemons' environment.
    pub environment: Vec<(String, String)>,
    /// Where the gateway records its decisions; nowhere when absent.
    pub decisions: Option<PathBuf>,
    /// More of the gateway's configuration: tables, behind everything else.
    pub gateway_tables: String,
    /// The API key that the mesh asks its gateway with, where that wants one.
    pub api_key: Option<String>,
}

impl MeshSpec {
    /// A gateway, two edges, a device and a stand-in for Bedrock, on free ports.
    #[must_use]
    pub fn new(exe: impl Into<PathBuf>, model: impl Into<PathBuf>) -> Self {
        Self {
            exe: exe.into(),
            models: vec![model.into()],
            edges: 2,
            device: true,
            standin: true,
            cloud: Cloud::None,
            fixed_ports: false,
            streams: 16,
            queue: 64,
            edge_kernels: Vec::new(),
            log: "info".to_owned(),
            policies: None,
            cloud_idle_timeout_ms: None,
            breaker_open_ms: None,
            environment: Vec::new(),
            decisions: None,
            gateway_tables: String::new(),
            api_key: None,
        }
    }
}

/// A running mesh. Dropping it kills every process and removes its directory.
pub struct Mesh {
    /// The gateway.
    pub gateway: Daemon,
    /// The edge nodes, `edge-1` first.
    pub edges: Vec<Daemon>,
    /// The device agent.
    pub device: Option<Daemon>,
    /// The stand-in for Bedrock.
    pub standin: Option<Daemon>,
    spec: MeshSpec,
    cloud: Cloud,
    dir: TempDir,
}

impl Mesh {
    /// Starts every daemon and waits until the gateway hears from all nodes.
    ///
    /// # Errors
    /// Which daemon did not start, with the end of its log.
    pub async fn start(spec: &MeshSpec) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("tiermesh-").tempdir()?;
        let names: Vec<_> = (1..=spec.edges).map(|n| format!("edge-{n}")).collect();
        let mut uris = vec![
            format!("spiffe://tiermesh/gateway/{GATEWAY}"),
            format!("spiffe://tiermesh/device/{DEVICE}/owner/{OWNER}"),
        ];
        uris.extend(names.iter().map(|n| format!("spiffe://tiermesh/mec/{n}")));
        certify(dir.path(), &uris)?;
        let starter = Starter {
            spec,
            dir: dir.path(),
        };
        let standin = match spec.standin {
            true => Some(starter.standin().await?),
            false => None,
        };
        let cloud = match &standin {
            Some(standin) => Cloud::Endpoint(standin.endpoint().to_owned()),
            None => spec.cloud.clone(),
        };
        let ports = (starter.port(8080), starter.port(4433));
        let gateway = starter.gateway(&cloud, ports).await?;
        let link = gateway
            .announcement
            .link
            .clone()
            .context("the gateway announces its link")?;
        let mut edges = Vec::new();
        for (index, name) in names.iter().enumerate() {
            edges.push(starter.edge(name, &link, index).await?);
        }
        let device = match spec.device {
            true => Some(starter.device(&link).await?),
            false => None,
        };
        let mesh = Self {
            gateway,
            edges,
            device,
            standin,
            spec: spec.clone(),
            cloud,
            dir,
        };
        mesh.wait_until_healthy().await?;
        Ok(mesh)
    }

    /// Starts the gateway again after it ended, on the ports and with the
    /// certificates it had. The nodes find back by themselves.
    ///
    /// # Errors
    /// When it does not start, with the end of its log.
    pub async fn restart_gateway(&mut self) -> anyhow::Result<()> {
        let announced = &self.gateway.announcement;
        let link = announced.link.as_deref().context("a gateway has a link")?;
        let ports = (port_of(&announced.endpoint)?, port_of(link)?);
        let starter = Starter {
            spec: &self.spec,
            dir: self.dir.path(),
        };
        self.gateway = starter.gateway(&self.cloud, ports).await?;
        Ok(())
    }

    /// Starts an edge again after it ended, under its name and with its
    /// certificate.
    ///
    /// # Errors
    /// When it does not start, with the end of its log.
    pub async fn restart_edge(&mut self, index: usize) -> anyhow::Result<()> {
        let link = self.gateway.announcement.link.clone();
        let link = link.context("a gateway has a link")?;
        let starter = Starter {
            spec: &self.spec,
            dir: self.dir.path(),
        };
        let name = self.edges[index].name.clone();
        self.edges[index] = starter.edge(&name, &link, index).await?;
        Ok(())
    }

    /// Where everything of the run lies: certificates, configurations, logs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The nodes as the gateway sees them.
    ///
    /// # Errors
    /// When the gateway does not answer.
    pub async fn nodes(&self) -> anyhow::Result<Vec<v1::Node>> {
        let mut fleet = FleetClient::connect(self.gateway.endpoint().to_owned()).await?;
        let mut request = tonic::Request::new(v1::ListNodesRequest {});
        if let Some(key) = &self.spec.api_key {
            let value = format!("Bearer {key}").parse()?;
            request.metadata_mut().insert("authorization", value);
        }
        let listed = fleet.list_nodes(request).await?;
        Ok(listed.into_inner().nodes)
    }

    /// Returns once the gateway hears from every node that was started, and each
    /// lets it open streams.
    ///
    /// # Errors
    /// Who is missing after half a minute, with the gateway's log.
    pub async fn wait_until_healthy(&self) -> anyhow::Result<()> {
        let expected: Vec<_> = self
            .edges
            .iter()
            .chain(&self.device)
            .map(|daemon| daemon.name.as_str())
            .collect();
        let until = Instant::now() + HEALTHY_WITHIN;
        loop {
            let nodes = self.nodes().await.unwrap_or_default();
            let ready = |name: &str| nodes.iter().any(|n| n.node == name && n.credits_free > 0);
            if expected.iter().all(|name| ready(name)) {
                return Ok(());
            }
            if Instant::now() > until {
                bail!(
                    "the gateway hears from {:?} and not from all of {expected:?}:\n{}",
                    nodes.iter().map(|n| &n.node).collect::<Vec<_>>(),
                    self.gateway.log()
                );
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Drains every daemon, nodes before the gateway; then the exit codes by
    /// name. Daemons that were killed are left out.
    ///
    /// # Errors
    /// When one does not end.
    pub async fn stop(self) -> anyhow::Result<Vec<(String, i32)>> {
        let mut codes = Vec::new();
        let order = self
            .device
            .into_iter()
            .chain(self.edges)
            .chain([self.gateway])
            .chain(self.standin);
        for mut daemon in order {
            if daemon.has_ended()? {
                continue;
            }
            let name = daemon.name.clone();
            codes.push((name, daemon.stop(STOP_WITHIN).await?));
        }
        Ok(codes)
    }
}

/// The port at the end of an address or a URL.
fn port_of(address: &str) -> anyhow::Result<u16> {
    let (_, port) = address.rsplit_once(':').context("an address has a port")?;
    port.parse()
        .with_context(|| format!("`{address}` ends with a port"))
}

struct Starter<'a> {
    spec: &'a MeshSpec,
    dir: &'a Path,
}

impl Starter<'_> {
    fn port(&self, documented: u16) -> u16 {
        if self.spec.fixed_ports { documented } else { 0 }
    }

    async fn daemon(&self, subcommand: &str, name: &str, config: String) -> anyhow::Result<Daemon> {
        let path = self.dir.join(format!("{name}.toml"));
        std::fs::write(&path, config)?;
        let arguments = [
            subcommand.to_owned(),
            "--config".to_owned(),
            path.display().to_string(),
            "--log".to_owned(),
            self.spec.log.clone(),
        ];
        self.start(name, &arguments).await
    }

    async fn standin(&self) -> anyhow::Result<Daemon> {
        let model = self.spec.models.first().context("a mesh has a model")?;
        let arguments = [
            "bedrock-standin".to_owned(),
            "--model".to_owned(),
            model.display().to_string(),
            "--serve-as".to_owned(),
            BEDROCK_MODEL.to_owned(),
            "--log".to_owned(),
            self.spec.log.clone(),
        ];
        self.start("bedrock-standin", &arguments).await
    }

    async fn start(&self, name: &str, arguments: &[String]) -> anyhow::Result<Daemon> {
        let environment = &self.spec.environment;
        Daemon::start(&self.spec.exe, self.dir, name, arguments, environment).await
    }

    async fn gateway(&self, cloud: &Cloud, ports: (u16, u16)) -> anyhow::Result<Daemon> {
        let (api_port, link_port) = ports;
        let place = GatewayPlace {
            dir: self.dir,
            cloud,
            policies: self.spec.policies.as_deref(),
            cloud_idle_timeout_ms: self.spec.cloud_idle_timeout_ms,
            breaker_open_ms: self.spec.breaker_open_ms,
            decisions: self.spec.decisions.as_deref(),
            api_port,
            link_port,
        };
        let config = config::gateway(GATEWAY, &place) + "\n" + &self.spec.gateway_tables;
        self.daemon("cloud-gateway", GATEWAY, config).await
    }

    async fn edge(&self, name: &str, link: &str, index: usize) -> anyhow::Result<Daemon> {
        // 8081, 8083, 8084, …: 8082 is the device agent's.
        let offset = u16::try_from(index).unwrap_or(0);
        let documented = if index == 0 { 8081 } else { 8082 + offset };
        let kernels = self.spec.edge_kernels.iter().cycle();
        let place = NodePlace {
            kernel: kernels.skip(index).map(String::as_str).next(),
            ..self.place(link, self.port(documented))
        };
        let config = config::edge(name, &place);
        self.daemon("edge-node", name, config).await
    }

    async fn device(&self, link: &str) -> anyhow::Result<Daemon> {
        let config = config::device(DEVICE, &self.place(link, self.port(8082)));
        self.daemon("device-agent", DEVICE, config).await
    }

    fn place<'a>(&'a self, link: &'a str, api_port: u16) -> NodePlace<'a> {
        NodePlace {
            dir: self.dir,
            models: &self.spec.models,
            link,
            api_port,
            streams: self.spec.streams,
            queue: self.spec.queue,
            kernel: None,
        }
    }
}
