//! Answers both ways over one link.

use crate::support::{
    EDGE, PHONE, Pki, Script, Steady, eventually, gateway, joined, node, read, request,
};
use futures::StreamExt as _;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tiermesh_core::{Context, ErrorClass, Infer as _};

#[tokio::test(flavor = "multi_thread")]
async fn either_end_opens_streams_and_reads_whole_answers() {
    let pki = Pki::new();
    let (above, below) = (Script::new(5, 0), Script::new(2000, 0));
    let (link, table) = gateway(&pki, above.clone());
    let credentials = pki.credentials(EDGE);
    let node = node(
        &credentials,
        EDGE,
        link.local_addr(),
        Steady::new(4),
        below.clone(),
    );
    let way_down = joined(&table, "edge-1").await;
    let answer = way_down.infer(request("ann"), Context::default()).await;
    let (text, done) = read(answer.unwrap()).await;
    assert_eq!(done.unwrap().usage.output_tokens, 2000);
    assert_eq!(text.split_whitespace().count(), 2000);
    assert!(text.starts_with("w0 w1 ") && text.ends_with("w1999 "));

    let status = node.upstream().status().expect("the node is linked");
    assert_eq!(status.destination.node.as_str(), "gw");
    let answer = node
        .upstream()
        .infer(request("ann"), Context::default())
        .await;
    let (text, done) = read(answer.unwrap()).await;
    assert_eq!((text.as_str(), done.is_ok()), ("w0 w1 w2 w3 w4 ", true));
    assert_eq!(above.asked.load(Ordering::SeqCst), 1);
    assert_eq!(below.asked.load(Ordering::SeqCst), 1);
    eventually("every credit is back", || {
        table.list()[0].streams == 0 && above.live() + below.live() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn device_asks_upward_for_its_owner_alone_and_serves_its_owner_alone() {
    let pki = Pki::new();
    let (above, below) = (Script::new(2, 0), Script::new(2, 0));
    let (link, table) = gateway(&pki, above.clone());
    let credentials = pki.credentials(PHONE);
    let (source, brain) = (Steady::new(4), below.clone());
    let node = node(&credentials, PHONE, link.local_addr(), source, brain);
    let way_down = joined(&table, "phone-1").await;

    let upstream = node.upstream();
    let asked = upstream.infer(request("bob"), Context::default()).await;
    let (_, ended) = read(asked.unwrap()).await;
    let error = ended.unwrap_err();
    assert_eq!(error.class, ErrorClass::Forbidden, "{error}");
    assert_eq!(above.asked.load(Ordering::SeqCst), 0);
    let asked = upstream.infer(request("ann"), Context::default()).await;
    assert!(read(asked.unwrap()).await.1.is_ok());

    let refused = way_down.infer(request("bob"), Context::default()).await;
    let error = refused.err().expect("no permit for a stranger's phone");
    assert_eq!(error.class, ErrorClass::Forbidden, "{error}");
    assert_eq!(below.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_an_answer_drops_the_work_behind_it() {
    let pki = Pki::new();
    let (above, below) = (Script::new(100_000, 5), Script::new(100_000, 5));
    let (link, table) = gateway(&pki, above.clone());
    let credentials = pki.credentials(EDGE);
    let (source, brain) = (Steady::new(4), below.clone());
    let node = node(&credentials, EDGE, link.local_addr(), source, brain);
    let way_down = joined(&table, "edge-1").await;

    let down = way_down.infer(request("ann"), Context::default()).await;
    let up = node
        .upstream()
        .infer(request("ann"), Context::default())
        .await;
    let (mut down, mut up) = (down.unwrap(), up.unwrap());
    assert!(down.next().await.unwrap().is_ok());
    assert!(up.next().await.unwrap().is_ok());
    assert_eq!((below.live(), above.live()), (1, 1));
    assert_eq!(table.list()[0].streams, 1);
    drop((down, up));
    eventually("both answers are dropped", || {
        below.live() + above.live() == 0
    })
    .await;
    assert_eq!(table.list()[0].streams, 0, "the credit came back");
}

#[tokio::test(flavor = "multi_thread")]
async fn used_up_credits_refuse_with_a_time_to_try_again() {
    let pki = Pki::new();
    let below = Script::new(100_000, 5);
    let (link, table) = gateway(&pki, Script::new(1, 0));
    let credentials = pki.credentials(EDGE);
    let (source, brain) = (Steady::new(2), below.clone());
    let _node = node(&credentials, EDGE, link.local_addr(), source, brain);
    let way_down = joined(&table, "edge-1").await;
    let ask = async || way_down.infer(request("ann"), Context::default()).await;

    let first = ask().await.unwrap();
    let _second = ask().await.unwrap();
    let full = ask().await.err().expect("two credits carry two streams");
    assert_eq!(full.class, ErrorClass::Exhausted);
    assert_eq!(full.reason, "QUEUE_FULL");
    let wait = full
        .retry_after
        .expect("a full node says when to try again");
    assert!(wait > Duration::ZERO && wait <= Duration::from_secs(30));
    drop(first);
    let _third = ask().await.expect("a dropped answer frees its credit");
}
