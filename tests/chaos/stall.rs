//! An edge that stands still without ending: a paused machine, a dead path.

use crate::spec;
use std::time::Duration;
use tiermesh_harness::Mesh;
use tiermesh_harness::client::{ask, client, prompt};

async fn until_listed(mesh: &Mesh, node: &str, listed: bool) {
    for _ in 0..1500 {
        let nodes = mesh.nodes().await.unwrap();
        let present = nodes.iter().any(|n| n.node == node && n.credits_free > 0);
        if present == listed {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!(
        "`{node}` was never {}",
        if listed { "there" } else { "gone" }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_edge_loses_its_lease_and_rejoins_when_it_wakes() {
    let mut spec = spec();
    spec.device = false;
    spec.standin = false;
    let mesh = Mesh::start(&spec).await.unwrap();
    let mut gateway = client(mesh.gateway.endpoint()).await.unwrap();
    mesh.edges[0].signal(libc::SIGSTOP).unwrap();
    // Nobody was told: whoever is sent there in the meantime goes elsewhere.
    for _ in 0..6 {
        let answer = ask(&mut gateway, prompt("a title", 16)).await.unwrap();
        assert_eq!(answer.decision().node, "edge-2");
    }
    until_listed(&mesh, "edge-1", false).await;
    for _ in 0..6 {
        let answer = ask(&mut gateway, prompt("a title", 16)).await.unwrap();
        assert_eq!(
            answer.done.unwrap().attempts.len(),
            1,
            "nobody tries it now"
        );
    }
    mesh.edges[0].signal(libc::SIGCONT).unwrap();
    until_listed(&mesh, "edge-1", true).await;
    let mut edge = client(mesh.edges[0].endpoint()).await.unwrap();
    let answer = ask(&mut edge, prompt("a title", 16)).await.unwrap();
    assert_eq!(answer.decision().node, "edge-1");
    mesh.stop().await.unwrap();
}
