//! What answers behind the stand-in and the doors here, and how it is asked.

use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_bedrock::{
    BedrockCloud, BedrockConfig, BedrockModel, CredentialSource, Standin, StandinHandle,
    StandinOptions, Wiring,
};
use tiermesh_core::{
    Content, Context, Destination, Done, Event, EventStream, FinishReason, Infer, InferError,
    InferFuture, ModelId, MonotonicClock, NodeId, RawRequest, Request, Sealed, Tier, Token, Usage,
    Usd, privacy,
};
use tokio::net::TcpListener;

pub(crate) const BEDROCK_ID: &str = "amazon.nova-lite-v1:0";
pub(crate) const WORDS: [&str; 5] = ["one ", "two ", "สาม ", "", "five"];

/// Says [`WORDS`], one every `pause`.
pub(crate) struct Brain {
    pub(crate) pause: Duration,
}

pub(crate) fn answer(pause: Duration) -> EventStream {
    let words = WORDS.iter().enumerate().map(|(at, word)| Event::Tokens {
        first_seq: at as u64,
        items: vec![Token {
            text: (*word).into(),
            id: Some(7),
            logprob: None,
            detail: None,
        }],
    });
    let done = Event::Done(Box::new(Done {
        finish: FinishReason::Stop,
        usage: Usage {
            input_tokens: 1_000,
            output_tokens: 5,
        },
        cost: Usd::ZERO,
        first_token: None,
        total: Duration::from_millis(9),
        attempts: Vec::new(),
    }));
    let events: Vec<_> = words.chain([done]).map(Ok).collect();
    Box::pin(futures::stream::iter(events).then(move |event| async move {
        tokio::time::sleep(pause).await;
        event
    }))
}

impl Infer for Brain {
    fn infer(&self, request: Arc<Sealed<Request>>, context: Context) -> InferFuture<'_> {
        Box::pin(async move {
            assert_eq!(context.model.unwrap().as_str(), "tiny");
            let here = Destination {
                tier: Tier::Cloud,
                region: None,
                node: NodeId::new("brain").unwrap(),
                owner: None,
            };
            let pass = privacy::permit(&request, &here)?;
            assert!(request.open(&pass, &here.node)?.bytes() > 0);
            Ok(answer(self.pause))
        })
    }
}

pub(crate) async fn standin(pause: Duration) -> StandinHandle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = StandinOptions {
        models: [(BEDROCK_ID.to_owned(), ModelId::new("tiny").unwrap())].into(),
        keep_bodies: true,
    };
    Standin::start(listener, Arc::new(Brain { pause }), options).unwrap()
}

pub(crate) fn model(id: &str, model_id: &str) -> BedrockModel {
    BedrockModel {
        id: ModelId::new(id).unwrap(),
        family: "nova".into(),
        model_id: model_id.into(),
        context_tokens: 300_000,
        quality: 0.8,
        input_usd_per_million: 0.06,
        output_usd_per_million: 0.24,
        priced_on: "2026-11-20".into(),
        first_token_ms: 600.0,
        decode_tok_s: 60.0,
        assistant_prefill: None,
    }
}

pub(crate) fn config(endpoint_url: String) -> BedrockConfig {
    BedrockConfig {
        region: Some("us-east-1".into()),
        endpoint_url: Some(endpoint_url),
        idle_timeout_ms: 300,
        connect_timeout_ms: 1_000,
        models: vec![
            model("nova-lite", BEDROCK_ID),
            model("unknown-there", "amazon.none-v9:9"),
        ],
        ..BedrockConfig::default()
    }
}

pub(crate) fn wiring(credentials: CredentialSource) -> Wiring {
    Wiring {
        credentials,
        clock: Arc::new(MonotonicClock::new()),
        gateway: NodeId::new("gateway-1").unwrap(),
    }
}

pub(crate) async fn cloud(standin: &StandinHandle) -> BedrockCloud {
    let wiring = wiring(CredentialSource::Standin);
    BedrockCloud::connect(config(standin.endpoint_url()), wiring)
        .await
        .unwrap()
}

pub(crate) fn request(change: impl FnOnce(&mut RawRequest)) -> Arc<Sealed<Request>> {
    let mut raw = RawRequest {
        request_id: "r-1".into(),
        user_id: "ann".into(),
        policy: "interactive".into(),
        model: "nova-lite".into(),
        content: Some(Content::Prompt("say \"five\" words, ลูกค้า".into())),
        ..RawRequest::default()
    };
    change(&mut raw);
    Arc::new(Sealed::new(raw.validate().unwrap()))
}

/// The texts with their numbers checked, and how it ended.
pub(crate) async fn read(mut events: EventStream) -> (Vec<String>, Result<Done, InferError>) {
    let mut texts = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Tokens { first_seq, items }) => {
                assert_eq!(first_seq, texts.len() as u64, "a gap or a repetition");
                texts.extend(items.into_iter().map(|token| token.text));
            }
            Ok(Event::Done(done)) => {
                assert!(events.next().await.is_none(), "nothing follows Done");
                return (texts, Ok(*done));
            }
            Ok(other) => panic!("unexpected {other:?}"),
            Err(error) => {
                assert!(events.next().await.is_none(), "nothing follows an error");
                return (texts, Err(error));
            }
        }
    }
    panic!("the stream ended without Done");
}

pub(crate) async fn ask(cloud: &BedrockCloud) -> Result<EventStream, InferError> {
    cloud.infer(request(|_| {}), Context::default()).await
}

/// Waits for something another task does.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}
