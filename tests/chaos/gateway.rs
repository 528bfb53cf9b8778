//! The gateway dies; the edges go on, and find back when it returns.

use crate::spec;
use tiermesh_harness::client::{ask, client, prompt, reason};
use tiermesh_harness::{CLOUD_MODEL, Mesh};
use tiermesh_proto::v1::Privacy;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn nodes_serve_while_the_gateway_is_dead_and_relink_when_it_returns() {
    let mut mesh = Mesh::start(&spec()).await.unwrap();
    mesh.gateway.kill().await.unwrap();
    let phone = mesh.device.as_ref().unwrap();
    for daemon in mesh.edges.iter().chain([phone]) {
        let mut door = client(daemon.endpoint()).await.unwrap();
        for privacy in [Privacy::Unspecified, Privacy::Edge] {
            let mut request = prompt("local breakout", 16);
            request.privacy = privacy as i32;
            request.model = "tiny-llama".to_owned();
            let answer = ask(&mut door, request).await;
            let answer = answer.unwrap_or_else(|(status, _)| panic!("{}: {status:?}", daemon.name));
            assert_eq!(answer.decision().node, daemon.name);
            assert_eq!(answer.tokens.len(), 16);
        }
        // What only the region has is refused, and not for lack of an answer.
        let mut request = prompt("up there", 16);
        request.model = CLOUD_MODEL.to_owned();
        let (status, _) = ask(&mut door, request).await.unwrap_err();
        let refusals = [Code::NotFound, Code::Unavailable];
        assert!(refusals.contains(&status.code()), "{status:?}");
        assert!(!reason(&status).is_empty());
    }
    mesh.restart_gateway().await.unwrap();
    mesh.wait_until_healthy().await.unwrap();
    let mut gateway = client(mesh.gateway.endpoint()).await.unwrap();
    let mut request = prompt("back again", 16);
    request.model = "tiny-llama".to_owned();
    let answer = ask(&mut gateway, request).await.unwrap();
    assert_eq!(answer.tokens.len(), 16);
    mesh.stop().await.unwrap();
}
