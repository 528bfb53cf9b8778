//! The cloud gateway: nodes link to it, applications stream through it, and
//! its router picks among linked nodes and Amazon Bedrock.

mod accounts;
mod advisor;
mod build;
mod catalog;
mod config;
mod fleet;
mod rules;

pub use accounts::{BudgetsConfig, KeyConfig, ResumeConfig, WindowConfig};
pub use advisor::AdvisorConfig;
pub use build::{Gateway, build};
pub use config::{GatewayConfig, LinkConfig, ListenConfig};

pub use tiermesh_daemon::DaemonArgs;
use tiermesh_daemon::{Announcement, announce, bind_tcp, configured, stop_requested};

/// What `--help` ends with.
pub const EXAMPLES: &str = "\
Examples:
  tiermesh cloud-gateway --config gateway.toml
  tiermesh cloud-gateway --config gateway.toml --check-config
  tiermesh cloud-gateway --config gateway.toml --print-config

A smallest gateway.toml (make the certificates with `tiermesh ca`):
  node = \"gateway-1\"
  [link]
  ca = \"ca.pem\"
  certificate = \"gateway-1.pem\"
  key = \"gateway-1.key\"

Callers with API keys (`tiermesh key new` makes one), and what they may spend:
  [[keys]]
  name = \"acme-web\"
  digest = \"sha256:...\"
  tenant = \"acme\"
  budget = { usd = 20.0, per_s = 86400 }
  [budgets]
  request_usd = 0.05
  user = { usd = 1.0, per_s = 3600 }
  [budgets.tenants]
  acme = { usd = 500.0, per_s = 2592000 }

A resume key that several gateways share (`tiermesh key secret`):
  [resume]
  key = \"resume.key\"";

/// Runs the gateway until it is told to stop.
///
/// # Errors
/// What kept it from starting.
pub async fn run(args: DaemonArgs) -> anyhow::Result<()> {
    tiermesh_telemetry::init(&args.log, tiermesh_telemetry::Format::Text)
        .map_err(anyhow::Error::msg)?;
    let Some(config) = configured(&args, GatewayConfig::validate)? else {
        return Ok(());
    };
    let listener = bind_tcp(config.listen.api, "listen.api").await?;
    let gateway = build(&config, listener).await?;
    let mut announcement = Announcement::new(
        "cloud-gateway",
        config.node.as_str(),
        gateway.endpoint().to_owned(),
    );
    announcement.link = Some(gateway.link_address().to_string());
    announce(&announcement);
    tracing::info!(node = %config.node, endpoint = gateway.endpoint(), "serving");
    gateway
        .serve(async {
            let why = stop_requested().await;
            tracing::info!(?why, "draining");
        })
        .await
}
