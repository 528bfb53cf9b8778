use super::*;
use proptest::prelude::*;
use serde_json::json;

fn read(body: &Value) -> Result<RawRequest, InferError> {
    parse("m", body.to_string().as_bytes())
}

fn refused(body: &Value) -> String {
    let error = read(body).unwrap_err();
    assert_eq!(error.class, ErrorClass::InvalidArgument);
    error.message
}

fn with(key: &str, value: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": [{"text": "hi"}]}]});
    body[key] = value.clone();
    body
}

#[test]
fn a_full_request_becomes_a_raw_request() {
    let body = json!({
        "system": [{"text": "be brief"}, {"cachePoint": {"type": "default"}}],
        "messages": [
            {"role": "user", "content": [{"text": "one"}, {"text": "two"}]},
            {"role": "assistant", "content": [{"text": "three"}]},
            {"role": "user", "content": [{"text": "four"}]}
        ],
        "inferenceConfig": {
            "maxTokens": 64, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]
        },
        "additionalModelRequestFields": {"inferenceConfig": {"topK": 20}},
        "performanceConfig": {"latency": "optimized"},
        "requestMetadata": {
            "policy": "healthcare", "privacy": "edge", "user_id": "ann", "seed": "7",
            "residency": "ap-southeast-7", "max_cost_usd": "0.01", "team": "blue"
        }
    });
    let raw = parse("amazon.nova-lite-v1:0", body.to_string().as_bytes()).unwrap();
    assert_eq!(raw.model, "amazon.nova-lite-v1:0");
    assert_eq!(raw.policy, "healthcare");
    assert_eq!(raw.privacy, Some(Privacy::Edge));
    assert_eq!((raw.user_id.as_str(), raw.seed), ("ann", 7));
    assert_eq!((raw.max_tokens, raw.top_k), (Some(64), Some(20)));
    assert_eq!(raw.stop, ["END"]);
    let Some(Content::Messages(said)) = raw.content else {
        panic!("messages expected");
    };
    let said: Vec<_> = said.iter().map(|m| (m.role, m.text.as_str())).collect();
    assert_eq!(
        said,
        [
            (Role::System, "be brief"),
            (Role::User, "one\ntwo"),
            (Role::Assistant, "three"),
            (Role::User, "four"),
        ]
    );
}

#[test]
fn what_is_not_served_is_named() {
    let image = json!([{"role": "user", "content": [{"text": "hi"}, {"image": {}}]}]);
    let message = refused(&with("messages", &image));
    assert!(
        message.contains("`messages[0].content[1].image`"),
        "{message}"
    );
    for key in [
        "toolConfig",
        "guardrailConfig",
        "promptVariables",
        "outputConfig",
    ] {
        let message = refused(&with(key, &json!({})));
        assert!(message.contains(key), "{message}");
    }
    let message = refused(&with(
        "additionalModelRequestFields",
        &json!({"thinking": {}}),
    ));
    assert!(message.contains("thinking"), "{message}");
}

#[test]
fn a_misspelt_privacy_is_refused_and_not_taken_as_any() {
    for (key, value) in [("privacy", "Edge"), ("privacy", ""), ("seed", "x")] {
        let message = refused(&with("requestMetadata", &json!({ key: value })));
        assert!(message.contains(key), "{message}");
    }
}

#[test]
fn errors_never_repeat_what_was_said() {
    let wrong = json!([{"role": "user", "content": "top secret"}]);
    assert!(!refused(&with("messages", &wrong)).contains("secret"));
    let error = parse("m", b"{\"messages\": top secret").unwrap_err();
    assert!(!error.message.contains("secret"), "{}", error.message);
}

fn any_json() -> impl Strategy<Value = Value> {
    let keys = prop::sample::select(vec![
        "messages",
        "role",
        "content",
        "text",
        "system",
        "image",
        "inferenceConfig",
        "maxTokens",
        "stopSequences",
        "requestMetadata",
        "privacy",
        "additionalModelRequestFields",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "(user|assistant|edge|\\PC{0,8})".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 4, move |inner| {
        let entries = prop::collection::vec((keys.clone(), inner.clone()), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            entries.prop_map(|list| list
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect::<Map<_, _>>()
                .into()),
        ]
    })
}

proptest! {
    #[test]
    fn bytes_that_are_no_request_are_an_error_and_never_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..512)
    ) {
        let error = parse("m", &bytes).unwrap_err();
        prop_assert_eq!(error.class, ErrorClass::InvalidArgument);
    }

    #[test]
    fn json_of_any_shape_is_a_request_or_an_error(body in any_json()) {
        match read(&body) {
            Ok(raw) => prop_assert!(raw.content.is_some()),
            Err(error) => prop_assert_eq!(error.class, ErrorClass::InvalidArgument),
        }
    }

    #[test]
    fn every_text_arrives_as_it_was_said(texts in prop::collection::vec("\\PC{0,40}", 1..6)) {
        let list: Vec<_> = texts
            .iter()
            .map(|text| json!({"role": "user", "content": [{"text": text}]}))
            .collect();
        let raw = read(&json!({ "messages": list })).unwrap();
        let Some(Content::Messages(said)) = raw.content else {
            return Err(TestCaseError::fail("messages expected"));
        };
        let said: Vec<_> = said.into_iter().map(|m| m.text).collect();
        prop_assert_eq!(said, texts);
    }
}
