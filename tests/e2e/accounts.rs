//! Callers with API keys, and budgets that hold.

use crate::http::{Reply, post};
use crate::support::{at, mesh, run, text};
use serde_json::json;
use std::time::Duration;
use tiermesh_harness::Mesh;
use tiermesh_harness::client::{ask, prompt, reason};
use tiermesh_identity::{KeyDigest, generate_key};
use tiermesh_proto::v1;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

/// A second, for the key whose window turns soon.
const SOON: u64 = 4;

struct Keys {
    free: String,
    poor: String,
    soon: String,
}

/// Three callers: one without a budget, one whose tenant may spend what a few
/// answers cost in an hour, one who may in a few seconds.
async fn guarded() -> (Mesh, Keys) {
    let keys = Keys {
        free: generate_key(),
        poor: generate_key(),
        soon: generate_key(),
    };
    let digest = |key: &str| KeyDigest::of(key).unwrap();
    let tables = format!(
        "[[keys]]\nname = 'free'\ndigest = '{}'\noperator = true\n\
         [[keys]]\nname = 'poor'\ndigest = '{}'\ntenant = 'acme'\n\
         [[keys]]\nname = 'soon'\ndigest = '{}'\nuser = 'bob'\n\
         budget = {{ usd = 0.00001, per_s = {SOON} }}\n\
         [budgets.tenants]\nacme = {{ usd = 0.00001, per_s = 3600 }}\n",
        digest(&keys.free),
        digest(&keys.poor),
        digest(&keys.soon),
    );
    let mesh = mesh(|spec| {
        spec.gateway_tables = tables;
        spec.api_key = Some(keys.free.clone());
    })
    .await;
    (mesh, keys)
}

fn with(key: &str, tokens: u32) -> Request<v1::InferRequest> {
    let mut request = Request::new(prompt("a title", tokens));
    let value = format!("Bearer {key}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// Asks until the money is spent: how many answers came, and the refusal.
async fn spend(mesh: &Mesh, key: &str) -> (u32, Status) {
    let mut gateway = at(&mesh.gateway).await;
    for answers in 0..1_000 {
        // 64 tokens at two cents a million: a hundred and thirty billionths each.
        match ask(&mut gateway, with(key, 64)).await {
            Ok(_) => {}
            Err((status, _)) => return (answers, status),
        }
    }
    panic!("a budget of ten millionths is never spent");
}

fn is_spent(status: &Status, budget: &str, within: Duration) -> Duration {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(reason(status), "BUDGET_EXHAUSTED");
    let details = status.get_error_details();
    let told = &details.error_info().unwrap().metadata["budget"];
    assert_eq!(told, budget);
    let retry = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(retry <= within && !retry.is_zero(), "{retry:?}");
    retry
}

async fn chat(mesh: &Mesh, headers: &[(&str, &str)]) -> Reply {
    let body = json!({
        "model": "auto", "max_tokens": 16,
        "messages": [{ "role": "user", "content": "a title" }],
    });
    post(
        &mesh.gateway,
        "/v1/chat/completions",
        headers,
        &body,
        |_| false,
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_keys_takes_those_alone_and_tells_nobodys() {
    let (mesh, keys) = guarded().await;
    let mut gateway = at(&mesh.gateway).await;
    let (none, _) = ask(&mut gateway, prompt("x", 4)).await.unwrap_err();
    assert_eq!(none.code(), Code::Unauthenticated, "{none:?}");
    assert_eq!(reason(&none), "API_KEY_REQUIRED");
    let wrong = generate_key();
    let (status, _) = ask(&mut gateway, with(&wrong, 4)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(reason(&status), "API_KEY_UNKNOWN");
    let reply = chat(&mesh, &[]).await;
    assert_eq!(reply.status, 401, "{reply:?}");
    assert_eq!(reply.json()["error"]["code"], "api_key_required");
    let bearer = format!("Bearer {wrong}");
    let reply = chat(&mesh, &[("authorization", &bearer)]).await;
    assert_eq!(
        (reply.status, reply.header("www-authenticate")),
        (401, "Bearer")
    );
    let bearer = format!("Bearer {}", keys.free);
    let reply = chat(&mesh, &[("authorization", &bearer)]).await;
    assert_eq!(reply.status, 200, "{reply:?}");

    // Nodes are for who runs the mesh.
    let endpoint = mesh.gateway.endpoint();
    let nodes = ["nodes", "--endpoint", endpoint, "--api-key"];
    let ended = run(&[&nodes[..], &[&keys.poor]].concat()).await;
    assert!(!ended.status.success() && text(&ended.stderr).contains("OPERATOR_ONLY"));
    let ended = run(&[&nodes[..], &[&keys.free]].concat()).await;
    assert!(ended.status.success(), "{}", text(&ended.stderr));

    // The command brings a key as well, and makes them.
    let infer = ["infer", "x", "--max-tokens", "4", "--endpoint", endpoint];
    let ended = run(&infer).await;
    assert!(!ended.status.success() && text(&ended.stderr).contains("API_KEY_REQUIRED"));
    let ended = run(&[&infer[..], &["--api-key", &keys.free]].concat()).await;
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    let made = run(&["key", "new", "--json"]).await;
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let digest = KeyDigest::of(made["key"].as_str().unwrap()).unwrap();
    assert_eq!(made["digest"], digest.to_string());

    let log = mesh.gateway.log();
    for secret in [&wrong, &keys.free, &keys.poor, &keys.soon] {
        assert!(!log.contains(&**secret), "a key is in the log");
    }
    mesh.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_refuses_until_its_window_turns_and_stops_nobody_else() {
    let (mesh, keys) = guarded().await;
    let (answers, status) = spend(&mesh, &keys.poor).await;
    assert!(answers >= 2, "{answers} answers");
    is_spent(&status, "tenant:acme", Duration::from_secs(3600));
    // Over HTTP it is the same account.
    let bearer = format!("Bearer {}", keys.poor);
    let mut reply = chat(&mesh, &[("authorization", &bearer)]).await;
    for _ in 0..16 {
        // What was too little for a long answer may do for a short one.
        if reply.status != 200 {
            break;
        }
        reply = chat(&mesh, &[("authorization", &bearer)]).await;
    }
    assert_eq!(reply.status, 429, "{reply:?}");
    let error = &reply.json()["error"];
    assert_eq!(error["code"], "budget_exhausted");
    assert!(
        error["message"].as_str().unwrap().contains("tenant `acme`"),
        "{error}"
    );
    let after: u64 = reply.header("retry-after").parse().unwrap();
    assert!((1..=3600).contains(&after), "{after}");
    // And nobody else's.
    let mut gateway = at(&mesh.gateway).await;
    ask(&mut gateway, with(&keys.free, 64)).await.unwrap();

    let (_, status) = spend(&mesh, &keys.soon).await;
    let retry = is_spent(&status, "key:soon", Duration::from_secs(SOON));
    tokio::time::sleep(retry).await;
    ask(&mut gateway, with(&keys.soon, 64)).await.unwrap();
    mesh.stop().await.unwrap();
}
