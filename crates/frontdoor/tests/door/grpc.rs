//! The gRPC services.

use crate::fake::{End, Fake, Script, open, open_with};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tiermesh_core::{ErrorClass, InferError, Privacy};
use tiermesh_proto::v1;
use tiermesh_proto::v1::fleet_client::FleetClient;
use tiermesh_proto::v1::inference_client::InferenceClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use v1::infer_event::Event as Wire;

pub(crate) async fn channel(address: std::net::SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

pub(crate) fn prompt() -> v1::InferRequest {
    v1::InferRequest {
        content: Some(v1::infer_request::Content::Prompt("a title".into())),
        ..v1::InferRequest::default()
    }
}

pub(crate) async fn all(
    mut stream: tonic::Streaming<v1::InferEvent>,
) -> (Vec<Wire>, Result<(), Status>) {
    let mut events = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(event)) => events.push(event.event.unwrap()),
            Ok(None) => return (events, Ok(())),
            Err(status) => return (events, Err(status)),
        }
    }
}

#[tokio::test]
async fn events_arrive_in_order_and_name_their_request() {
    let fake = Fake::new(Script::default());
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let request = v1::InferRequest {
        request_id: "r-1".into(),
        seed: Some(5),
        ..prompt()
    };
    let response = client.infer(request).await.unwrap();
    assert_eq!(response.metadata().get("x-tiermesh-seed").unwrap(), "5");
    let (events, end) = all(response.into_inner()).await;
    end.unwrap();
    let Wire::Accepted(accepted) = &events[0] else {
        panic!("{events:?}")
    };
    assert_eq!(accepted.request_id, "r-1");
    assert_eq!(accepted.decision.as_ref().unwrap().node, "edge-1");
    for (at, event) in events[1..5].iter().enumerate() {
        let Wire::Tokens(tokens) = event else {
            panic!("{event:?}")
        };
        assert_eq!(tokens.first_seq, at as u64);
    }
    assert!(matches!(&events[5], Wire::Done(done) if done.output_tokens == 4));
    assert_eq!(events.len(), 6);
}

#[tokio::test]
async fn the_door_fills_its_defaults_in() {
    let fake = Fake::new(Script::default());
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    for _ in 0..2 {
        let response = client.infer(prompt()).await.unwrap();
        all(response.into_inner()).await.1.unwrap();
    }
    let seen = fake.seen.lock().unwrap();
    let (first, second) = (&seen[0].0, &seen[1].0);
    assert_eq!(first.user_id.as_str(), "somebody");
    assert_eq!(first.policy.as_str(), "interactive");
    assert_ne!(first.request_id, second.request_id);
    assert_ne!(first.seed, second.seed);
}

#[tokio::test]
async fn bad_fields_are_named() {
    let fake = Fake::new(Script::default());
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let bad: [(v1::InferRequest, &str); 4] = [
        (v1::InferRequest::default(), "content"),
        (
            v1::InferRequest {
                privacy: 77,
                ..prompt()
            },
            "privacy",
        ),
        (
            v1::InferRequest {
                model: "a b".into(),
                ..prompt()
            },
            "model",
        ),
        (
            v1::InferRequest {
                max_cost_usd: Some(f64::NAN),
                ..prompt()
            },
            "max_cost_usd",
        ),
    ];
    for (request, field) in bad {
        let status = client.infer(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, field);
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("INVALID_FIELD", "tiermesh")
        );
    }
    assert_eq!(fake.live.load(Ordering::SeqCst), 0);
}

#[derive(Clone, PartialEq, prost::Message)]
struct Bytes {
    #[prost(bytes, tag = "4")]
    prompt: Vec<u8>,
    #[prost(bytes, tag = "6")]
    model: Vec<u8>,
}

async fn raw_infer(address: std::net::SocketAddr, message: Bytes) -> Status {
    let mut grpc = tonic::client::Grpc::new(channel(address).await);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<Bytes, v1::InferEvent>::default();
    let path = http::uri::PathAndQuery::from_static("/tiermesh.v1.Inference/Infer");
    let answer = grpc.server_streaming(Request::new(message), path, codec);
    answer.await.unwrap_err()
}

#[tokio::test]
async fn text_that_is_none_names_its_field() {
    let house = open(&Fake::new(Script::default())).await;
    let message = Bytes {
        prompt: b"a title".to_vec(),
        model: vec![0xff, 0xfe],
    };
    let status = raw_infer(house.address, message).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    assert_eq!(
        details.bad_request().unwrap().field_violations[0].field,
        "model"
    );
    assert_eq!(details.error_info().unwrap().reason, "MALFORMED_REQUEST");
}

#[tokio::test]
async fn a_message_over_a_mebibyte_is_refused() {
    let house = open(&Fake::new(Script::default())).await;
    let message = Bytes {
        prompt: vec![b'a'; 1024 * 1024 + 1],
        model: Vec::new(),
    };
    let status = raw_infer(house.address, message).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "MESSAGE_TOO_LARGE");
}

#[tokio::test]
async fn a_failure_in_mid_stream_carries_its_details() {
    let lost = InferError::unavailable("the node died").retry_after(Duration::from_millis(250));
    let fake = Fake::new(Script {
        end: End::Fail(lost),
        ..Script::default()
    });
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let response = client.infer(prompt()).await.unwrap();
    let (events, end) = all(response.into_inner()).await;
    assert_eq!(events.len(), 5);
    let status = end.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let details = status.get_error_details();
    assert_eq!(
        details.retry_info().unwrap().retry_delay,
        Some(Duration::from_millis(250))
    );
    fake.all_dropped().await;
}

#[tokio::test]
async fn an_answer_without_its_end_is_an_error() {
    let fake = Fake::new(Script {
        end: End::CutOff,
        ..Script::default()
    });
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let response = client.infer(prompt()).await.unwrap();
    let status = all(response.into_inner()).await.1.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
}

#[tokio::test]
async fn content_at_the_wrong_door_is_sent_to_the_right_one() {
    let fake = Fake::new(Script::default());
    let house = open_with(&fake, None, |options| {
        options.guard = Some(Arc::new(|meta, caller| {
            if meta.privacy > Privacy::Edge || caller.ticket == Some("good") {
                return Ok(());
            }
            let refusal = InferError::new(ErrorClass::Forbidden, "WRONG_DOOR", "ask the edge");
            Err(refusal.with("endpoint", "http://127.0.0.1:8081"))
        }));
    })
    .await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let edge = v1::InferRequest {
        privacy: v1::Privacy::Edge as i32,
        ..prompt()
    };
    let status = client.infer(edge.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let info = status.get_error_details().error_info().unwrap().clone();
    assert_eq!(info.reason, "WRONG_DOOR");
    assert_eq!(info.metadata["endpoint"], "http://127.0.0.1:8081");
    let mut ticketed = Request::new(edge.clone());
    ticketed
        .metadata_mut()
        .insert("tiermesh-ticket", "good".parse().unwrap());
    client.infer(ticketed).await.unwrap();
    client
        .explain(edge)
        .await
        .expect("explanations carry no content on");
}

#[tokio::test]
async fn explain_needs_no_content_and_locate_names_an_endpoint() {
    let fake = Fake::new(Script::default());
    let house = open(&fake).await;
    let channel = channel(house.address).await;
    let mut client = InferenceClient::new(channel.clone());
    let decision = client.explain(v1::InferRequest::default()).await.unwrap();
    assert_eq!(decision.into_inner().reasons[0].code, "no_credit");
    let located = client.locate(v1::LocateRequest::default()).await.unwrap();
    assert_eq!(located.into_inner().endpoints[0].ticket, "for somebody");
    let nowhere = v1::LocateRequest {
        region: "r".into(),
        ..v1::LocateRequest::default()
    };
    let status = client.locate(nowhere).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let models = client.list_models(v1::ListModelsRequest {}).await.unwrap();
    assert_eq!(models.into_inner().models[0].tiers, [1, 2]);
    let nodes = FleetClient::new(channel)
        .list_nodes(v1::ListNodesRequest {})
        .await;
    let node = &nodes.unwrap().into_inner().nodes[0];
    assert_eq!((node.breaker.as_str(), node.slots), ("half_open", 3));
}

#[tokio::test]
async fn health_speaks_of_every_service() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    let house = open(&Fake::new(Script::default())).await;
    let mut client = HealthClient::new(channel(house.address).await);
    for service in ["", "tiermesh.v1.Inference", "tiermesh.v1.Fleet"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let status = client.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving);
    }
    let request = HealthCheckRequest {
        service: "nobody".into(),
    };
    assert_eq!(
        client.check(request).await.unwrap_err().code(),
        Code::NotFound
    );
}

macro_rules! reflection_lists_every_service {
    ($name:ident, $version:ident) => {
        #[tokio::test]
        async fn $name() {
            use tonic_reflection::pb::$version as pb;
            let house = open(&Fake::new(Script::default())).await;
            let channel = channel(house.address).await;
            let mut client = pb::server_reflection_client::ServerReflectionClient::new(channel);
            let ask = pb::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(pb::server_reflection_request::MessageRequest::ListServices(
                    String::new(),
                )),
            };
            let answers = client.server_reflection_info(futures::stream::iter([ask]));
            let mut answers = answers.await.unwrap().into_inner();
            let answer = answers.message().await.unwrap().unwrap();
            let services = match answer.message_response.unwrap() {
                pb::server_reflection_response::MessageResponse::ListServicesResponse(list) => {
                    list.service
                }
                other => panic!("{other:?}"),
            };
            let names: Vec<_> = services.iter().map(|s| s.name.as_str()).collect();
            for name in [
                "tiermesh.v1.Inference",
                "tiermesh.v1.Fleet",
                "grpc.health.v1.Health",
            ] {
                assert!(names.contains(&name), "{name} of {names:?}");
            }
        }
    };
}

reflection_lists_every_service!(reflection_v1_lists_every_service, v1);
reflection_lists_every_service!(reflection_v1alpha_lists_every_service, v1alpha);

#[tokio::test]
async fn unknown_methods_are_unimplemented() {
    let house = open(&Fake::new(Script::default())).await;
    for path in ["/tiermesh.v1.Inference/Forget", "/no.such.Service/Method"] {
        let mut grpc = tonic::client::Grpc::new(channel(house.address).await);
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<Bytes, v1::InferEvent>::default();
        let path = http::uri::PathAndQuery::from_static(path);
        let answer = grpc
            .unary(Request::new(Bytes::default()), path, codec)
            .await;
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    }
}

#[tokio::test]
async fn tokens_are_not_held_back() {
    let fake = Fake::new(Script {
        words: vec!["a", "b"],
        gap: Duration::from_millis(40),
        end: End::Hang,
        ..Script::default()
    });
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let mut stream = client.infer(prompt()).await.unwrap().into_inner();
    let begun = Instant::now();
    stream.message().await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_millis(30),
        "the decision waits for nothing"
    );
    stream.message().await.unwrap();
    stream.message().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2));
}
