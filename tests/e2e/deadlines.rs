//! Streams that end before their answer does free everything they held.

use crate::support::{at, long, mesh, until_node};
use std::time::Duration;
use tiermesh_harness::Mesh;
use tiermesh_harness::client::{Client, ask, read};
use tiermesh_proto::v1;
use tonic::{Code, Request, Streaming};

/// Fills the one worker, and so many places behind it, with long answers, so
/// that the next one cannot end soon on any machine.
async fn occupy(client: &mut Client) -> Vec<Streaming<v1::InferEvent>> {
    let mut ahead = Vec::new();
    for _ in 0..14 {
        ahead.push(client.infer(long()).await.unwrap().into_inner());
    }
    ahead
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_timeout_ends_the_stream_on_every_hop() {
    let mesh = mesh(|spec| spec.streams = 1).await;
    for door in [&mesh.gateway, &mesh.edges[0]] {
        let mut client = at(door).await;
        let ahead = occupy(&mut client).await;
        let mut request = Request::new(long());
        request.set_timeout(Duration::from_millis(300));
        let (status, _) = ask(&mut client, request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        drop(ahead);
        until_idle(&mesh).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn total_deadline_ends_the_stream_on_every_hop() {
    let mesh = mesh(|spec| spec.streams = 1).await;
    for door in [&mesh.gateway, &mesh.edges[0]] {
        let mut client = at(door).await;
        let ahead = occupy(&mut client).await;
        let mut request = long();
        request.deadline_ms = Some(v1::DeadlineMs {
            first_token: None,
            total: Some(150),
        });
        let (status, _) = ask(&mut client, request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        // It left the queue of the node too, where the others still are.
        until_node(&mesh, "edge-1", "one fewer", |node| {
            node.streams_active + node.streams_queued <= 14
        })
        .await;
        drop(ahead);
        until_idle(&mesh).await;
    }
}

async fn until_idle(mesh: &Mesh) {
    let listed = until_node(mesh, "edge-1", "free again", |node| {
        node.streams_active + node.streams_queued == 0 && node.credits_free >= 16
    })
    .await;
    assert_eq!(listed.breaker, "closed", "nobody was to blame");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_call_frees_the_node_and_its_credits() {
    let mesh = mesh(|spec| spec.streams = 1).await;
    let free = mesh.nodes().await.unwrap()[0].credits_free;
    let client = at(&mesh.gateway).await;
    let mut open = Vec::new();
    for _ in 0..6 {
        let mut client = client.clone();
        let stream = client.infer(long()).await.unwrap().into_inner();
        open.push(tokio::spawn(read(stream)));
    }
    until_node(&mesh, "edge-1", "busy", |node| {
        node.streams_active > 0 && node.credits_free < free
    })
    .await;
    for stream in open {
        stream.abort();
    }
    until_node(&mesh, "edge-1", "free again", |node| {
        node.streams_active + node.streams_queued == 0 && node.credits_free >= free
    })
    .await;
}
