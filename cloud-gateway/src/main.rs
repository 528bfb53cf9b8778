//! The cloud gateway as a binary of its own.

#[derive(clap::Parser)]
#[command(name = "tiermesh-cloud-gateway", version, about, after_help = tiermesh_cloud_gateway::EXAMPLES)]
struct Arguments {
    #[command(flatten)]
    daemon: tiermesh_cloud_gateway::DaemonArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = <Arguments as clap::Parser>::parse();
    tiermesh_cloud_gateway::run(arguments.daemon).await
}
