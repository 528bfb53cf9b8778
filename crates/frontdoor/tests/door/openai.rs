//! OpenAI's API.

use crate::fake::{End, Fake, House, Script, open, open_with};
use crate::raw_http::{Reply, exchange, get, post};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiermesh_core::{ErrorClass, InferError, Privacy, Sampling};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const CHAT: &str = "/v1/chat/completions";

fn ask(extra: Value) -> Value {
    let mut ask = json!({
        "model": "auto",
        "messages": [
            { "role": "developer", "content": "be brief" },
            { "role": "user", "content": [{ "type": "text", "text": "hi" }] },
        ],
    });
    for (name, value) in extra.as_object().unwrap() {
        ask[name] = value.clone();
    }
    ask
}

async fn chat(house: &House, headers: &[(&str, &str)], extra: Value) -> Reply {
    let body = ask(extra).to_string();
    exchange(house.address, &post(CHAT, headers, body.as_bytes())).await
}

async fn plain() -> (Arc<Fake>, House) {
    let fake = Fake::new(Script::default());
    let house = open(&fake).await;
    (fake, house)
}

fn events(reply: &Reply) -> Vec<&str> {
    let text = reply.text();
    assert!(text.ends_with("\n\n"), "{text:?}");
    text.trim_end()
        .split("\n\n")
        .map(|event| event.strip_prefix("data: ").unwrap())
        .collect()
}

#[tokio::test]
async fn a_whole_answer_has_text_usage_and_its_place() {
    let (fake, house) = plain().await;
    let reply = chat(&house, &[], json!({ "user": "u-1", "seed": -1 })).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let body = reply.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "brand-extractor");
    let choice = &body["choices"][0];
    assert_eq!(choice["message"]["content"], "Samsung \"Galaxy\"\n");
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(
        body["usage"],
        json!({ "prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15 })
    );
    assert_eq!(reply.header("x-tiermesh-tier"), "MEC");
    assert_eq!(reply.header("x-tiermesh-node"), "edge-1");
    assert_eq!(reply.header("x-tiermesh-model"), "brand-extractor");
    let seen = fake.seen.lock().unwrap();
    assert_eq!(
        seen[0].0.request_id.as_str(),
        reply.header("x-tiermesh-request-id")
    );
    assert_eq!(seen[0].0.user_id.as_str(), "u-1");
    assert_eq!(seen[0].0.seed, u64::MAX);
}

#[tokio::test]
async fn a_stream_is_framed_as_clients_expect() {
    let (_fake, house) = plain().await;
    let extra = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let reply = chat(&house, &[], extra).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), "text/event-stream");
    assert_eq!(reply.header("x-tiermesh-tier"), "MEC");
    let events = events(&reply);
    assert_eq!(events.last(), Some(&"[DONE]"));
    let chunks: Vec<Value> = events[..events.len() - 1]
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    // The role, three texts (the empty one adds none), the end, the usage.
    assert_eq!(chunks.len(), 6, "{chunks:?}");
    assert_eq!(
        chunks[0]["choices"][0]["delta"],
        json!({ "role": "assistant", "content": "" })
    );
    let text: String = chunks[1..4]
        .iter()
        .map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().unwrap())
        .collect();
    assert_eq!(text, "Samsung \"Galaxy\"\n");
    assert_eq!(chunks[4]["choices"][0]["finish_reason"], "stop");
    assert_eq!(chunks[5]["choices"], json!([]));
    assert_eq!(chunks[5]["usage"]["total_tokens"], 15);
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["id"], chunks[0]["id"]);
        assert_eq!(chunk["model"], "brand-extractor");
    }
    assert!(chunks[..5].iter().all(|chunk| chunk["usage"].is_null()));
}

#[tokio::test]
async fn usage_comes_only_when_asked_for() {
    let (_fake, house) = plain().await;
    let reply = chat(&house, &[], json!({ "stream": true })).await;
    assert!(!reply.text().contains("usage"));
    assert!(reply.text().ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn what_is_not_done_is_named() {
    let (fake, house) = plain().await;
    for (extra, param) in [
        (json!({ "tools": [{ "type": "function" }] }), "tools"),
        (
            json!({ "response_format": { "type": "json_schema" } }),
            "response_format",
        ),
        (json!({ "logprobs": 1 }), "logprobs"),
        (json!({ "top_logprobs": 3 }), "top_logprobs"),
        (
            json!({ "logprobs": true, "top_logprobs": 21 }),
            "top_logprobs",
        ),
        (json!({ "logit_bias": { "Samsung": 1 } }), "logit_bias"),
        (json!({ "logit_bias": { "7": 101 } }), "logit_bias"),
        (json!({ "min_p": 2 }), "min_p"),
        (json!({ "repetition_penalty": 0 }), "repetition_penalty"),
        (json!({ "top_k": -2 }), "top_k"),
        (json!({ "n": 2 }), "n"),
        (json!({ "presence_penalty": 2.5 }), "presence_penalty"),
        (json!({ "frequency_penalty": "much" }), "frequency_penalty"),
        (json!({ "temperature": 3 }), "temperature"),
        (json!({ "temperature": "hot" }), "temperature"),
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "stop": [""] }), "stop"),
        (json!({ "user": "a b" }), "user"),
        (json!({ "model": null }), "model"),
        (json!({ "messages": [] }), "messages"),
        (
            json!({ "messages": [{ "role": "wizard", "content": "x" }] }),
            "messages[0].role",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            "messages[0].content[0].type",
        ),
        (json!({ "temprature": 1 }), "temprature"),
        (
            json!({ "metadata": { "tiermesh-privacy": "cellar" } }),
            "x-tiermesh-privacy",
        ),
        (
            json!({ "stream_options": { "include_usage": true } }),
            "stream_options",
        ),
    ] {
        let reply = chat(&house, &[], extra).await;
        assert_eq!(reply.status, 400, "{param}");
        let error = reply.json()["error"].clone();
        assert_eq!(error["param"], param, "{error}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["code"].is_string() && error["message"].is_string());
    }
    assert!(fake.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn neutral_values_are_taken() {
    let (_fake, house) = plain().await;
    let extra = json!({
        "n": 1, "tools": [], "tool_choice": "none", "logprobs": false, "top_p": null,
        "top_logprobs": 0, "top_k": -1,
        "response_format": { "type": "text" }, "presence_penalty": 0, "logit_bias": {},
        "store": false, "service_tier": "auto", "stop": "x", "max_completion_tokens": 9,
    });
    let reply = chat(&house, &[], extra).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn every_way_to_draw_reaches_whoever_draws() {
    let (fake, house) = plain().await;
    let extra = json!({
        "temperature": 0.5, "top_p": 0.5, "top_k": 40, "min_p": 0.125, "repetition_penalty": 1.5,
        "presence_penalty": -0.5, "frequency_penalty": 0.25, "logit_bias": { "50256": -100, "7": 2.5 },
    });
    let reply = chat(&house, &[], extra).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["choices"][0]["logprobs"], Value::Null);
    let seen = fake.seen.lock().unwrap();
    let expected = Sampling {
        temperature: 0.5,
        top_p: 0.5,
        top_k: 40,
        min_p: 0.125,
        repetition_penalty: Some(1.5),
        presence_penalty: -0.5,
        frequency_penalty: 0.25,
        logit_bias: vec![(7, 2.5), (50_256, -100.0)],
        ..Sampling::default()
    };
    assert_eq!(seen[0].0.sampling, expected);
}

/// The fake's tokens as OpenAI's clients read them.
fn scores(top: u8) -> Value {
    let words = ["Sam", "", "sung ", "\"Galaxy\"\n"];
    let alternative = |place: u8| {
        json!({ "token": "\u{fffd}".to_owned() + char::from(place).to_string().as_str(),
            "logprob": -1.0 - f32::from(place), "bytes": [0xe0, place] })
    };
    let entries = words.iter().enumerate().map(|(at, word)| {
        json!({
            "token": word, "logprob": -0.25 * at as f32, "bytes": word.as_bytes(),
            "top_logprobs": (0..top).map(alternative).collect::<Vec<_>>(),
        })
    });
    entries.collect()
}

#[tokio::test]
async fn log_probabilities_come_whole_and_streamed_and_none_is_lost() {
    let (_fake, house) = plain().await;
    for top in [0, 2] {
        let asked = json!({ "logprobs": true, "top_logprobs": top });
        let whole = chat(&house, &[], asked.clone()).await.json();
        let told = whole["choices"][0]["logprobs"].clone();
        assert_eq!(told, json!({ "content": scores(top), "refusal": null }));
        let mut asked = asked;
        asked["stream"] = json!(true);
        let reply = chat(&house, &[], asked).await;
        let mut streamed = Vec::new();
        let mut text = String::new();
        for event in events(&reply) {
            let Ok(chunk) = serde_json::from_str::<Value>(event) else {
                continue;
            };
            let choice = &chunk["choices"][0];
            text += choice["delta"]["content"].as_str().unwrap_or_default();
            let content = choice["logprobs"]["content"].as_array();
            streamed.extend(content.cloned().unwrap_or_default());
        }
        // The second token has no text, and is told all the same.
        assert_eq!(Value::Array(streamed), scores(top));
        assert_eq!(text, "Samsung \"Galaxy\"\n");
    }
}

#[tokio::test]
async fn headers_and_metadata_steer_the_mesh() {
    let (fake, house) = plain().await;
    let headers = [
        ("x-tiermesh-policy", "iot"),
        ("x-tiermesh-deadline-ms", "5000"),
        ("x-tiermesh-max-cost-usd", "0.5"),
        ("x-tiermesh-privacy", "any"),
    ];
    let extra = json!({ "metadata": { "tiermesh-privacy": "edge", "theirs": "1" } });
    assert_eq!(chat(&house, &headers, extra).await.status, 200);
    let seen = fake.seen.lock().unwrap();
    let (meta, context) = &seen[0];
    assert_eq!(meta.policy.as_str(), "iot");
    assert_eq!(meta.privacy, Privacy::Edge, "the stricter of the two");
    assert_eq!(meta.total, Some(Duration::from_secs(5)));
    assert!(meta.max_cost.is_some() && context.deadline.total.is_some());
}

#[tokio::test]
async fn a_failure_in_mid_stream_is_an_event_and_the_end() {
    let fake = Fake::new(Script {
        end: End::Fail(InferError::unavailable("the node died")),
        ..Script::default()
    });
    let house = open(&fake).await;
    let reply = chat(&house, &[], json!({ "stream": true })).await;
    assert_eq!(reply.status, 200);
    let events = events(&reply);
    let last: Value = serde_json::from_str(events[events.len() - 1]).unwrap();
    assert_eq!(last["error"]["type"], "server_error");
    assert_eq!(last["error"]["code"], "unavailable");
    fake.all_dropped().await;
}

#[tokio::test]
async fn a_failure_before_the_first_word_is_a_status() {
    let gone = InferError::unavailable("nobody").retry_after(Duration::from_millis(1200));
    for script in [
        Script {
            refuse: Some(gone.clone()),
            ..Script::default()
        },
        Script {
            words: Vec::new(),
            end: End::Fail(gone.clone()),
            ..Script::default()
        },
    ] {
        let house = open(&Fake::new(script)).await;
        let reply = chat(&house, &[], json!({ "stream": true })).await;
        assert_eq!(reply.status, 503);
        assert_eq!(reply.header("retry-after"), "2");
        assert_eq!(reply.json()["error"]["code"], "unavailable");
    }
}

#[tokio::test]
async fn deadlines_and_bounds_hold_here_too() {
    let fake = Fake::new(Script {
        end: End::Hang,
        ..Script::default()
    });
    let house = open_with(&fake, None, |options| {
        options.max_streams = 1;
        options.guard = Some(Arc::new(|meta, _| {
            if meta.privacy == Privacy::Any {
                return Ok(());
            }
            let refusal = InferError::new(ErrorClass::Forbidden, "WRONG_DOOR", "ask the edge");
            Err(refusal.with("endpoint", "http://127.0.0.1:8081"))
        }));
    })
    .await;
    let short = [("x-tiermesh-deadline-ms", "300")];
    let reply = chat(&house, &short, json!({})).await;
    assert_eq!(reply.status, 504);
    let reply = chat(&house, &short, json!({ "stream": true })).await;
    assert!(
        reply.text().contains("\"deadline_exceeded\""),
        "{}",
        reply.text()
    );
    let (full, _) = tokio::join!(chat(&house, &short, json!({})), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let reply = chat(&house, &short, json!({})).await;
        assert_eq!(reply.status, 429);
        assert_eq!(reply.header("retry-after"), "1");
        assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    });
    assert_eq!(full.status, 504);
    let private = [("x-tiermesh-privacy", "device")];
    let reply = chat(&house, &private, json!({})).await;
    assert_eq!(reply.status, 421);
    assert_eq!(reply.header("x-tiermesh-endpoint"), "http://127.0.0.1:8081");
}

#[tokio::test]
async fn words_leave_as_they_come_and_a_lost_client_stops_the_work() {
    let fake = Fake::new(Script {
        end: End::Hang,
        ..Script::default()
    });
    let house = open(&fake).await;
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    let body = ask(json!({ "stream": true })).to_string();
    stream
        .write_all(&post(CHAT, &[], body.as_bytes()))
        .await
        .unwrap();
    let begun = Instant::now();
    let mut seen = Vec::new();
    while !seen.windows(6).any(|six| six == b"Galaxy") {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
    }
    assert!(begun.elapsed() < Duration::from_secs(1));
    drop(stream);
    fake.all_dropped().await;
}

#[tokio::test]
async fn models_are_listed_and_found() {
    let (_fake, house) = plain().await;
    let list = exchange(house.address, &get("/v1/models")).await.json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "org/brand-extractor");
    let one = exchange(house.address, &get("/v1/models/org/brand-extractor")).await;
    assert_eq!(one.json(), list["data"][0]);
    let one = exchange(house.address, &get("/v1/models/org%2Fbrand-extractor")).await;
    assert_eq!(one.json(), list["data"][0]);
    let none = exchange(house.address, &get("/v1/models/gpt-9")).await;
    assert_eq!(none.status, 404);
    assert_eq!(none.json()["error"]["code"], "model_not_found");
}
