//! Health, explanations, and requests nothing answers.

use crate::fake::{End, Fake, Script, open};
use crate::raw_http::{exchange, get, post};
use serde_json::json;
use tiermesh_core::{Privacy, Thermal};

#[tokio::test]
async fn health_names_the_door() {
    let house = open(&Fake::new(Script::default())).await;
    let reply = exchange(house.address, &get("/health")).await;
    assert_eq!(reply.status, 200);
    let body = reply.json();
    assert_eq!(body["status"], "ok");
    assert_eq!(body["node"], "gw-1");
    assert_eq!(body["tier"], "CLOUD");
    assert_eq!(body["streams_active"], 0);
}

#[tokio::test]
async fn explanations_take_and_give_the_fields_of_the_proto() {
    let fake = Fake::new(Script::default());
    let house = open(&fake).await;
    let ask = json!({
        "messages": { "items": [{ "role": "user", "text": "hi" }] },
        "policy": "iot",
        "privacy": "PRIVACY_EDGE",
        "deadline_ms": { "first_token": 50 },
        "device_info": { "battery_percent": 9, "thermal": "SERIOUS" },
    });
    let request = post("/route/explain", &[], ask.to_string().as_bytes());
    let reply = exchange(house.address, &request).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let body = reply.json();
    assert_eq!(body["tier"], "MEC");
    assert_eq!(body["reasons"][0]["code"], "no_credit");
    assert_eq!(body["sequence"], 77);
    let meta = fake.seen.lock().unwrap()[0].0.clone();
    assert_eq!(meta.privacy, Privacy::Edge);
    assert_eq!(meta.device.thermal, Some(Thermal::Serious));
    for bad in [
        json!({ "privacy": "cellar" }),
        json!({ "polciy": "iot" }),
        json!({ "task": "dance" }),
        json!([1]),
    ] {
        let request = post("/route/explain", &[], bad.to_string().as_bytes());
        let reply = exchange(house.address, &request).await;
        assert_eq!(reply.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn what_no_route_answers_is_said_in_json() {
    let house = open(&Fake::new(Script::default())).await;
    let reply = exchange(house.address, &get("/v1/nothing")).await;
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (404, &json!("unknown_url"))
    );
    let reply = exchange(house.address, &get("/v1/chat/completions")).await;
    assert_eq!(reply.status, 405);
    let plain = [("content-type", "text/plain")];
    let reply = exchange(house.address, &post("/v1/chat/completions", &plain, b"{}")).await;
    assert_eq!(reply.status, 415);
    let large = vec![b' '; 1024 * 1024 + 1];
    let reply = exchange(house.address, &post("/v1/chat/completions", &[], &large)).await;
    assert_eq!(reply.status, 413);
    let reply = exchange(
        house.address,
        &post("/v1/chat/completions", &[], b"{\"model\""),
    )
    .await;
    assert_eq!(reply.json()["error"]["code"], "invalid_json");
}

#[tokio::test]
async fn a_request_that_was_here_before_is_refused() {
    let house = open(&Fake::new(Script::default())).await;
    let via = [("x-tiermesh-via", "gw-1")];
    let reply = exchange(house.address, &post("/route/explain", &via, b"{}")).await;
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (403, &json!("loop"))
    );
}

#[tokio::test]
async fn bedrock_takes_the_same_path() {
    let fake = Fake::new(Script::default());
    let house = open(&fake).await;
    let ask = json!({
        "messages": [{ "role": "user", "content": [{ "text": "hi" }] }],
        "requestMetadata": { "policy": "iot", "total_ms": "5000" },
    });
    let ask = ask.to_string();
    let request = post("/model/auto/converse", &[], ask.as_bytes());
    let reply = exchange(house.address, &request).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let body = reply.json();
    let text = &body["output"]["message"]["content"][0]["text"];
    assert_eq!(text, "Samsung \"Galaxy\"\n");
    assert_eq!(body["usage"]["outputTokens"], 4);
    let request = post("/model/auto/converse-stream", &[], ask.as_bytes());
    let reply = exchange(house.address, &request).await;
    assert!(String::from_utf8_lossy(&reply.body).contains("messageStop"));
    let seen = fake.seen.lock().unwrap();
    let (meta, context) = &seen[0];
    assert_eq!(
        (meta.policy.as_str(), meta.user_id.as_str()),
        ("iot", "somebody")
    );
    assert!(context.deadline.total.is_some());
    assert_ne!(meta.seed, seen[1].0.seed);
}

#[tokio::test]
async fn bedrock_streams_end_at_their_deadline() {
    let fake = Fake::new(Script {
        end: End::Hang,
        ..Script::default()
    });
    let house = open(&fake).await;
    let ask = json!({
        "messages": [{ "role": "user", "content": [{ "text": "hi" }] }],
        "requestMetadata": { "total_ms": "200" },
    });
    let request = post("/model/auto/converse", &[], ask.to_string().as_bytes());
    let reply = exchange(house.address, &request).await;
    assert_eq!(reply.status, 408, "{}", reply.text());
    fake.all_dropped().await;
}
