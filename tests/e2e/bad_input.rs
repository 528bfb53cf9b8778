//! What clients get wrong, and what they are told.

use crate::support::{at, long, mesh};
use tiermesh_harness::client::{Client, ask, prompt, reason};
use tiermesh_proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

async fn refused(client: &mut Client, change: impl FnOnce(&mut v1::InferRequest)) -> Status {
    let mut request = prompt("a title", 8);
    change(&mut request);
    let (status, answer) = ask(client, request).await.unwrap_err();
    assert!(answer.accepted.is_empty(), "refused before anything began");
    status
}

fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details
        .bad_request()
        .map(|bad| bad.field_violations.clone());
    let violations = violations.unwrap_or_default().into_iter();
    violations.map(|violation| violation.field).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_are_not_found_and_known_ones_are_listed() {
    let mesh = mesh(|spec| spec.device = true).await;
    for door in [&mesh.gateway, &mesh.edges[0], mesh.device.as_ref().unwrap()] {
        let mut client = at(door).await;
        let status = refused(&mut client, |r| r.model = "gpt-99".into()).await;
        assert_eq!(status.code(), Code::NotFound, "{status:?}");
        assert!(status.message().contains("tiny-llama"), "{status:?}");
        let status = refused(&mut client, |r| r.policy = "yolo".into()).await;
        assert_eq!(status.code(), Code::NotFound, "{status:?}");
        for policy in ["gaming", "interactive"] {
            assert!(status.message().contains(policy), "{status:?}");
        }
    }
}

type Spoil = Box<dyn Fn(&mut v1::InferRequest)>;

#[tokio::test(flavor = "multi_thread")]
async fn bad_fields_are_named() {
    let mesh = mesh(|_| {}).await;
    let cases: Vec<(&str, Spoil)> = vec![
        (
            "prompt",
            Box::new(|r| *r = prompt(&"x".repeat(300 * 1024), 8)),
        ),
        ("prompt", Box::new(|r| r.content = None)),
        (
            "deadline_ms",
            Box::new(|r| {
                r.deadline_ms = Some(v1::DeadlineMs {
                    first_token: None,
                    total: Some(0),
                });
            }),
        ),
        (
            "max_cost_usd",
            Box::new(|r| r.max_cost_usd = Some(f64::NAN)),
        ),
        ("max_cost_usd", Box::new(|r| r.max_cost_usd = Some(-1.0))),
        ("privacy", Box::new(|r| r.privacy = 77)),
        ("task", Box::new(|r| r.task = -1)),
        (
            "sampling.temperature",
            Box::new(|r| r.sampling.as_mut().unwrap().temperature = Some(f32::INFINITY)),
        ),
        (
            "sampling.max_tokens",
            Box::new(|r| r.sampling.as_mut().unwrap().max_tokens = Some(0)),
        ),
        ("user_id", Box::new(|r| r.user_id = "a b\u{0}".into())),
    ];
    for door in [&mesh.gateway, &mesh.edges[0]] {
        let mut client = at(door).await;
        for (field, change) in &cases {
            let status = refused(&mut client, change).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
            let named = fields(&status);
            let last = field.rsplit('.').next().unwrap();
            assert!(
                named
                    .iter()
                    .any(|name| name.contains(last)
                        || (last == "prompt" && name.contains("content"))),
                "{field} of {named:?}: {status:?}"
            );
        }
        let much = refused(&mut client, |r| *r = prompt(&"x".repeat(9 << 20), 8)).await;
        assert_eq!(much.code(), Code::InvalidArgument, "{much:?}");
    }
}

/// The request with its prompt as bytes, for what is no UTF-8.
#[derive(Clone, PartialEq, prost::Message)]
struct RawRequest {
    #[prost(bytes = "vec", tag = "4")]
    prompt: Vec<u8>,
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_no_utf8_is_the_clients_mistake() {
    let mesh = mesh(|_| {}).await;
    for door in [&mesh.gateway, &mesh.edges[0]] {
        let channel = tonic::transport::Channel::from_shared(door.endpoint().to_owned());
        let mut grpc = tonic::client::Grpc::new(channel.unwrap().connect().await.unwrap());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<RawRequest, v1::InferEvent>::default();
        let request = tonic::Request::new(RawRequest {
            prompt: vec![b'a', 0xff, 0xfe],
        });
        let path = http::uri::PathAndQuery::from_static("/tiermesh.v1.Inference/Infer");
        let status = match grpc.server_streaming(request, path, codec).await {
            Ok(answer) => answer.into_inner().message().await.unwrap_err(),
            Err(status) => status,
        };
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(fields(&status) == ["content"], "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_queue_says_when_to_try_again() {
    let mesh = mesh(|spec| {
        spec.streams = 1;
        spec.queue = 1;
    })
    .await;
    let mut edge = at(&mesh.edges[0]).await;
    let private = || {
        let mut request = long();
        request.privacy = v1::Privacy::Edge as i32;
        request
    };
    let mut open = Vec::new();
    let status = loop {
        assert!(open.len() < 8, "a worker and one place take two");
        match edge.infer(private()).await {
            Ok(stream) => open.push(stream),
            Err(status) => break status,
        }
    };
    assert!(!open.is_empty());
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(!reason(&status).is_empty());
    let details = status.get_error_details();
    let wait = details.retry_info().and_then(|info| info.retry_delay);
    assert!(wait.is_some_and(|wait| !wait.is_zero()), "{status:?}");
}
