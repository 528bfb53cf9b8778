//! Deadlines, cancellation and the bound on streams.

use crate::fake::{End, Fake, Script, open, open_with};
use crate::grpc::{all, channel, prompt};
use crate::raw_http::{exchange, post};
use prost::Message as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tiermesh_core::InferError;
use tiermesh_proto::v1;
use tiermesh_proto::v1::inference_client::InferenceClient;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

fn endless() -> Script {
    Script {
        end: End::Hang,
        ..Script::default()
    }
}

fn total(ms: u64) -> v1::InferRequest {
    v1::InferRequest {
        deadline_ms: Some(v1::DeadlineMs {
            first_token: None,
            total: Some(ms),
        }),
        ..prompt()
    }
}

#[tokio::test]
async fn grpc_timeout_ends_a_stream_in_its_middle() {
    let fake = Fake::new(endless());
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let mut request = Request::new(prompt());
    request.set_timeout(Duration::from_millis(150));
    let begun = Instant::now();
    let response = client.infer(request).await.unwrap();
    let (events, end) = all(response.into_inner()).await;
    let took = begun.elapsed();
    assert_eq!(events.len(), 5, "the tokens came before the deadline");
    assert_eq!(end.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(took >= Duration::from_millis(140), "{took:?}");
    assert!(took < Duration::from_millis(1500), "{took:?}");
    fake.all_dropped().await;
}

#[tokio::test]
async fn the_tighter_deadline_wins() {
    let fake = Fake::new(endless());
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    for (timeout, total_ms) in [(60_000, 100), (100, 60_000)] {
        let mut request = Request::new(total(total_ms));
        request.set_timeout(Duration::from_millis(timeout));
        let response = client.infer(request).await.unwrap();
        let status = all(response.into_inner()).await.1.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }
    let seen = fake.seen.lock().unwrap();
    assert!(
        seen.iter()
            .all(|(_, context)| context.deadline.total.is_some())
    );
}

#[tokio::test]
async fn a_model_that_is_always_ready_does_not_outrun_its_deadline() {
    let fake = Fake::new(Script {
        words: vec!["word "; 3_000_000],
        ..Script::default()
    });
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let response = client.infer(total(100)).await.unwrap();
    let status = all(response.into_inner()).await.1.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

/// One grpc-web call by hand, which sends what a gRPC client would not.
async fn web(address: std::net::SocketAddr, timeout: &str) -> crate::raw_http::Reply {
    let message = prompt().encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&message);
    let headers = [
        ("content-type", "application/grpc-web+proto"),
        ("grpc-timeout", timeout),
    ];
    let request = post("/tiermesh.v1.Inference/Infer", &headers, &body);
    exchange(address, &request).await
}

#[tokio::test]
async fn a_timeout_of_zero_is_over_at_once() {
    let fake = Fake::new(Script::default());
    let house = open(&fake).await;
    let reply = web(house.address, "0m").await;
    assert_eq!(
        reply.header("grpc-status"),
        (Code::DeadlineExceeded as i32).to_string()
    );
    assert!(fake.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_timeout_that_is_none_is_refused() {
    let fake = Fake::new(Script::default());
    let house = open(&fake).await;
    let reply = web(house.address, "soon").await;
    assert_eq!(
        reply.header("grpc-status"),
        (Code::InvalidArgument as i32).to_string()
    );
    assert!(reply.header("grpc-message").contains("grpc-timeout"));
}

#[tokio::test]
async fn grpc_web_streams_over_http1() {
    let house = open(&Fake::new(Script::default())).await;
    let reply = web(house.address, "5S").await;
    assert_eq!(reply.status, 200);
    let text = String::from_utf8_lossy(&reply.body);
    assert!(
        text.contains("Galaxy") && text.contains("grpc-status:0"),
        "{text}"
    );
}

#[tokio::test]
async fn a_client_that_cancels_stops_the_work() {
    let fake = Fake::new(endless());
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let mut stream = client.infer(prompt()).await.unwrap().into_inner();
    stream.message().await.unwrap();
    assert_eq!(fake.live.load(Ordering::SeqCst), 1);
    drop(stream);
    fake.all_dropped().await;
    // The connection lives on.
    client.explain(prompt()).await.unwrap();
}

#[tokio::test]
async fn one_stream_too_many_hears_when_to_come_back() {
    let fake = Fake::new(endless());
    let house = open_with(&fake, None, |options| options.max_streams = 2).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let first = client.infer(prompt()).await.unwrap();
    let _second = client.infer(prompt()).await.unwrap();
    let begun = Instant::now();
    let status = client.infer(prompt()).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(status.code(), Code::ResourceExhausted);
    let delay = status.get_error_details().retry_info().unwrap().retry_delay;
    assert!(delay.is_some_and(|delay| !delay.is_zero()));
    drop(first);
    let freed = async {
        while client.infer(prompt()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let bound = Duration::from_secs(2);
    tokio::time::timeout(bound, freed)
        .await
        .expect("a slot came free");
}

#[tokio::test]
async fn refusals_and_failures_give_their_slots_back() {
    for script in [
        Script {
            refuse: Some(InferError::unavailable("nobody is there")),
            ..Script::default()
        },
        Script {
            end: End::Fail(InferError::unavailable("gone")),
            ..Script::default()
        },
        Script::default(),
    ] {
        let fake = Fake::new(script);
        let house = open_with(&fake, None, |options| options.max_streams = 1).await;
        let mut client = InferenceClient::new(channel(house.address).await);
        for _ in 0..3 {
            let end = match client.infer(prompt()).await {
                Ok(response) => all(response.into_inner()).await.1,
                Err(status) => Err(status),
            };
            let code = end.err().map(|status| status.code());
            assert!(matches!(code, None | Some(Code::Unavailable)), "{code:?}");
        }
    }
}

#[tokio::test]
async fn a_deadline_holds_for_a_reader_that_does_not_read() {
    let fake = Fake::new(Script {
        words: vec!["word "; 3_000_000],
        ..Script::default()
    });
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let unread = client.infer(total(200)).await.unwrap();
    fake.all_dropped().await;
    drop(unread);
}

#[tokio::test]
async fn a_reader_that_does_not_read_loses_its_slot() {
    let fake = Fake::new(Script {
        words: vec!["word "; 3_000_000],
        ..Script::default()
    });
    let house = open_with(&fake, None, |options| {
        options.max_streams = 1;
        options.write_timeout = Duration::from_millis(300);
    })
    .await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let unread = client.infer(prompt()).await.unwrap();
    fake.all_dropped().await;
    // Another may come, and the slow one is told in the end.
    drop(client.infer(prompt()).await.unwrap());
    let status = all(unread.into_inner()).await.1.unwrap_err();
    assert_eq!(status.code(), Code::Cancelled);
}

#[tokio::test]
async fn a_reader_that_waits_for_the_model_is_not_cut_off() {
    let fake = Fake::new(Script {
        words: vec!["late"],
        gap: Duration::from_millis(1500),
        ..Script::default()
    });
    let house = open_with(&fake, None, |options| {
        options.write_timeout = Duration::from_millis(300);
    })
    .await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let response = client.infer(prompt()).await.unwrap();
    all(response.into_inner()).await.1.unwrap();
}
