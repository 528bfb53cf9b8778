use super::*;

fn raw() -> RawRequest {
    RawRequest {
        request_id: "r1".into(),
        user_id: "u1".into(),
        policy: "interactive".into(),
        content: Some(Content::Prompt("title".into())),
        ..RawRequest::default()
    }
}

fn refused(change: impl FnOnce(&mut RawRequest)) -> FieldError {
    let mut raw = raw();
    change(&mut raw);
    raw.validate().unwrap_err()
}

#[test]
fn defaults_fill_what_the_client_leaves_out() {
    let request = raw().validate().unwrap();
    assert_eq!(request.meta.task, Task::Generate);
    assert_eq!(request.meta.model, ModelSelector::Auto);
    assert_eq!(request.meta.privacy, Privacy::Any);
    assert_eq!(request.meta.content_bytes, 5);
    assert_eq!(request.meta.sampling, Sampling::default());
}

#[test]
fn sampling_keeps_what_was_asked_for_and_biases_come_in_order() {
    let asked = RawRequest {
        min_p: Some(0.05),
        repetition_penalty: Some(1.2),
        presence_penalty: Some(-2.0),
        frequency_penalty: Some(2.0),
        logit_bias: vec![(9, -100.0), (3, 100.0)],
        logprobs: Some(20),
        ..raw()
    };
    let sampling = asked.validate().unwrap().meta.sampling;
    assert_eq!(
        sampling,
        Sampling {
            min_p: 0.05,
            repetition_penalty: Some(1.2),
            presence_penalty: -2.0,
            frequency_penalty: 2.0,
            logit_bias: vec![(3, 100.0), (9, -100.0)],
            logprobs: Some(20),
            ..Sampling::default()
        }
    );
}

#[test]
fn every_bad_field_is_named() {
    assert_eq!(refused(|r| r.content = None).field, "content");
    assert_eq!(
        refused(|r| r.content = Some(Content::Prompt("x".repeat(MAX_CONTENT_BYTES + 1)))).field,
        "content"
    );
    assert_eq!(refused(|r| r.total_ms = Some(0)).field, "deadline_ms.total");
    assert_eq!(
        refused(|r| r.first_token_ms = Some(0)).field,
        "deadline_ms.first_token"
    );
    for bad in [f64::NAN, f64::INFINITY, -1.0] {
        assert_eq!(
            refused(|r| r.max_cost_usd = Some(bad)).field,
            "max_cost_usd"
        );
    }
    assert_eq!(
        refused(|r| r.temperature = Some(f32::NAN)).field,
        "temperature"
    );
    assert_eq!(refused(|r| r.top_p = Some(0.0)).field, "top_p");
    assert_eq!(refused(|r| r.min_p = Some(1.01)).field, "min_p");
    let repetition = |value| refused(|r| r.repetition_penalty = Some(value)).field;
    assert_eq!(repetition(0.0), "repetition_penalty");
    assert_eq!(repetition(f32::NAN), "repetition_penalty");
    assert_eq!(
        refused(|r| r.presence_penalty = Some(-2.5)).field,
        "presence_penalty"
    );
    assert_eq!(
        refused(|r| r.frequency_penalty = Some(3.0)).field,
        "frequency_penalty"
    );
    for (bad, allowed) in [
        (vec![(1, 100.5)], "-100 to 100 for each token"),
        (vec![(1, f32::NAN)], "-100 to 100 for each token"),
        (vec![(1, 1.0), (2, 1.0), (1, 1.0)], "each token once"),
        (
            (0..1025).map(|id| (id, 1.0)).collect(),
            "at most 1024 tokens",
        ),
    ] {
        let refused = refused(|r| r.logit_bias = bad);
        assert_eq!((refused.field, refused.allowed), ("logit_bias", allowed));
    }
    for bad in [21, 256, u32::MAX] {
        assert_eq!(refused(|r| r.logprobs = Some(bad)).field, "logprobs");
    }
    assert_eq!(refused(|r| r.max_tokens = Some(0)).field, "max_tokens");
    assert_eq!(refused(|r| r.model = "a b".into()).field, "model");
    assert_eq!(refused(|r| r.stop = vec![String::new()]).field, "stop");
    assert_eq!(
        refused(|r| r.device.battery_percent = Some(101)).field,
        "device_info.battery_percent"
    );
}

#[test]
fn content_never_shows_in_debug_output() {
    let request = RawRequest {
        content: Some(Content::Prompt("top secret".into())),
        ..raw()
    };
    let shown = format!("{:?}", request.validate().unwrap());
    assert!(!shown.contains("secret"), "{shown}");
}
