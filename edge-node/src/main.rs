//! The edge node as a binary of its own.

#[derive(clap::Parser)]
#[command(name = "tiermesh-edge-node", version, about, after_help = tiermesh_edge_node::EXAMPLES)]
struct Arguments {
    #[command(flatten)]
    daemon: tiermesh_edge_node::DaemonArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = <Arguments as clap::Parser>::parse();
    tiermesh_edge_node::run(arguments.daemon).await
}
