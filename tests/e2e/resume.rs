//! Answers over HTTP whose connection is lost, at one gateway and at another.

use crate::http::{Reply, post};
use crate::support::{at, mesh};
use serde_json::{Value, json};
use tiermesh_harness::client::prompt;
use tiermesh_harness::{Daemon, Mesh};
use tiermesh_identity::new_secret;
use tiermesh_proto::v1;
use tiermesh_proto::v1::infer_event::Event;

const TOKENS: u32 = 700;
const CHAT: &str = "/v1/chat/completions";

fn body(change: impl FnOnce(&mut Value)) -> Value {
    let mut body = json!({
        "model": "auto", "max_tokens": TOKENS, "seed": 11, "temperature": 0.9, "stream": true,
        "messages": [{ "role": "user", "content": "a title of some length" }],
    });
    change(&mut body);
    body
}

/// Reads at least so many tokens' chunks of an answer, and leaves.
async fn lost(daemon: &Daemon, after: u64) -> Reply {
    let headers = [
        ("x-tiermesh-resumable", "true"),
        ("x-tiermesh-policy", "iot"),
    ];
    let enough = |reply: &Reply| {
        let id = reply.said().1.and_then(|id| id.parse().ok());
        id.is_some_and(|id: u64| id >= after)
    };
    let reply = post(daemon, CHAT, &headers, &body(|_| {}), enough).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(!reply.header("x-tiermesh-resume").is_empty());
    reply
}

async fn back(daemon: &Daemon, token: &str, last: &str, body: &Value) -> Reply {
    let headers = [
        ("x-tiermesh-resumable", "true"),
        ("x-tiermesh-policy", "iot"),
        ("x-tiermesh-resume", token),
        ("last-event-id", last),
    ];
    post(daemon, CHAT, &headers, body, |_| false).await
}

async fn undisturbed(daemon: &Daemon) -> String {
    let headers = [("x-tiermesh-policy", "iot")];
    let whole = post(daemon, CHAT, &headers, &body(|_| {}), |_| false).await;
    assert!(whole.body.contains("[DONE]"), "{whole:?}");
    whole.said().0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_event_stream_goes_on_behind_its_last_event() {
    let mesh = mesh(|_| {}).await;
    let gateway = &mesh.gateway;
    let whole = undisturbed(gateway).await;
    assert!(whole.len() > 800, "{} bytes", whole.len());
    for after in [1, 60, 400] {
        let lost = lost(gateway, after).await;
        let (before, last) = lost.said();
        let (token, last) = (lost.header("x-tiermesh-resume"), last.unwrap());
        assert!(before.len() < whole.len(), "it was left in the middle");
        // Come back, lose it again, and come back once more.
        for _ in 0..2 {
            let rest = back(gateway, token, &last, &body(|_| {})).await;
            assert_eq!(rest.status, 200, "{rest:?}");
            assert_eq!(before.clone() + &rest.said().0, whole);
            assert!(rest.body.contains("[DONE]"));
        }
        let mut altered = token.to_owned();
        let other = if token[40..].starts_with('A') {
            "B"
        } else {
            "A"
        };
        altered.replace_range(40..41, other);
        for (token, body, status) in [
            (token, body(|b| b["user"] = json!("eve")), 403),
            (token, body(|b| b["max_tokens"] = json!(TOKENS + 1)), 400),
            (&*altered, body(|_| {}), 403),
            ("", body(|_| {}), 400),
        ] {
            let refused = back(gateway, token, &last, &body).await;
            assert_eq!(refused.status, status, "{refused:?}");
            assert_eq!(refused.json()["error"]["code"], "resume_refused");
        }
    }
    mesh.stop().await.unwrap();
}

/// A gateway with an edge of its own, which knows the secret in `file`.
async fn sharing(file: &std::path::Path) -> Mesh {
    let tables = format!("[resume]\nkey = {:?}\n", file.display().to_string());
    mesh(|spec| spec.gateway_tables = tables).await
}

fn secret() -> tempfile::NamedTempFile {
    // Others cannot read what `tempfile` makes.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), new_secret()).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_at_every_gateway_that_shares_the_key_and_at_no_other() {
    let (shared, other) = (secret(), secret());
    let (first, second) = tokio::join!(sharing(shared.path()), sharing(shared.path()));
    let third = sharing(other.path()).await;
    let whole = undisturbed(&second.gateway).await;
    let lost = lost(&first.gateway, 100).await;
    let (before, last) = lost.said();
    let (token, last) = (lost.header("x-tiermesh-resume"), last.unwrap());
    let refused = back(&third.gateway, token, &last, &body(|_| {})).await;
    assert_eq!(refused.status, 403, "{refused:?}");
    // The gateway that began the answer is gone for good.
    first.stop().await.unwrap();
    let rest = back(&second.gateway, token, &last, &body(|_| {})).await;
    assert_eq!(rest.status, 200, "{rest:?}");
    assert_eq!(before + &rest.said().0, whole);

    // Over gRPC, with the ids it has.
    let request = || {
        let mut request = prompt("another title", 300);
        (request.policy, request.seed, request.resumable) = ("iot".into(), Some(3), true);
        request
    };
    let mut one = at(&second.gateway).await;
    let mut stream = one.infer(request()).await.unwrap().into_inner();
    let (mut token, mut ids) = (String::new(), Vec::new());
    while ids.len() < 50 {
        match stream.message().await.unwrap().unwrap().event {
            Some(Event::Accepted(accepted)) => token = accepted.resume_token,
            Some(Event::Tokens(tokens)) => ids.extend(tokens.items.iter().filter_map(|t| t.id)),
            _ => {}
        }
    }
    drop(stream);
    let again = sharing(shared.path()).await;
    let mut there = at(&again.gateway).await;
    let whole = tiermesh_harness::client::ask(&mut there, request())
        .await
        .unwrap();
    let resume = v1::ResumeRequest {
        request: Some(request()),
        resume_token: token,
        next_seq: ids.len() as u64,
        emitted_ids: ids.clone(),
        ..v1::ResumeRequest::default()
    };
    let mut stream = there.resume(resume).await.unwrap().into_inner();
    while let Some(event) = stream.message().await.unwrap() {
        if let Some(Event::Tokens(tokens)) = event.event {
            assert_eq!(tokens.first_seq, ids.len() as u64);
            ids.extend(tokens.items.iter().filter_map(|token| token.id));
        }
    }
    let all: Vec<u32> = whole.ids().into_iter().flatten().collect();
    assert_eq!(ids, all);
}
