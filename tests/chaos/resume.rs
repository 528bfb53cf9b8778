//! Clients lose their connection and go on with their answer.

use crate::spec;
use std::time::Duration;
use tiermesh_harness::Mesh;
use tiermesh_harness::client::{Client, ask, client, prompt, reason};
use tiermesh_proto::v1;
use tiermesh_proto::v1::infer_event::Event;
use tonic::{Code, Streaming};

const TOKENS: u32 = 600;
const WITHIN: Duration = Duration::from_secs(60);

fn request() -> v1::InferRequest {
    let mut request = prompt("a title of some length", TOKENS);
    request.policy = "iot".to_owned();
    request.seed = Some(5);
    request.resumable = true;
    if let Some(sampling) = &mut request.sampling {
        sampling.temperature = Some(0.9);
    }
    request
}

#[derive(Default)]
struct Heard {
    token: String,
    first: Option<u64>,
    ids: Vec<u32>,
    text: String,
}

/// Reads at least so many tokens, or to the end.
async fn read(mut stream: Streaming<v1::InferEvent>, most: usize) -> Heard {
    let mut heard = Heard::default();
    let reading = async {
        while heard.ids.len() < most {
            let Some(event) = stream.message().await.unwrap() else {
                return;
            };
            match event.event {
                Some(Event::Accepted(accepted)) => heard.token = accepted.resume_token,
                Some(Event::Seam(seam)) => heard.token = seam.resume_token,
                Some(Event::Tokens(tokens)) => {
                    let first = *heard.first.get_or_insert(tokens.first_seq);
                    assert_eq!(tokens.first_seq, first + heard.ids.len() as u64);
                    for token in tokens.items {
                        heard.ids.extend(token.id);
                        heard.text.push_str(&token.text);
                    }
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(WITHIN, reading).await.unwrap();
    heard
}

async fn resume(
    gateway: &mut Client,
    resume: v1::ResumeRequest,
) -> Result<Streaming<v1::InferEvent>, tonic::Status> {
    Ok(gateway.resume(resume).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_goes_on_with_its_answer_and_nobody_else_does() {
    let mut spec = spec();
    (spec.device, spec.standin) = (false, false);
    let mesh = Mesh::start(&spec).await.unwrap();
    let mut gateway = client(mesh.gateway.endpoint()).await.unwrap();
    let whole = ask(&mut gateway, request()).await.unwrap();
    let ids: Vec<u32> = whole.ids().into_iter().flatten().collect();
    assert_eq!(ids.len(), TOKENS as usize);

    let stream = gateway.infer(request()).await.unwrap().into_inner();
    let lost = read(stream, 100).await;
    assert!(!lost.token.is_empty(), "the answer tells a token");
    let has = lost.ids.len();
    let brought = v1::ResumeRequest {
        request: Some(request()),
        resume_token: lost.token.clone(),
        next_seq: has as u64,
        ..v1::ResumeRequest::default()
    };
    // With the ids it has, and without: said again, and left out.
    for emitted_ids in [lost.ids.clone(), Vec::new()] {
        let again = v1::ResumeRequest {
            emitted_ids,
            ..brought.clone()
        };
        let stream = resume(&mut gateway, again).await.unwrap();
        let rest = read(stream, usize::MAX).await;
        assert_eq!(rest.first, Some(has as u64));
        assert_eq!([lost.ids.clone(), rest.ids].concat(), ids);
        assert_eq!(lost.text.clone() + &rest.text, whole.text());
        assert!(!rest.token.is_empty(), "and it can be lost once more");
    }

    let changed = |change: fn(&mut v1::ResumeRequest)| {
        let mut resume = brought.clone();
        change(&mut resume);
        resume
    };
    fn asked(resume: &mut v1::ResumeRequest) -> &mut v1::InferRequest {
        resume.request.as_mut().unwrap()
    }
    for (refused, code) in [
        (
            changed(|r| asked(r).user_id = "eve".into()),
            Code::PermissionDenied,
        ),
        (
            changed(|r| asked(r).policy = "interactive".into()),
            Code::InvalidArgument,
        ),
        (
            changed(|r| asked(r).content = Some(v1::infer_request::Content::Prompt("b".into()))),
            Code::InvalidArgument,
        ),
        (
            changed(|r| r.resume_token.replace_range(9..10, "x")),
            Code::PermissionDenied,
        ),
        (changed(|r| r.resume_token.clear()), Code::InvalidArgument),
        (changed(|r| r.next_seq = 9_999), Code::InvalidArgument),
        (
            changed(|r| r.emitted_ids = vec![1, 2]),
            Code::InvalidArgument,
        ),
    ] {
        let status = resume(&mut gateway, refused).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        let reason = reason(&status);
        assert!(
            ["RESUME_REFUSED", "INVALID_FIELD"].contains(&&*reason),
            "{reason}"
        );
    }
    mesh.stop().await.unwrap();
}
