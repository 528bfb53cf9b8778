//! Data, tokenizer, model and files together, on an invented data folder.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use burn::tensor::Device;
use fastrand::Rng;
use tiermesh_training::corpus::Corpus;
use tiermesh_training::example::{Category, Example, Language};
use tiermesh_training::gazetteer::thai_pairs;
use tiermesh_training::generate::Phrasebook;
use tiermesh_training::model::{Llama, Shape};
use tiermesh_training::tokens::{self, END, EXTRACT, SCAFFOLD, TITLE};
use tiermesh_training::train::{self, Plan};
use tiermesh_training::{decode, evaluate, rows, weights};
use tokenizers::Tokenizer;

mod common;

const VOCAB: usize = 1024;

fn corpus() -> Corpus {
    let folder = tempfile::tempdir().expect("a temporary folder");
    common::write_data(folder.path());
    Corpus::read(folder.path()).expect("the invented data are complete")
}

fn tokenizer() -> Tokenizer {
    tokens::train(&corpus().texts(), VOCAB).expect("the texts are plain")
}

fn shape() -> Shape {
    Shape {
        hidden: 64,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        feed_forward: 96,
        vocab: VOCAB,
        max_positions: 256,
        rope_theta: 10_000.0,
        norm_eps: 1e-5,
    }
}

#[test]
fn held_out_rows_never_appear_in_training() {
    let corpus = corpus();
    let held_out: BTreeSet<String> = (corpus.split.held_out.iter())
        .map(|row| row.title.to_lowercase())
        .collect();
    assert!(held_out.len() > 30);
    let mut rng = Rng::with_seed(1);
    for _ in 0..5_000 {
        let title = corpus.draw(&mut rng, 0.3).title().to_lowercase();
        assert!(!held_out.contains(&title), "{title}");
    }
    let texts = corpus.texts();
    assert!(
        texts
            .iter()
            .all(|(text, _)| !held_out.contains(&text.to_lowercase()))
    );
    for row in corpus.split.train.iter().chain(&corpus.split.validation) {
        assert!(!rows::is_held_out(&row.title));
    }
}

#[test]
fn every_answer_is_json_and_its_brand_stands_in_the_title() {
    let corpus = corpus();
    let mut rng = Rng::with_seed(2);
    let mut languages = BTreeSet::new();
    for _ in 0..5_000 {
        let example = corpus.draw(&mut rng, 0.3);
        let answer = example.answer();
        let json: serde_json::Value =
            serde_json::from_str(answer.strip_suffix(END).unwrap()).unwrap();
        match json["brand"].as_str() {
            Some(brand) => assert!(example.title().contains(brand), "{example:?}"),
            None => assert!(json["brand"].is_null()),
        }
        languages.insert(example.language());
    }
    assert_eq!(
        languages,
        BTreeSet::from([Language::En, Language::Th, Language::Mixed])
    );
}

#[test]
fn the_same_seed_draws_the_same_examples() {
    let draw = |seed| -> Vec<Example> {
        let mut rng = Rng::with_seed(seed);
        let corpus = corpus();
        (0..200).map(|_| corpus.draw(&mut rng, 0.3)).collect()
    };
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
}

#[test]
fn the_same_texts_train_the_same_tokenizer() {
    assert_eq!(
        tokenizer().to_string(false).unwrap(),
        tokenizer().to_string(false).unwrap()
    );
}

#[test]
fn any_text_survives_the_tokenizer() {
    let tokenizer = tokenizer();
    for text in [
        "ซัมซุง ทีวี 55 นิ้ว พร้อมส่ง",
        "เสียวหมี่ Redmi Note 12 ของแท้ 100% 🔥",
        "L'Oréal Paris élixir",
        "小米 手机 — ½ price\tté\n",
        "\u{0E33}\u{0E4C}orphan marks",
        "a  b   c \"quoted\" \\ back",
    ] {
        let ids = tokens::encode(&tokenizer, text).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
}

#[test]
fn a_brand_has_the_same_tokens_wherever_it_stands() {
    let tokenizer = tokenizer();
    let encode = |text: &str| tokens::encode(&tokenizer, text).unwrap();
    let pairs: Vec<(&str, &str)> = thai_pairs().collect();
    assert!(pairs.len() >= 150);
    for brand in pairs.into_iter().flat_map(|(latin, thai)| [latin, thai]) {
        let wanted = encode(brand);
        for (before, after) in [
            (TITLE, " mouse"),
            ("new-", " 12a"),
            ("ทีวี", "ของแท้"),
            (" ", EXTRACT),
            (r#"{"brand":""#, r#"","category":""#),
        ] {
            let whole = encode(&format!("{before}{brand}{after}"));
            let start = encode(before).len();
            assert_eq!(
                whole[start..start + wanted.len()],
                wanted,
                "{before}{brand}{after}"
            );
        }
    }
}

#[test]
fn the_scaffold_is_one_visible_token_each() {
    let tokenizer = tokenizer();
    for text in SCAFFOLD {
        let ids = tokens::encode(&tokenizer, text).unwrap();
        assert_eq!(ids.len(), 1, "{text}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
}

#[test]
fn later_tokens_do_not_change_earlier_states() {
    let device = Device::flex();
    let model = Llama::init(shape(), 5, &device);
    let states = |tokens: &[i32]| -> Vec<f32> {
        let hidden = model.hidden(tokens, tokens.len(), &device);
        hidden.narrow(0, 0, 4).into_data().iter::<f32>().collect()
    };
    let (short, long) = (states(&[1, 2, 3, 4]), states(&[1, 2, 3, 4, 9, 8, 7]));
    assert!(short.iter().zip(&long).all(|(a, b)| (a - b).abs() < 1e-5));
    assert_ne!(states(&[1, 2, 3, 4]), states(&[2, 1, 3, 4]));
}

#[test]
fn logits_are_those_of_hugging_face_transformers() {
    let device = Device::flex();
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/fixtures/tiny-llama-tied");
    let golden = std::fs::read(fixture.join("golden.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_slice(&golden).unwrap();
    let list = |value: &serde_json::Value| value.as_array().unwrap().clone();
    let ids: Vec<i32> = (list(&golden["prompt_ids"]).iter())
        .map(|id| i32::try_from(id.as_i64().unwrap()).unwrap())
        .collect();
    let (model, _) = weights::load(&fixture, &device).unwrap();
    let hidden = model.hidden(&ids, ids.len(), &device);
    let found = model.logits(hidden, &[0, 1, 2], &device).into_data();
    let wanted = list(&golden["logits"])
        .into_iter()
        .flat_map(|row| list(&row));
    let worst = (found.iter::<f32>().zip(wanted))
        .map(|(a, b)| (f64::from(a) - b.as_f64().unwrap()).abs())
        .fold(0.0, f64::max);
    assert_eq!(ids.len(), 3);
    assert!(worst < 1e-4, "{worst}");
}

#[test]
fn a_saved_model_comes_back_the_same() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    let model = Llama::init(shape(), 5, &device);
    weights::save(folder.path(), &model, &tokenizer()).unwrap();
    let (again, tokenizer) = weights::load(folder.path(), &device).unwrap();
    assert_eq!(again.shape(), shape());
    let states = |model: &Llama| model.hidden(&[1, 2, 3], 3, &device).into_data();
    assert_eq!(states(&model), states(&again));
    assert_eq!(
        tokenizer.get_vocab_size(true),
        tokenizer.get_vocab(true).len()
    );
}

#[test]
fn a_short_run_lowers_the_loss_and_leaves_a_model_that_answers() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        out: folder.path().to_owned(),
        from: None,
        seed: 11,
        steps: 50,
        limit: None,
        batch: 16,
        peak_rate: 2e-3,
        noise: 0.3,
        checkpoint_every: Duration::from_secs(600),
        shape: shape(),
    };
    let mut losses = Vec::new();
    let summary = train::train(&plan, &corpus(), &AtomicBool::new(false), &mut |line| {
        if let Some((_, rest)) = line.split_once("loss ") {
            losses.push(rest.split(' ').next().unwrap().parse::<f64>().unwrap());
        }
    })
    .unwrap();
    assert_eq!(summary.steps, 50);
    assert!(losses.len() == 2 && losses[1] < losses[0], "{losses:?}");
    let (model, tokenizer) = weights::load(folder.path(), &Device::flex()).unwrap();
    let titles = [
        "zeltok mouse".to_owned(),
        "ซัมซุง ทีวี".to_owned(),
        String::new(),
    ];
    assert_eq!(
        decode::answers(&model, &tokenizer, &titles).unwrap().len(),
        3
    );
}

#[test]
fn a_run_told_to_stop_still_saves() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        out: folder.path().to_owned(),
        from: None,
        seed: 11,
        steps: 1_000_000,
        limit: None,
        batch: 4,
        peak_rate: 1e-3,
        noise: 0.3,
        checkpoint_every: Duration::from_secs(600),
        shape: shape(),
    };
    let summary = train::train(&plan, &corpus(), &AtomicBool::new(true), &mut |_| ()).unwrap();
    assert_eq!(summary.steps, 0);
    assert!(weights::load(folder.path(), &Device::flex()).is_ok());
}

#[test]
fn a_perfect_answerer_scores_one_in_every_group() {
    let corpus = corpus();
    for group in evaluate::groups(&corpus) {
        let examples = group.examples.clone();
        let mut answer = |titles: &[String]| {
            assert_eq!(titles.len(), examples.len());
            Ok(examples
                .iter()
                .map(|one| one.answer().replace(END, ""))
                .collect())
        };
        let score = evaluate::score(&group, &mut answer).unwrap();
        if group.examples.is_empty() {
            continue;
        }
        assert_eq!(
            (score.brand, score.language, score.valid),
            (1.0, 1.0, 1.0),
            "{score:?}"
        );
        let labelled = examples
            .iter()
            .any(|one| one.category != Category::Unlabelled);
        assert_eq!(score.category, labelled.then_some(1.0));
        let mut silence = |titles: &[String]| Ok(vec![String::new(); titles.len()]);
        assert!(evaluate::score(&group, &mut silence).unwrap().brand.abs() < f64::EPSILON);
    }
}

#[test]
fn templates_and_names_of_the_test_set_are_not_trained_on() {
    let corpus = corpus();
    let train: BTreeSet<&String> = (corpus.gazetteer.train.thai.iter())
        .chain(&corpus.gazetteer.train.latin)
        .collect();
    let tests = &corpus.gazetteer.held_out;
    assert!(
        tests
            .thai
            .iter()
            .chain(&tests.latin)
            .all(|name| !train.contains(name))
    );
    assert!(!tests.thai.is_empty() && !tests.known.is_empty());
    assert!(Phrasebook::new().products.len() >= 60);
}
