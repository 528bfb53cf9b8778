//! The doors' side of the wire: an application with an AWS SDK whose endpoint
//! URL points at the mesh, and requests that are wrong.

use crate::brain::{BEDROCK_ID, answer};
use aws_sdk_bedrockruntime::Client;
use aws_sdk_bedrockruntime::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_bedrockruntime::error::ProvideErrorMetadata;
use aws_sdk_bedrockruntime::types::{
    ContentBlock, ConversationRole, ConverseStreamOutput, InferenceConfiguration, Message,
};
use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, Request, StatusCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tiermesh_bedrock::{ConverseDoor, DoorFuture, VIA_HEADER, routes};
use tiermesh_core::{ErrorClass, InferError, Privacy, RawRequest};
use tower::ServiceExt;

/// Answers, or refuses with what it was given; remembers what it was asked.
#[derive(Default)]
struct Door {
    asked: Mutex<Vec<RawRequest>>,
    refusal: Option<InferError>,
}

impl ConverseDoor for Door {
    fn infer(&self, raw: RawRequest, headers: HeaderMap) -> DoorFuture<'_> {
        assert!(!headers.contains_key(VIA_HEADER));
        self.asked.lock().unwrap().push(raw);
        let answer = match &self.refusal {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(answer(Duration::from_millis(1))),
        };
        Box::pin(async move { answer })
    }
}

async fn sdk(door: &Arc<Door>) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let door = Arc::clone(door) as Arc<dyn ConverseDoor>;
    tokio::spawn(async move { axum::serve(listener, routes(door)).await });
    sdk_at(url)
}

fn sdk_at(url: String) -> Client {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = aws_sdk_bedrockruntime::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("AKID", "secret", None, None, "test"))
        .endpoint_url(url)
        .build();
    Client::from_conf(config)
}

fn user(text: &str) -> Message {
    Message::builder()
        .role(ConversationRole::User)
        .content(ContentBlock::Text(text.into()))
        .build()
        .unwrap()
}

#[tokio::test]
async fn an_sdk_application_streams_from_the_mesh() {
    let door = Arc::new(Door::default());
    let sent = sdk(&door)
        .await
        .converse_stream()
        .model_id(BEDROCK_ID)
        .messages(user("hello"))
        .request_metadata("privacy", "edge")
        .inference_config(InferenceConfiguration::builder().max_tokens(9).build())
        .send();
    let mut output = sent.await.unwrap();
    let (mut text, mut stop, mut total) = (String::new(), None, None);
    while let Some(event) = output.stream.recv().await.unwrap() {
        match event {
            ConverseStreamOutput::ContentBlockDelta(block) => {
                text.push_str(block.delta.unwrap().as_text().unwrap());
            }
            ConverseStreamOutput::MessageStop(end) => stop = Some(end.stop_reason),
            ConverseStreamOutput::Metadata(end) => total = Some(end.usage.unwrap().total_tokens),
            _ => {}
        }
    }
    assert_eq!(text, "one two สาม five");
    assert_eq!(stop.unwrap().as_str(), "end_turn");
    assert_eq!(total, Some(1_005));
    let asked = door.asked.lock().unwrap();
    assert_eq!(asked[0].model, BEDROCK_ID);
    assert_eq!(asked[0].privacy, Some(Privacy::Edge));
    assert_eq!(asked[0].max_tokens, Some(9));
}

#[tokio::test]
async fn an_sdk_application_gets_a_whole_answer_from_the_mesh() {
    let door = Arc::new(Door::default());
    let arn = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.nova";
    let client = sdk(&door).await;
    let call = client.converse().model_id(arn).messages(user("hello"));
    let output = call.send().await.unwrap();
    assert_eq!(output.usage.unwrap().total_tokens, 1_005);
    let message = output.output.unwrap();
    let content = &message.as_message().unwrap().content;
    assert_eq!(content[0].as_text().unwrap(), "one two สาม five");
    assert_eq!(door.asked.lock().unwrap()[0].model, arn);
}

#[tokio::test]
async fn an_sdk_application_reads_the_meshs_refusals_as_bedrocks() {
    let cases = [
        (ErrorClass::InvalidArgument, "ValidationException"),
        (ErrorClass::NotFound, "ResourceNotFoundException"),
        (ErrorClass::Forbidden, "AccessDeniedException"),
        (ErrorClass::DeadlineExceeded, "ModelTimeoutException"),
    ];
    for (class, code) in cases {
        let door = Arc::new(Door {
            refusal: Some(InferError::new(class, "REASON", "the cause and the fix")),
            ..Door::default()
        });
        let client = sdk(&door).await;
        let call = client.converse_stream().model_id("m").messages(user("hi"));
        let error = call.send().await.unwrap_err().into_service_error();
        assert_eq!(error.code(), Some(code));
        assert_eq!(error.message(), Some("the cause and the fix"));
    }
}

async fn post(path: &str, body: impl Into<Body>, via: bool) -> Response {
    let mut request = Request::post(path).header("content-type", "application/json");
    if via {
        request = request.header(VIA_HEADER, "gateway-1");
    }
    let request = request.body(body.into()).unwrap();
    let refusal = InferError::new(ErrorClass::Exhausted, "SOME_REASON", "later")
        .retry_after(Duration::from_millis(1_200));
    let door = Arc::new(Door {
        refusal: Some(refusal),
        ..Door::default()
    });
    routes(door).oneshot(request).await.unwrap()
}

async fn told(response: Response) -> (StatusCode, String, String) {
    let status = response.status();
    let kind = response.headers()["x-amzn-errortype"].to_str().unwrap();
    let kind = kind.to_owned();
    let body = axum::body::to_bytes(response.into_body(), 10_000)
        .await
        .unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    (status, kind, body["message"].as_str().unwrap().to_owned())
}

const HELLO: &str = r#"{"messages":[{"role":"user","content":[{"text":"hi"}]}]}"#;

#[tokio::test]
async fn the_mesh_never_calls_itself() {
    let (status, kind, message) = told(post("/model/m/converse", HELLO, true).await).await;
    assert_eq!(
        (status, kind.as_str()),
        (StatusCode::FORBIDDEN, "AccessDeniedException")
    );
    assert!(message.contains("endpoint_url"), "{message}");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said() {
    let path = "/model/m/converse";
    let (status, kind, _) = told(post(path, "{", false).await).await;
    assert_eq!(
        (status, kind.as_str()),
        (StatusCode::BAD_REQUEST, "ValidationException")
    );
    let (status, _, message) = told(post(path, vec![b' '; 1_048_577], false).await).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(message.contains("1048576"), "{message}");
    for path in ["/model/m/invoke", "/model/converse", "/model/m"] {
        let (status, kind, _) = told(post(path, HELLO, false).await).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(kind, "UnknownOperationException");
    }
    let (status, _, _) = told(post("/model/%ff/converse", HELLO, false).await).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_refusal_says_when_to_come_back_in_whole_seconds() {
    let response = post("/model/a/b:c/converse-stream", HELLO, false).await;
    assert_eq!(response.headers()["retry-after"], "2");
    assert_eq!(response.headers()["x-tiermesh-reason"], "SOME_REASON");
    let (status, kind, _) = told(response).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(kind, "ThrottlingException");
}

#[tokio::test]
async fn the_standin_gives_whole_answers_too() {
    let standin = crate::brain::standin(Duration::ZERO).await;
    let client = sdk_at(standin.endpoint_url());
    let call = client.converse().model_id(BEDROCK_ID).messages(user("hi"));
    let output = call.send().await.unwrap();
    assert_eq!(output.usage.unwrap().output_tokens, 5);
    assert!(!standin.seen()[0].is_streaming && standin.seen()[0].via.is_none());
    assert_eq!((standin.active(), standin.abandoned()), (0, 0));
}

#[tokio::test]
async fn the_standin_wants_a_signature() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let standin = crate::brain::standin(Duration::ZERO).await;
    for (header, kind) in [
        ("", "MissingAuthenticationTokenException"),
        ("authorization: Bearer x\r\n", "UnrecognizedClientException"),
    ] {
        let mut socket = tokio::net::TcpStream::connect(standin.addr())
            .await
            .unwrap();
        let head = format!(
            "POST /model/{BEDROCK_ID}/converse HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}content-length: {}\r\n\r\n{HELLO}",
            HELLO.len()
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut told = String::new();
        socket.read_to_string(&mut told).await.unwrap();
        assert!(told.starts_with("HTTP/1.1 403"), "{told}");
        assert!(told.contains(kind), "{told}");
    }
}
