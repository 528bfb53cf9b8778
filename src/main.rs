//! The `tiermesh` command.

mod ca;
mod client;
mod demo;
mod infer;
mod key;
mod model;
mod nodes;
mod out;
mod route;
mod shipped;
mod standin;
mod up;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A gRPC streaming mesh for AI inference across device, MEC edge and cloud.
#[derive(Parser)]
#[command(name = "tiermesh", version, about, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tiermesh demo                     start a whole mesh, stream real titles, break it
  tiermesh up                       the same mesh in the foreground, until Ctrl-C
  tiermesh infer \"sony mdr-zx110 headphones\"
  tiermesh route explain \"sony mdr-zx110 headphones\" --policy iot
  tiermesh nodes
  tiermesh model import hf:Qwen/Qwen2.5-0.5B-Instruct
  tiermesh model run Qwen2.5-0.5B-Instruct --chat --prompt \"What is an edge node?\"";

#[derive(Subcommand)]
enum Command {
    /// Start a mesh on this machine, stream real product titles through it, break it.
    Demo(demo::Args),
    /// Run the demonstration's mesh in the foreground until Ctrl-C.
    Up(up::Args),
    /// Stream one answer.
    Infer(infer::Args),
    /// Ask where a request would go.
    Route(route::Args),
    /// List the nodes a daemon knows: capacity, credits, breakers.
    Nodes(nodes::Args),
    /// Import, list, check and remove models; run one without a mesh.
    Model(model::Args),
    /// Make a certificate authority and certificates for nodes.
    Ca(ca::Args),
    /// Make API keys, their digests, and secrets that gateways share.
    Key(key::Args),
    /// Run an edge node.
    #[command(after_help = tiermesh_edge_node::EXAMPLES)]
    EdgeNode(tiermesh_daemon::DaemonArgs),
    /// Run a cloud gateway.
    #[command(after_help = tiermesh_cloud_gateway::EXAMPLES)]
    CloudGateway(tiermesh_daemon::DaemonArgs),
    /// Run a device agent.
    #[command(after_help = tiermesh_device_agent::EXAMPLES)]
    DeviceAgent(tiermesh_daemon::DaemonArgs),
    /// Run a local stand-in that speaks Bedrock's Converse wire, backed by the engine.
    BedrockStandin(standin::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Demo(args) => demo::run(args).await,
        Command::Up(args) => up::run(args).await,
        Command::Infer(args) => infer::run(args).await,
        Command::Route(args) => route::run(args).await,
        Command::Nodes(args) => nodes::run(args).await,
        Command::Model(args) => model::run(args).await,
        Command::Ca(args) => ca::run(args),
        Command::Key(args) => key::run(args),
        Command::EdgeNode(args) => tiermesh_edge_node::run(args).await,
        Command::CloudGateway(args) => tiermesh_cloud_gateway::run(args).await,
        Command::DeviceAgent(args) => tiermesh_device_agent::run(args).await,
        Command::BedrockStandin(args) => standin::run(args).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out::error(&error);
            ExitCode::FAILURE
        }
    }
}
