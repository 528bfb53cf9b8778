//! What must hold for the public data itself; needs `../shared/data/brands` beside the project.

use std::collections::BTreeSet;
use std::path::PathBuf;

use fastrand::Rng;
use tiermesh_training::corpus::Corpus;
use tiermesh_training::example::Category;
use tiermesh_training::tokens::{self, EXTRACT};
use tiermesh_training::{batch, evaluate};

fn corpus() -> Corpus {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/brands");
    Corpus::read(&data).expect("the public data lie in ../shared/data/brands")
}

#[test]
fn the_held_out_rows_are_those_of_the_goal() {
    let corpus = corpus();
    let groups = evaluate::groups(&corpus);
    let count = |name: &str| {
        let group = groups.iter().find(|group| group.name == name).unwrap();
        group.examples.len()
    };
    assert_eq!(corpus.split.held_out.len(), 651);
    assert_eq!(count(evaluate::GOAL), 522);
    assert_eq!(count("held out, the label's brand not in the title"), 129);
}

#[test]
fn forty_thousand_examples_hold_no_held_out_title() {
    let corpus = corpus();
    let held_out: BTreeSet<String> = corpus
        .split
        .held_out
        .iter()
        .map(|row| row.title.to_lowercase())
        .collect();
    let mut rng = Rng::with_seed(9);
    for _ in 0..40_000 {
        let title = corpus.draw(&mut rng, 0.3).title().to_lowercase();
        assert!(!held_out.contains(&title), "{title}");
    }
}

#[test]
fn a_brand_that_only_held_out_rows_have_is_in_no_list() {
    let corpus = corpus();
    let split = &corpus.split;
    let seen: BTreeSet<&str> = (split.train.iter().chain(&split.validation))
        .map(|row| row.brand.as_str())
        .collect();
    let listed: BTreeSet<String> = (corpus.gazetteer.train.latin.iter())
        .chain(&corpus.gazetteer.train.known)
        .map(|name| name.to_lowercase())
        .collect();
    for row in split
        .held_out
        .iter()
        .filter(|row| !seen.contains(row.brand.as_str()))
    {
        assert!(!listed.contains(&row.brand), "{}", row.brand);
    }
}

#[test]
fn a_title_contains_its_brand_token_for_token() {
    let corpus = corpus();
    let tokenizer = tokens::train(&corpus.texts(), 4096).unwrap();
    let extract = batch::id(&tokenizer, EXTRACT).unwrap().cast_signed();
    let mut rng = Rng::with_seed(10);
    let mut copyable = 0;
    let mut branded = 0;
    for _ in 0..5_000 {
        let example = corpus.draw(&mut rng, 0.3);
        if example.brand.is_none() || example.category == Category::NoProduct {
            continue;
        }
        let encoded = batch::encode(&tokenizer, &example).unwrap();
        assert_eq!(encoded.ids[encoded.prompt - 1], extract);
        let brand = &encoded.ids[encoded.prompt + 1..encoded.brand_end - 1];
        branded += 1;
        copyable += usize::from(
            encoded.ids[..encoded.prompt]
                .windows(brand.len())
                .any(|w| w == brand),
        );
    }
    // All but brands that are a part of a word, such as `fuji` in `fujifilm`.
    assert!(copyable * 100 >= branded * 99, "{copyable} of {branded}");
}
