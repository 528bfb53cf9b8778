use proptest::prelude::*;

use super::*;

fn params(options: SamplingOptions) -> SamplingParams {
    SamplingParams::new(options).unwrap()
}

fn warm() -> SamplingOptions {
    SamplingOptions {
        temperature: 1.0,
        ..SamplingOptions::default()
    }
}

fn at(logits: &[f32], options: &SamplingOptions, seed: u64, position: u64) -> Choice {
    let mut sampler = Sampler::new(params(options.clone()), seed, &[], &[]);
    sampler.position = position;
    sampler.choose(&mut logits.to_vec(), None).unwrap()
}

#[test]
fn a_tie_goes_to_the_lower_id() {
    let greedy = SamplingOptions::default();
    assert_eq!(at(&[1.0, 3.0, 3.0, 2.0], &greedy, 9, 9).id, 1);
}

#[test]
fn logits_that_are_not_numbers_are_an_error_at_any_temperature() {
    for bad in [
        &[1.0, f32::NAN][..],
        &[f32::INFINITY, 0.0],
        &[f32::NEG_INFINITY],
        &[],
    ] {
        let told = SamplingOptions {
            logprobs: Some(2),
            ..warm()
        };
        for options in [SamplingOptions::default(), warm(), told] {
            let mut sampler = Sampler::new(params(options), 0, &[], &[7; 5]);
            let chosen = sampler.choose(&mut bad.to_vec(), None);
            assert_eq!(chosen, Err(NotANumber { position: 5 }));
        }
    }
}

#[test]
fn frequencies_follow_the_probabilities() {
    let logits = [0.0f32, 1.0, 2.0, f32::NEG_INFINITY];
    let draws = 20_000;
    let mut counts = [0u32; 4];
    for position in 0..draws {
        counts[at(&logits, &warm(), 42, position).id as usize] += 1;
    }
    let total: f32 = logits.iter().map(|l| l.exp()).sum();
    for (count, logit) in counts.iter().zip(logits) {
        let (got, want) = (*count as f32 / draws as f32, logit.exp() / total);
        assert!((got - want).abs() < 0.015, "{got} for {want}");
    }
}

#[test]
fn filters_keep_the_likeliest() {
    let logits = [0.0, 3.0, 1.0, 2.0];
    let drawn = |top_k, top_p, min_p| {
        let options = SamplingOptions {
            temperature: 2.0,
            top_k,
            top_p,
            min_p,
            ..SamplingOptions::default()
        };
        let mut ids: Vec<u32> = (0..500).map(|p| at(&logits, &options, 1, p).id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    assert_eq!(drawn(0, 1.0, 0.0), [0, 1, 2, 3]);
    assert_eq!(drawn(2, 1.0, 0.0), [1, 3]);
    assert_eq!(drawn(0, 0.01, 0.0), [1]);
    assert_eq!(drawn(0, 0.7, 0.0), [1, 3], "0.46 and 0.28 of the mass");
    // exp(-0.5) = 0.61, exp(-1) = 0.37, exp(-1.5) = 0.22 of the likeliest.
    assert_eq!(drawn(0, 1.0, 0.3), [1, 2, 3]);
    assert_eq!(drawn(0, 1.0, 0.5), [1, 3]);
    assert_eq!(drawn(3, 1.0, 0.5), [1, 3]);
    assert_eq!(drawn(0, 1.0, 1.0), [1]);
}

/// The logits as `choose` sees them, read through greedy choices: the winner
/// is biased away until nothing is left.
fn adjusted(options: SamplingOptions, prompt: &[u32], answer: &[u32], logits: &[f32]) -> Vec<f32> {
    let mut penalties = Penalties::new(&params(options), prompt);
    for id in answer {
        penalties.count(*id);
    }
    let mut changed = logits.to_vec();
    penalties.apply(&mut changed);
    let seen = changed.clone();
    penalties.take_back(&mut changed);
    assert_eq!(changed, logits, "the logits come back as they were");
    seen
}

#[test]
fn repetition_divides_what_is_positive_and_multiplies_what_is_negative() {
    let options = SamplingOptions {
        repetition_penalty: 2.0,
        ..SamplingOptions::default()
    };
    let logits = [4.0, -4.0, 4.0, -4.0, 1.0];
    // Once, however often it was said; in the prompt or in the answer.
    let seen = adjusted(options, &[0, 0, 1], &[2, 3, 3], &logits);
    assert_eq!(seen, [2.0, -8.0, 2.0, -8.0, 1.0]);
}

#[test]
fn presence_and_frequency_count_the_answer_alone() {
    let options = SamplingOptions {
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        ..SamplingOptions::default()
    };
    let seen = adjusted(options, &[0, 1], &[1, 2, 2, 2], &[1.0; 4]);
    assert_eq!(seen, [1.0, 0.25, -0.25, 1.0]);
}

#[test]
fn bias_comes_before_the_penalties_and_beyond_the_vocabulary_does_nothing() {
    let options = SamplingOptions {
        repetition_penalty: 2.0,
        logit_bias: vec![(900, 5.0), (1, -100.0), (0, 3.0)],
        ..SamplingOptions::default()
    };
    let seen = adjusted(options, &[0, 1, 800], &[], &[1.0, 2.0]);
    assert_eq!(seen, [2.0, -196.0]);
}

#[test]
fn a_bias_of_a_hundred_decides_alone() {
    let logits: Vec<f32> = (0..50).map(|i| i as f32 / 5.0).collect();
    for temperature in [0.0, 1.0] {
        let biased = |logit_bias| SamplingOptions {
            temperature,
            logit_bias,
            ..SamplingOptions::default()
        };
        for position in 0..50 {
            assert_eq!(at(&logits, &biased(vec![(3, 100.0)]), 1, position).id, 3);
            let banned = biased(vec![(49, -100.0)]);
            assert_ne!(at(&logits, &banned, 1, position).id, 49);
        }
    }
}

#[test]
fn logprobs_are_the_models_own_whatever_was_done_to_the_logits() {
    let logits = [1.0f32, 2.0, 3.0];
    let plain = SamplingOptions {
        logprobs: Some(3),
        ..SamplingOptions::default()
    };
    let changed = SamplingOptions {
        logit_bias: vec![(2, -100.0)],
        temperature: 0.3,
        top_k: 1,
        ..plain.clone()
    };
    let (plain, changed) = (at(&logits, &plain, 0, 0), at(&logits, &changed, 0, 0));
    assert_eq!((plain.id, changed.id), (2, 1));
    let (plain, changed) = (plain.logprobs.unwrap(), changed.logprobs.unwrap());
    assert_eq!(plain.top, changed.top);
    assert_eq!(plain.chosen, plain.top[0].1);
    assert_eq!(changed.chosen, plain.top[1].1);
    assert_eq!(
        at(&logits, &SamplingOptions::default(), 0, 0).logprobs,
        None
    );
}

#[test]
fn parameters_out_of_range_are_named_with_what_is_allowed() {
    let refused = |change: fn(&mut SamplingOptions)| {
        let mut options = SamplingOptions::default();
        change(&mut options);
        SamplingParams::new(options).unwrap_err()
    };
    assert_eq!(
        refused(|o| o.temperature = f32::NAN).parameter,
        "temperature"
    );
    assert_eq!(refused(|o| o.top_p = 0.0).parameter, "top_p");
    assert_eq!(refused(|o| o.min_p = 1.5).parameter, "min_p");
    let repetition = refused(|o| o.repetition_penalty = 0.0);
    assert_eq!(
        repetition.to_string(),
        "repetition_penalty = 0 is not allowed; allowed: 0.1 to 10"
    );
    assert_eq!(
        refused(|o| o.presence_penalty = 2.1).parameter,
        "presence_penalty"
    );
    assert_eq!(
        refused(|o| o.frequency_penalty = -3.0).parameter,
        "frequency_penalty"
    );
    assert_eq!(
        refused(|o| o.logit_bias = vec![(1, 101.0)]).allowed,
        "-100 to 100"
    );
    assert_eq!(
        refused(|o| o.logit_bias = vec![(7, 1.0), (8, 2.0), (7, 1.0)]).allowed,
        "each token once"
    );
    assert_eq!(
        refused(|o| o.logit_bias = (0..1025).map(|id| (id, 1.0)).collect()).allowed,
        "at most 1024 tokens"
    );
    assert_eq!(refused(|o| o.logprobs = Some(21)).parameter, "top_logprobs");
}

proptest! {
    #[test]
    fn a_draw_depends_on_its_arguments_alone_and_is_in_range(
        logits in prop::collection::vec(-50.0f32..50.0, 1..200),
        temperature in 0.0f32..2.0, top_k in 0u32..300, top_p in 0.001f32..=1.0, min_p in 0.0f32..=1.0,
        repetition_penalty in 0.5f32..2.0, presence_penalty in -2.0f32..2.0, frequency_penalty in -2.0f32..2.0,
        said in prop::collection::vec(0u32..220, 0..30), cut in 0usize..30, seed: u64,
    ) {
        let options = params(SamplingOptions {
            temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty,
            logit_bias: vec![(3, 1.5), (210, 4.0)], logprobs: Some(3),
        });
        let mut whole = Sampler::new(options.clone(), seed, &said, &said);
        let first = whole.choose(&mut logits.clone(), None).unwrap();
        prop_assert!((first.id as usize) < logits.len());
        // The same tokens in two parts, with a choice made in between.
        let cut = cut.min(said.len());
        let mut parts = Sampler::new(options, seed, &said, &said[..cut]);
        parts.choose(&mut logits.clone(), None).unwrap();
        for id in &said[cut..] {
            parts.accept(*id);
        }
        prop_assert_eq!(parts.choose(&mut logits.clone(), None).unwrap(), first);
    }
}
