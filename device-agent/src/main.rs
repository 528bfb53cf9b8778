//! The device agent as a binary of its own.

#[derive(clap::Parser)]
#[command(name = "tiermesh-device-agent", version, about, after_help = tiermesh_device_agent::EXAMPLES)]
struct Arguments {
    #[command(flatten)]
    daemon: tiermesh_device_agent::DaemonArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = <Arguments as clap::Parser>::parse();
    tiermesh_device_agent::run(arguments.daemon).await
}
