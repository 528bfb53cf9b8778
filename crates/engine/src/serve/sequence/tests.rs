use std::path::PathBuf;

use super::*;
use crate::artifact::Quantization;
use crate::kernel::KernelChoice;
use crate::loaded::LoadOptions;
use crate::sampler::SamplingOptions;
use proptest::prelude::*;
use tiermesh_core::{Content, Message, Role};

fn model(assume: Quantization) -> Arc<Model> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama");
    let kernel = KernelChoice::Auto.resolve().unwrap();
    Arc::new(Model::load(&directory, LoadOptions::new(kernel, assume)).unwrap())
}

fn plan(model: &Model, temperature: f32) -> Plan {
    Plan {
        prompt: model
            .prompt(&Content::Prompt("tell me a story of ไทย".into()))
            .unwrap(),
        emitted: Vec::new(),
        sampling: SamplingParams::new(SamplingOptions {
            temperature,
            top_k: 40,
            top_p: 0.95,
            ..SamplingOptions::default()
        })
        .unwrap(),
        seed: 1234,
        max_tokens: 60,
        stop: Vec::new(),
        constraint: None,
    }
}

fn solo(model: &Arc<Model>, plan: Plan) -> Sequence {
    Sequence::new(Arc::clone(model), plan, PagePool::unlimited())
}

fn run(model: &Arc<Model>, plan: Plan) -> (Vec<u32>, String, FinishReason) {
    let mut sequence = solo(model, plan);
    let (mut ids, mut text) = (Vec::new(), String::new());
    loop {
        let (token, end) = match sequence.step().unwrap() {
            Step::Read(_) => continue,
            Step::Token(token) => (Some(token), None),
            Step::Finished(token, reason) => (token, Some(reason)),
        };
        if let Some(token) = token {
            ids.push(token.id.unwrap());
            text.push_str(&token.text);
        }
        if let Some(reason) = end {
            return (ids, text, reason);
        }
    }
}

#[test]
fn a_continuation_gives_the_very_tokens_that_would_have_come() {
    for assume in [Quantization::Q8, Quantization::F32] {
        let model = model(assume);
        for temperature in [0.0, 0.9, 1.8] {
            let (ids, text, reason) = run(&model, plan(&model, temperature));
            assert_eq!((ids.len(), reason), (60, FinishReason::Length));
            let mut sequence = solo(&model, plan(&model, temperature));
            let mut given = Vec::new();
            while given.len() < 60 {
                if let Step::Token(token) | Step::Finished(Some(token), _) =
                    sequence.step().unwrap()
                {
                    given.push(token.text);
                }
            }
            for cut in [0, 1, 2, 7, 31, 59, 60] {
                let mut rest = plan(&model, temperature);
                rest.emitted = ids[..cut].to_vec();
                let (rest_ids, rest_text, reason) = run(&model, rest);
                assert_eq!(
                    rest_ids,
                    ids[cut..],
                    "{assume:?} {temperature} cut at {cut}"
                );
                assert_eq!(given[..cut].concat() + &rest_text, text);
                assert_eq!(reason, FinishReason::Length);
            }
        }
    }
}

/// Everything that a next token can depend on, at once.
fn everything(temperature: f32) -> SamplingParams {
    SamplingParams::new(SamplingOptions {
        temperature,
        top_k: 60,
        top_p: 0.97,
        min_p: 0.01,
        repetition_penalty: 1.3,
        presence_penalty: 0.4,
        frequency_penalty: 0.3,
        logit_bias: vec![(68, 1.5), (64, -100.0), (200, 9.0)],
        logprobs: Some(3),
    })
    .unwrap()
}

fn tokens(model: &Arc<Model>, plan: Plan) -> (Vec<Token>, FinishReason) {
    let mut sequence = solo(model, plan);
    let mut all = Vec::new();
    loop {
        match sequence.step().unwrap() {
            Step::Read(_) => {}
            Step::Token(token) => all.push(token),
            Step::Finished(token, reason) => {
                all.extend(token);
                return (all, reason);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_continuation_with_every_parameter_on_is_the_rest_of_the_undisturbed_run(
        cut in 0.0f64..1.0, seed: u64, greedy: bool, q8: bool, stop in prop::option::of("[a-z ]"),
    ) {
        let model = model(if q8 { Quantization::Q8 } else { Quantization::F32 });
        let whole = || Plan {
            sampling: everything(if greedy { 0.0 } else { 1.1 }),
            seed,
            max_tokens: 40,
            stop: stop.iter().map(|first| format!("{first}zq")).collect(),
            ..plan(&model, 0.0)
        };
        let (undisturbed, reason) = tokens(&model, whole());
        prop_assert!(undisturbed.iter().all(|t| t.logprob.is_some_and(|l| l <= 0.0)));
        let cut = (cut * undisturbed.len() as f64) as usize;
        let emitted = undisturbed[..cut].iter().filter_map(|token| token.id).collect();
        let rest = tokens(&model, Plan { emitted, ..whole() });
        // Ids, pieces of text, log-probabilities, alternatives and the end.
        prop_assert_eq!(rest, (undisturbed[cut..].to_vec(), reason));
    }
}

#[test]
fn penalties_and_biases_show_in_the_answer() {
    let model = model(Quantization::Q8);
    let with = |sampling: SamplingOptions| Plan {
        sampling: SamplingParams::new(sampling).unwrap(),
        ..plan(&model, 0.0)
    };
    let distinct = |ids: &[u32]| ids.iter().collect::<std::collections::BTreeSet<_>>().len();
    let (plain, ..) = run(&model, with(SamplingOptions::default()));
    let repeated = distinct(&plain);
    let penalised = SamplingOptions {
        frequency_penalty: 2.0,
        presence_penalty: 2.0,
        ..SamplingOptions::default()
    };
    assert!(distinct(&run(&model, with(penalised)).0) > repeated);
    let banned = SamplingOptions {
        logit_bias: plain
            .iter()
            .map(|id| (*id, -100.0))
            .collect::<std::collections::BTreeMap<_, _>>()
            .into_iter()
            .collect(),
        ..SamplingOptions::default()
    };
    let (others, ..) = run(&model, with(banned));
    assert!(others.iter().all(|id| !plain.contains(id)));
}

#[test]
fn a_greedy_token_is_its_own_likeliest_alternative() {
    let model = model(Quantization::Q8);
    let sampling = SamplingParams::new(SamplingOptions {
        logprobs: Some(2),
        ..SamplingOptions::default()
    });
    let (told, _) = tokens(
        &model,
        Plan {
            sampling: sampling.unwrap(),
            ..plan(&model, 0.0)
        },
    );
    for token in told {
        let detail = token.detail.unwrap();
        assert_eq!(Some(detail.top[0].id), token.id);
        assert_eq!(Some(detail.top[0].logprob), token.logprob);
        assert!(detail.top[1].logprob <= detail.top[0].logprob);
        assert_eq!(detail.bytes, token.text.as_bytes());
    }
    let (untold, _) = tokens(&model, plan(&model, 0.0));
    assert!(
        untold
            .iter()
            .all(|t| t.logprob.is_none() && t.detail.is_none())
    );
}

#[test]
fn another_seed_is_another_answer_and_greedy_has_none() {
    let model = model(Quantization::Q8);
    let with_seed = |temperature, seed| {
        run(
            &model,
            Plan {
                seed,
                ..plan(&model, temperature)
            },
        )
        .0
    };
    assert_ne!(with_seed(1.0, 1), with_seed(1.0, 2));
    assert_eq!(with_seed(1.0, 1), with_seed(1.0, 1));
    assert_eq!(with_seed(0.0, 1), with_seed(0.0, 2));
}

#[test]
fn an_answer_ends_before_a_stop_string() {
    let model = model(Quantization::Q8);
    let (_, whole, _) = run(&model, plan(&model, 0.9));
    let at = whole.char_indices().nth(20).unwrap().0;
    let stop: String = whole[at..].chars().take(3).collect();
    let (_, text, reason) = run(
        &model,
        Plan {
            stop: vec![stop.clone()],
            ..plan(&model, 0.9)
        },
    );
    assert_eq!(text, whole[..whole.find(&stop).unwrap()]);
    assert_eq!(reason, FinishReason::Stop);
}

#[test]
fn an_answer_fills_the_context_and_no_more() {
    let model = model(Quantization::Q8);
    let prompt = vec![70; 2040];
    let (ids, _, reason) = run(
        &model,
        Plan {
            prompt,
            ..plan(&model, 0.0)
        },
    );
    assert_eq!((ids.len(), reason), (8, FinishReason::Length));
}

#[test]
fn a_conversation_is_its_turns_between_prefix_and_suffix() {
    let model = model(Quantization::Q8);
    let message = |role, text: &str| Message {
        role,
        text: text.into(),
    };
    let content = Content::Messages(vec![
        message(Role::System, "s"),
        message(Role::User, "<|end|>"),
        message(Role::Assistant, "b"),
        message(Role::User, "c"),
    ]);
    let expected = model
        .tokenizer
        .encode_template("<|user|>s\n")
        .unwrap()
        .into_iter()
        .chain(model.tokenizer.encode_content("<|end|>").unwrap())
        .chain(
            model
                .tokenizer
                .encode_template("<|assistant|>b<|end|><|user|>c<|assistant|>")
                .unwrap(),
        )
        .collect::<Vec<_>>();
    assert_eq!(model.prompt(&content).unwrap(), expected);
}

#[test]
fn numerics_ids_tell_models_and_precisions_apart() {
    let (packed, dense) = (model(Quantization::Q8), model(Quantization::F32));
    assert_ne!(packed.info.numerics_id, dense.info.numerics_id);
    assert!(
        packed
            .info
            .numerics_id
            .as_str()
            .contains("/q8-tiles/kv-f16/")
    );
    assert!(
        packed
            .info
            .numerics_id
            .as_str()
            .ends_with(packed.info.digest.as_str())
    );
}
