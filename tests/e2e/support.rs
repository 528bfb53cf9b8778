//! What every test here starts from.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;
use tiermesh_harness::client::{Client, client};
use tiermesh_harness::{Daemon, Mesh, MeshSpec};
use tiermesh_proto::v1;

pub(crate) const EXE: &str = env!("CARGO_BIN_EXE_tiermesh");

/// A model with random weights that loads at once and goes on until it is
/// told to stop.
pub(crate) fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/engine/tests/fixtures/tiny-llama")
}

/// A gateway, an edge and nothing else, unless `change` says so.
pub(crate) async fn mesh(change: impl FnOnce(&mut MeshSpec)) -> Mesh {
    let mut spec = MeshSpec::new(EXE, tiny());
    spec.edges = 1;
    spec.device = false;
    spec.standin = false;
    change(&mut spec);
    Mesh::start(&spec).await.unwrap()
}

pub(crate) async fn at(daemon: &Daemon) -> Client {
    client(daemon.endpoint()).await.unwrap()
}

/// A request that ends long after everything a test does about it: as many
/// tokens as the tiny model's context holds.
pub(crate) fn long() -> v1::InferRequest {
    tiermesh_harness::client::prompt("go on and on", 1900)
}

/// Waits, at most half a minute, until the gateway sees `node` so.
pub(crate) async fn until_node(
    mesh: &Mesh,
    node: &str,
    what: &str,
    holds: impl Fn(&v1::Node) -> bool,
) -> v1::Node {
    let mut last = None;
    for _ in 0..1500 {
        let nodes = mesh.nodes().await.unwrap();
        last = nodes.into_iter().find(|listed| listed.node == node);
        match last {
            Some(node) if holds(&node) => return node,
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    panic!("`{node}` was never seen so: {what}; it is {last:?}");
}

/// Runs the command to its end.
pub(crate) async fn run(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(EXE);
    command.args(arguments).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(120), command.output());
    output.await.expect("the command ends").unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
