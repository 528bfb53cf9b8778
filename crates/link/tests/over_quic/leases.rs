//! Nodes and gateways that go silent, and come back.

use crate::support::{
    EDGE, Pki, Script, Steady, eventually, gateway, joined, node, read, request, try_gateway,
};
use futures::StreamExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tiermesh_core::{Context, ErrorClass, Infer as _};

/// Lets a blocked node go on, however the test ends.
struct Unblock(Arc<Steady>);

impl Drop for Unblock {
    fn drop(&mut self) {
        self.0.blocked.store(false, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_stops_reporting_is_gone_when_its_lease_is() {
    let pki = Pki::new();
    let (link, table) = gateway(&pki, Script::new(1, 0));
    let credentials = pki.credentials(EDGE);
    let source = Steady::new(4);
    // On threads of its own: what is to stand still is the node alone.
    let elsewhere = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let entered = elsewhere.enter();
    let node = node(
        &credentials,
        EDGE,
        link.local_addr(),
        source.clone(),
        Script::new(100_000, 20),
    );
    drop(entered);
    let way_down = joined(&table, "edge-1").await;
    let answer = way_down.infer(request("ann"), Context::default()).await;
    let mut answer = answer.unwrap();
    assert!(answer.next().await.unwrap().is_ok());

    // It says nothing any more, and closes nothing either.
    let unblock = Unblock(source.clone());
    source.blocked.store(true, Ordering::SeqCst);
    eventually("its lease expires", || table.list().is_empty()).await;
    let ended = tokio::time::timeout(Duration::from_secs(30), read(answer)).await;
    let (_, ended) = ended.expect("a dead node's answers end at once");
    let error = ended.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable, "{error}");
    let refused = way_down.infer(request("ann"), Context::default()).await;
    assert!(refused.is_err(), "nobody is sent there any more");

    drop(unblock);
    joined(&table, "edge-1").await;
    drop(node);
    elsewhere.shutdown_background();
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_is_dropped_leaves_at_once_or_at_its_lease() {
    let pki = Pki::new();
    let (link, table) = gateway(&pki, Script::new(1, 0));
    let credentials = pki.credentials(EDGE);
    let (source, script) = (Steady::new(4), Script::new(100_000, 20));
    let node = node(&credentials, EDGE, link.local_addr(), source, script);
    let way_down = joined(&table, "edge-1").await;
    let answer = way_down.infer(request("ann"), Context::default()).await;
    drop(node);
    eventually("it is gone", || table.list().is_empty()).await;
    let ended = tokio::time::timeout(Duration::from_secs(30), read(answer.unwrap())).await;
    let (_, ended) = ended.expect("its answers end");
    assert_eq!(ended.unwrap_err().class, ErrorClass::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_node_finishes_what_it_answers_and_takes_nothing_new() {
    let pki = Pki::new();
    let (link, table) = gateway(&pki, Script::new(1, 0));
    let credentials = pki.credentials(EDGE);
    let (source, script) = (Steady::new(4), Script::new(50, 10));
    let node = node(&credentials, EDGE, link.local_addr(), source, script);
    let way_down = joined(&table, "edge-1").await;
    let answer = way_down.infer(request("ann"), Context::default()).await;
    let mut answer = answer.unwrap();
    assert!(answer.next().await.unwrap().is_ok());
    let draining = tokio::spawn(node.drain(Duration::from_secs(30)));
    eventually("it says that it drains", || {
        table.list().iter().all(|node| node.draining)
    })
    .await;
    let refused = way_down.infer(request("ann"), Context::default()).await;
    assert_eq!(refused.err().unwrap().class, ErrorClass::Exhausted);
    let (_, done) = read(answer).await;
    assert_eq!(done.unwrap().usage.output_tokens, 50);
    draining.await.unwrap();
    eventually("it is gone", || table.list().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_finds_back_to_a_gateway_that_returns() {
    let pki = Pki::new();
    let (link, table) = gateway(&pki, Script::new(2, 0));
    let address = link.local_addr();
    let credentials = pki.credentials(EDGE);
    let (source, script) = (Steady::new(4), Script::new(2, 0));
    let node = node(&credentials, EDGE, address, source, script);
    joined(&table, "edge-1").await;
    eventually("linked", || node.upstream().status().is_some()).await;

    link.drain(Duration::ZERO).await;
    drop(link);
    eventually("the node notices", || node.upstream().status().is_none()).await;
    let refused = node
        .upstream()
        .infer(request("ann"), Context::default())
        .await;
    let error = refused.err().expect("there is no way up");
    assert_eq!(error.class, ErrorClass::Unavailable);

    let mut again = None;
    eventually("the port is free again", || {
        again = try_gateway(&pki, address, Script::new(2, 0)).ok();
        again.is_some()
    })
    .await;
    let (_link, table) = again.unwrap();
    let way_down = joined(&table, "edge-1").await;
    let answer = way_down.infer(request("ann"), Context::default()).await;
    assert!(read(answer.unwrap()).await.1.is_ok());
    eventually("the way up is back", || node.upstream().status().is_some()).await;
}
