//! The good path, and what ends an answer from our side.

use crate::brain::{BEDROCK_ID, ask, cloud, config, eventually, read, request, standin, wiring};
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{
    ProvideCredentials, Result as Provided, SharedCredentialsProvider, future,
};
use aws_sdk_bedrockruntime::config::Credentials;
use futures::StreamExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tiermesh_bedrock::{BedrockCloud, ConnectError, CredentialSource, Fault};
use tiermesh_core::{
    Context, Continuation, Deadline, ErrorClass, Event, FinishReason, Infer, ModelId, NodeId,
    PermitScope, Privacy, Task, Tier, Time, Usd, Via,
};

const NO_PAUSE: Duration = Duration::ZERO;

#[tokio::test]
async fn an_answer_arrives_whole_with_its_price() {
    let standin = standin(NO_PAUSE).await;
    let cloud = cloud(&standin).await;
    let context = Context {
        via: Via::from_hops([NodeId::new("phone").unwrap()]).unwrap(),
        ..Context::default()
    };
    let events = cloud.infer(request(|_| {}), context).await.unwrap();
    let (texts, done) = read(events).await;
    let done = done.unwrap();
    assert_eq!(texts, ["one ", "two ", "สาม ", "five"]);
    assert_eq!(done.finish, FinishReason::Stop);
    assert_eq!(
        (done.usage.input_tokens, done.usage.output_tokens),
        (1_000, 5)
    );
    // 1,000 tokens at $0.06 and 5 at $0.24 a million.
    assert_eq!(done.cost, Usd::from_nanos(60_000 + 1_200));
    assert_eq!(done.attempts[0].tier, Tier::Cloud);

    let seen = standin.seen();
    assert_eq!(seen[0].model_id, BEDROCK_ID, "the `:` arrives decoded");
    assert_eq!(seen[0].via.as_deref(), Some("phone, gateway-1"));
    assert!(standin.saw_bytes("say \"five\" words, ลูกค้า"));
    assert!(cloud.place().contains("stand-in"));
    let measured = cloud.candidates()[0].state.first_token_ms;
    assert!(measured < 600.0, "the prior moves: {measured}");
    assert_eq!(cloud.active(), 0);
    eventually("the answer is over", || standin.active() == 0).await;
    assert_eq!(standin.abandoned(), 0);
}

#[tokio::test]
async fn answers_in_a_row_share_a_connection() {
    let standin = standin(NO_PAUSE).await;
    let cloud = cloud(&standin).await;
    for _ in 0..5 {
        assert!(read(ask(&cloud).await.unwrap()).await.1.is_ok());
    }
    assert_eq!(standin.requests(), 5);
    assert_eq!(standin.connections(), 1);
}

#[tokio::test]
async fn content_that_may_not_travel_is_never_sent() {
    let standin = standin(NO_PAUSE).await;
    let cloud = cloud(&standin).await;
    for privacy in [Privacy::Device, Privacy::Edge] {
        let edge_only = request(|r| r.privacy = Some(privacy));
        let refused = cloud
            .infer(edge_only, Context::default())
            .await
            .err()
            .unwrap();
        assert_eq!(refused.class, ErrorClass::Forbidden);
    }
    let elsewhere = request(|r| r.residency = "ap-southeast-7".into());
    let refused = cloud
        .infer(elsewhere, Context::default())
        .await
        .err()
        .unwrap();
    assert_eq!(refused.reason, "PERMIT_REFUSED");
    let scope = PermitScope::only(Tier::Mec);
    let context = Context {
        scope,
        ..Context::default()
    };
    let refused = cloud.infer(request(|_| {}), context).await.err().unwrap();
    assert_eq!(refused.reason, "OUT_OF_SCOPE");
    assert_eq!(standin.requests(), 0);
    assert!(!standin.saw_bytes("ลูกค้า"));
    assert_eq!(cloud.active(), 0, "a refusal gives its slot back");
}

#[tokio::test]
async fn a_residency_that_is_here_is_served() {
    let standin = standin(NO_PAUSE).await;
    let cloud = cloud(&standin).await;
    let here = request(|r| {
        r.residency = "us-east-1".into();
        r.privacy = Some(Privacy::Region);
    });
    let events = cloud.infer(here, Context::default()).await.unwrap();
    assert!(read(events).await.1.is_ok());
}

#[tokio::test]
async fn what_it_does_not_offer_is_refused_before_anything_is_sent() {
    let standin = standin(NO_PAUSE).await;
    let cloud = cloud(&standin).await;
    let other = request(|r| r.model = "llama".into());
    let refused = cloud.infer(other, Context::default()).await.err().unwrap();
    assert_eq!(refused.reason, "MODEL_NOT_FOUND");
    let embed = request(|r| r.task = Some(Task::Embed));
    let refused = cloud.infer(embed, Context::default()).await.err().unwrap();
    assert_eq!(refused.reason, "TASK_NOT_SERVED");
    let mut context = Context::default();
    context.continuation.emitted_ids = vec![1, 2];
    let refused = cloud.infer(request(|_| {}), context).await.err().unwrap();
    assert_eq!(refused.reason, "CONTINUATION_NOT_SERVED");
    assert!(!refused.class.blames_the_node() && refused.class.another_may_answer());
    assert_eq!(standin.requests(), 0);
}

#[tokio::test]
async fn it_goes_on_from_another_models_text_as_the_assistants_own_turn() {
    let standin = standin(NO_PAUSE).await;
    let cloud = cloud(&standin).await;
    let context = Context {
        continuation: Continuation {
            text: "zero, half ".into(),
            tokens: 4,
            ..Continuation::default()
        },
        ..Context::default()
    };
    let mut events = cloud.infer(request(|_| {}), context).await.unwrap();
    let (mut next, mut text) = (4, String::new());
    let done = loop {
        match events.next().await.unwrap().unwrap() {
            Event::Tokens { first_seq, items } => {
                assert_eq!(first_seq, next, "its numbers are the answer's");
                next += items.len() as u64;
                text.extend(items.into_iter().map(|token| token.text));
            }
            Event::Done(done) => break done,
            other => panic!("unexpected {other:?}"),
        }
    };
    assert_eq!(text, "one two สาม five");
    assert_eq!(done.usage.output_tokens, 5 + 4);
    // 1,000 read and 5 written, at Nova Lite's prices.
    assert_eq!(done.cost.as_nanos(), 61_200);
    assert!(standin.saw_bytes(r#"{"role":"assistant","content":[{"text":"zero, half"}]}"#));
    assert!(standin.saw_bytes(r#""maxTokens":252"#));
}

#[tokio::test]
async fn the_plans_model_is_asked_and_an_unknown_id_is_explained() {
    let standin = standin(NO_PAUSE).await;
    let cloud = cloud(&standin).await;
    let context = Context {
        model: Some(ModelId::new("unknown-there").unwrap()),
        ..Context::default()
    };
    let refused = cloud.infer(request(|_| {}), context).await.err().unwrap();
    assert_eq!(standin.seen()[0].model_id, "amazon.none-v9:9");
    assert!(refused.message.contains("model identifier is invalid"));
    assert!(
        refused
            .metadata
            .iter()
            .any(|(key, _)| *key == "aws_request_id")
    );
}

#[tokio::test]
async fn dropping_the_stream_closes_the_connection_and_frees_the_slot() {
    let standin = standin(Duration::from_millis(30)).await;
    let cloud = cloud(&standin).await;
    let mut events = ask(&cloud).await.unwrap();
    assert!(events.next().await.unwrap().is_ok());
    assert_eq!((cloud.active(), standin.active()), (1, 1));
    drop(events);
    assert_eq!(cloud.active(), 0);
    eventually("the stand-in sees it", || standin.abandoned() == 1).await;
    assert_eq!(standin.active(), 0);
}

#[tokio::test]
async fn one_stream_too_many_is_told_when_to_come_back() {
    let standin = standin(NO_PAUSE).await;
    let mut config = config(standin.endpoint_url());
    config.max_streams = 1;
    let cloud = BedrockCloud::connect(config, wiring(CredentialSource::Standin))
        .await
        .unwrap();
    standin.push_fault(Fault::StallAfter(1));
    let held = ask(&cloud).await.unwrap();
    let refused = ask(&cloud).await.err().unwrap();
    assert_eq!(refused.reason, "BEDROCK_BUSY");
    assert!(refused.retry_after.is_some());
    assert!(!refused.class.blames_the_node());
    drop(held);
    assert!(read(ask(&cloud).await.unwrap()).await.1.is_ok());
}

#[tokio::test]
async fn the_deadline_ends_a_stream_before_the_idle_timer_does() {
    let standin = standin(NO_PAUSE).await;
    let cloud = cloud(&standin).await;
    standin.push_fault(Fault::StallAfter(2));
    // The clock of `wiring` began a moment ago.
    let soon = |ms| Context {
        deadline: Deadline {
            first_token: None,
            total: Some(Time::ZERO + Duration::from_millis(ms)),
        },
        ..Context::default()
    };
    let events = cloud.infer(request(|_| {}), soon(250)).await.unwrap();
    let (texts, end) = read(events).await;
    assert_eq!(texts.len(), 2);
    assert_eq!(end.unwrap_err().class, ErrorClass::DeadlineExceeded);
    let late = cloud.infer(request(|_| {}), soon(1)).await.err().unwrap();
    assert_eq!(late.class, ErrorClass::DeadlineExceeded);
    assert_eq!(standin.requests(), 1);
}

#[tokio::test]
async fn nobody_at_the_endpoint_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let cloud = BedrockCloud::connect(config(url), wiring(CredentialSource::Standin))
        .await
        .unwrap();
    let refused = ask(&cloud).await.err().unwrap();
    assert_eq!(refused.reason, "BEDROCK_UNREACHABLE");
    assert!(refused.class.blames_the_node());
}

/// Gives credentials so many times, then none.
#[derive(Debug)]
struct Expiring(AtomicU32);

impl ProvideCredentials for Expiring {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let left = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        let provided: Provided = match left {
            Ok(_) => Ok(Credentials::new("AKIDTEST", "hidden", None, None, "test")),
            Err(_) => Err(CredentialsError::not_loaded("no providers")),
        };
        future::ProvideCredentials::ready(provided)
    }
}

fn given(times: u32) -> CredentialSource {
    let provider = Expiring(AtomicU32::new(times));
    CredentialSource::Given(SharedCredentialsProvider::new(provider))
}

#[tokio::test]
async fn a_chain_without_credentials_is_told_at_the_start() {
    let standin = standin(NO_PAUSE).await;
    let error = BedrockCloud::connect(config(standin.endpoint_url()), wiring(given(0)))
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::NoCredentials { .. }));
    assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
    let mut config = config(standin.endpoint_url());
    config.endpoint_url = None;
    let error = BedrockCloud::connect(config, wiring(CredentialSource::Standin))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("endpoint_url"), "{error}");
}

#[tokio::test]
async fn credentials_lost_later_are_named_as_the_cause() {
    let standin = standin(NO_PAUSE).await;
    let cloud = BedrockCloud::connect(config(standin.endpoint_url()), wiring(given(1)))
        .await
        .unwrap();
    let refused = ask(&cloud).await.err().unwrap();
    assert_eq!(refused.reason, tiermesh_bedrock::CREDENTIALS_REASON);
    assert!(!refused.message.contains("AKIDTEST"));
    assert_eq!(standin.requests(), 0);
}
