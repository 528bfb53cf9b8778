use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::kernel::KernelChoice;
use crate::loaded::{LoadOptions, Model};
use crate::model::PagePool;
use crate::sampler::{SamplingOptions, SamplingParams};
use crate::serve::sequence::{Plan, Sequence, Step};
use tiermesh_core::FinishReason;

fn model() -> Arc<Model> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama");
    let kernel = KernelChoice::Auto.resolve().unwrap();
    let assume = crate::artifact::Quantization::Q8;
    Arc::new(Model::load(&directory, LoadOptions::new(kernel, assume)).unwrap())
}

fn choice(texts: &[&str]) -> OutputConstraint {
    OutputConstraint::Choice(texts.iter().map(|text| (*text).to_owned()).collect())
}

struct Answer {
    ids: Vec<u32>,
    text: String,
    reason: FinishReason,
}

fn answer(
    model: &Arc<Model>,
    wanted: &OutputConstraint,
    seed: u64,
    emitted: &[u32],
    stop: &[&str],
) -> Answer {
    let plan = Plan {
        prompt: vec![40, 41, 42],
        emitted: emitted.to_vec(),
        sampling: SamplingParams::new(SamplingOptions {
            temperature: 1.0,
            ..SamplingOptions::default()
        })
        .unwrap(),
        seed,
        max_tokens: 400,
        stop: stop.iter().map(|stop| (*stop).to_owned()).collect(),
        constraint: Some(model.constrain(wanted, emitted).unwrap()),
    };
    let mut sequence = Sequence::new(Arc::clone(model), plan, PagePool::unlimited());
    let (mut ids, mut text) = (Vec::new(), String::new());
    loop {
        let (token, end) = match sequence.step().unwrap() {
            Step::Read(_) => continue,
            Step::Token(token) => (Some(token), None),
            Step::Finished(token, reason) => (token, Some(reason)),
        };
        if let Some(token) = token {
            ids.extend(token.id);
            text.push_str(&token.text);
        }
        if let Some(reason) = end {
            return Answer { ids, text, reason };
        }
    }
}

#[test]
fn a_choice_is_one_of_the_texts_whatever_the_seed() {
    let model = model();
    let texts = ["red", "green \"and\" blue", "สวัสดี", "line\nbreak"];
    for seed in 0..8 {
        let answer = answer(&model, &choice(&texts), seed, &[], &[]);
        assert!(texts.contains(&answer.text.as_str()), "{:?}", answer.text);
        assert_eq!(answer.reason, FinishReason::Stop);
    }
}

#[test]
fn a_regular_expression_is_matched_whole() {
    let model = model();
    let wanted = OutputConstraint::Regex("[a-f]{3}-[0-9]{2}".to_owned());
    let text = answer(&model, &wanted, 3, &[], &[]).text;
    let (letters, digits) = text.split_once('-').unwrap();
    assert!(letters.len() == 3 && letters.bytes().all(|b| (b'a'..=b'f').contains(&b)));
    assert!(digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit()));
}

#[test]
fn a_json_schema_gives_json_that_fits_it() {
    let model = model();
    let schema = r#"{"type": "object", "additionalProperties": false,
        "properties": {"brand": {"enum": ["Acme", "Apex"]}, "found": {"type": "boolean"}},
        "required": ["brand", "found"]}"#;
    let wanted = OutputConstraint::JsonSchema(schema.to_owned());
    let text = answer(&model, &wanted, 11, &[], &[]).text;
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(["Acme", "Apex"].contains(&value["brand"].as_str().unwrap()));
    assert!(value["found"].is_boolean());
}

#[test]
fn a_grammar_is_followed() {
    let model = model();
    let wanted = OutputConstraint::Grammar("start: \"a\" NUMBER \"z\"\nNUMBER: /[0-9]{4}/".into());
    let text = answer(&model, &wanted, 5, &[], &[]).text;
    assert_eq!((text.len(), &text[..1], &text[5..]), (6, "a", "z"));
}

#[test]
fn a_continuation_follows_the_constraint_from_where_it_stood() {
    let model = model();
    let wanted = OutputConstraint::Regex("([a-z]{2} ){6}end".to_owned());
    let whole = answer(&model, &wanted, 9, &[], &[]);
    for cut in [1, 3, whole.ids.len() - 1] {
        let rest = answer(&model, &wanted, 9, &whole.ids[..cut], &[]);
        assert_eq!(rest.ids, whole.ids[cut..]);
    }
    let error = model.constrain(&wanted, &whole.ids[1..3]).err();
    assert_eq!(
        error,
        Some(ConstraintError::Emitted {
            kind: "regular expression"
        })
    );
}

#[test]
fn a_stop_string_ends_a_constrained_answer_too() {
    let model = model();
    let wanted = OutputConstraint::Regex("abc;def;".to_owned());
    let stopped = answer(&model, &wanted, 1, &[], &[";d"]);
    assert_eq!(
        (&*stopped.text, stopped.reason),
        ("abc", FinishReason::Stop)
    );
}

#[test]
fn what_cannot_be_followed_is_refused_with_the_reason() {
    let model = model();
    let refused = |wanted: &OutputConstraint| match model.constrain(wanted, &[]) {
        Err(ConstraintError::Compile { reason, .. }) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{wanted:?} was taken"),
    };
    let json = |schema: &str| OutputConstraint::JsonSchema(schema.to_owned());
    assert!(refused(&json("{")).contains("not JSON"));
    assert!(!refused(&json(r#"{"type": "colour"}"#)).is_empty());
    assert!(!refused(&json(r#"{"type":"string","minLength":9,"maxLength":2}"#)).is_empty());
    assert!(!refused(&OutputConstraint::Regex("(".to_owned())).is_empty());
    assert!(!refused(&OutputConstraint::Grammar("start: nowhere".to_owned())).is_empty());
}
