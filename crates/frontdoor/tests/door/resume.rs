//! Clients that lost their connection and come back.

use crate::fake::{Fake, House, Script, open, open_with};
use crate::grpc::{channel, prompt};
use std::sync::Arc;
use std::time::Duration;
use tiermesh_frontdoor::{Holder, Keys, ReplayBounds};
use tiermesh_identity::{KeyDigest, generate_key};
use tiermesh_proto::v1;
use tiermesh_proto::v1::inference_client::InferenceClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use v1::infer_event::Event as Wire;

const WORDS: [&str; 6] = ["a ", "b ", "c ", "d ", "e ", "f "];

fn script(gap: Duration) -> Script {
    Script {
        words: WORDS.to_vec(),
        gap,
        ..Script::default()
    }
}

fn asked() -> v1::InferRequest {
    v1::InferRequest {
        request_id: "r-1".into(),
        seed: Some(5),
        resumable: true,
        ..prompt()
    }
}

#[derive(Default)]
struct Heard {
    token: String,
    first: Option<u64>,
    text: String,
    done: bool,
}

/// Reads so many tokens, or to the end.
async fn read(stream: &mut Streaming<v1::InferEvent>, most: u64) -> Result<Heard, Status> {
    let (mut heard, mut count) = (Heard::default(), 0);
    while count < most {
        match stream.message().await?.map(|event| event.event.unwrap()) {
            None => break,
            Some(Wire::Accepted(accepted)) => heard.token = accepted.resume_token,
            Some(Wire::Tokens(tokens)) => {
                let first = *heard.first.get_or_insert(tokens.first_seq);
                assert_eq!(tokens.first_seq, first + count, "a gap or a repetition");
                count += tokens.items.len() as u64;
                heard
                    .text
                    .extend(tokens.items.into_iter().map(|token| token.text));
            }
            Some(Wire::Done(_)) => heard.done = true,
            Some(other) => panic!("{other:?}"),
        }
    }
    Ok(heard)
}

async fn lost(client: &mut InferenceClient<Channel>, after: u64) -> Heard {
    let mut stream = client.infer(asked()).await.unwrap().into_inner();
    let heard = read(&mut stream, after).await.unwrap();
    assert!(!heard.token.is_empty());
    heard
}

fn back(token: &str, next_seq: u64) -> v1::ResumeRequest {
    v1::ResumeRequest {
        request: Some(asked()),
        resume_token: token.to_owned(),
        next_seq,
        ..v1::ResumeRequest::default()
    }
}

async fn rest(
    client: &mut InferenceClient<Channel>,
    resume: v1::ResumeRequest,
) -> Result<Heard, Status> {
    let mut stream = client.resume(resume).await?.into_inner();
    read(&mut stream, u64::MAX).await
}

#[tokio::test]
async fn what_was_in_flight_is_told_again_and_nobody_computes_it_twice() {
    let fake = Fake::new(script(Duration::ZERO));
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let lost = lost(&mut client, 1).await;
    fake.all_dropped().await;
    // The answer was whole on the way when the client went, and it may go again.
    for has in [1, 4, 0] {
        let rest = rest(&mut client, back(&lost.token, has)).await.unwrap();
        assert_eq!(rest.text, WORDS[has as usize..].concat());
        assert!(rest.done && !rest.token.is_empty());
    }
    assert_eq!(fake.seen.lock().unwrap().len(), 1, "asked once");
}

#[tokio::test]
async fn behind_what_was_in_flight_the_answer_goes_on() {
    let fake = Fake::new(script(Duration::from_millis(500)));
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let lost = lost(&mut client, 3).await;
    fake.all_dropped().await;
    // The last two never arrived.
    let rest = rest(&mut client, back(&lost.token, 1)).await.unwrap();
    assert_eq!((rest.first, rest.text), (Some(1), WORDS[1..].concat()));
    assert!(rest.done);
    let seen = fake.seen.lock().unwrap();
    let said = &seen[1].1.continuation;
    assert!(said.tokens >= 3, "{said:?}");
    assert_eq!(said.text, WORDS[..said.tokens as usize].concat());
}

#[tokio::test]
async fn without_the_ring_an_answer_goes_on_from_what_the_client_brings() {
    let fake = Fake::new(script(Duration::ZERO));
    let none = ReplayBounds {
        stream_bytes: 0,
        ..ReplayBounds::default()
    };
    let house = open_with(&fake, None, |options| options.replay = none).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let lost = lost(&mut client, 2).await;
    fake.all_dropped().await;
    let brought = v1::ResumeRequest {
        emitted_text: lost.text.clone(),
        ..back(&lost.token, 2)
    };
    let rest = rest(&mut client, brought).await.unwrap();
    assert_eq!(lost.text + &rest.text, WORDS.concat());
    let seen = fake.seen.lock().unwrap();
    assert_eq!((seen.len(), seen[1].1.continuation.tokens), (2, 2));
}

#[tokio::test]
async fn whoever_comes_back_ends_the_connection_it_left() {
    let fake = Fake::new(script(Duration::from_millis(500)));
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let mut left = client.infer(asked()).await.unwrap().into_inner();
    let heard = read(&mut left, 2).await.unwrap();
    let rest = rest(&mut client, back(&heard.token, 2)).await.unwrap();
    assert_eq!(heard.text + &rest.text, WORDS.concat());
    let Err(status) = read(&mut left, u64::MAX).await else {
        panic!("two connections had one answer");
    };
    assert_eq!(status.code(), Code::Cancelled, "{status:?}");
    fake.all_dropped().await;
}

async fn keyed(fake: &Arc<Fake>) -> (House, [String; 3]) {
    let keys = [generate_key(), generate_key(), generate_key()];
    let holders = [("web", "acme"), ("app", "acme"), ("other", "globex")];
    let entries = keys.iter().zip(holders).map(|(key, (name, tenant))| {
        let holder = Holder {
            name: name.to_owned(),
            tenant: Some(tenant.to_owned()),
            user: None,
            operator: false,
        };
        (KeyDigest::of(key).unwrap(), holder)
    });
    let ring = Some(Arc::new(Keys::new(entries)));
    let house = open_with(fake, None, |options| options.keys = ring).await;
    (house, keys)
}

fn with<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {key}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

#[tokio::test]
async fn a_token_is_good_for_its_account_alone() {
    let fake = Fake::new(script(Duration::ZERO));
    let (house, [web, app, other]) = keyed(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let mut stream = client
        .infer(with(&web, asked()))
        .await
        .unwrap()
        .into_inner();
    let token = read(&mut stream, 1).await.unwrap().token;
    // Another key of the same customer is the same account.
    for good in [&web, &app] {
        client.resume(with(good, back(&token, 1))).await.unwrap();
    }
    let refused = client
        .resume(with(&other, back(&token, 1)))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("another account's"),
        "{refused:?}"
    );
    let none = client.resume(back(&token, 1)).await.unwrap_err();
    assert_eq!(none.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_token_of_another_user_or_request_or_time_or_hand_is_refused() {
    let fake = Fake::new(script(Duration::ZERO));
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let token = lost(&mut client, 1).await.token;
    let good = back(&token, 1);
    let changed = |change: fn(&mut v1::InferRequest)| {
        let mut resume = good.clone();
        change(resume.request.as_mut().unwrap());
        resume
    };
    let mut altered = token.clone().into_bytes();
    altered[20] = if altered[20] == b'A' { b'B' } else { b'A' };
    for (resume, code) in [
        (
            changed(|r| r.user_id = "eve".into()),
            Code::PermissionDenied,
        ),
        (changed(|r| r.model = "other".into()), Code::InvalidArgument),
        (
            changed(|r| r.content = Some(v1::infer_request::Content::Prompt("b".into()))),
            Code::InvalidArgument,
        ),
        (
            v1::ResumeRequest {
                resume_token: String::from_utf8(altered).unwrap(),
                ..good.clone()
            },
            Code::PermissionDenied,
        ),
        (back("", 1), Code::InvalidArgument),
        (back(&token, 99_999), Code::InvalidArgument),
    ] {
        let status = rest(&mut client, resume).await.err().expect("refused");
        assert_eq!(status.code(), code, "{status:?}");
    }
    assert!(rest(&mut client, good).await.is_ok());
    assert_eq!(fake.seen.lock().unwrap().len(), 1, "nobody was asked again");
    let short = Duration::from_millis(100);
    let house = open_with(&fake, None, |options| options.resume_for = short).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let late = back(&lost(&mut client, 1).await.token, 1);
    tokio::time::sleep(short).await;
    let status = rest(&mut client, late).await.err().expect("refused");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("expired"), "{status:?}");
}
