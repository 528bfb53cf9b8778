//! Encoders against what `transformers` computes from the same bytes.

use std::path::PathBuf;

use serde::Deserialize;

use super::*;
use crate::artifact::Quantization;
use crate::kernel::KernelChoice;

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    input_ids: Vec<Vec<u32>>,
    hidden: Vec<Vec<f32>>,
    #[serde(default)]
    embeddings: Vec<Vec<f32>>,
    #[serde(default)]
    labels: Vec<serde_json::Value>,
    long_text: String,
    long_input_ids: Vec<u32>,
    #[serde(default)]
    long_embedding: Vec<f32>,
}

fn directory(name: &str) -> PathBuf {
    let crate_root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    crate_root.join("tests/fixtures/families").join(name)
}

fn golden(name: &str) -> Golden {
    let json = std::fs::read(directory(name).join("golden.json")).unwrap();
    serde_json::from_slice(&json).unwrap()
}

fn load(name: &str, assume: Quantization) -> Embedder {
    let options = LoadOptions::new(KernelChoice::Auto.resolve().unwrap(), assume);
    Embedder::load(&directory(name), options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn texts(golden: &Golden) -> Vec<&str> {
    golden.texts.iter().map(String::as_str).collect()
}

fn off(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let pairs = ours.iter().zip(theirs);
    pairs.fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

const EMBEDDING: [&str; 4] = ["bert", "bert-cls", "roberta", "xlm-roberta"];

#[test]
fn tokens_and_hidden_states_agree_with_transformers() {
    for name in [
        "bert",
        "bert-cls",
        "bert-ner",
        "roberta",
        "xlm-roberta",
        "xlm-roberta-classify",
    ] {
        let (model, golden) = (load(name, Quantization::F32), golden(name));
        let encoded = model.encode(&texts(&golden)).unwrap();
        assert_eq!(
            encoded.iter().map(|t| t.ids.clone()).collect::<Vec<_>>(),
            golden.input_ids,
            "{name}"
        );
        let first = model.encoder.hidden(&[&golden.input_ids[0]]);
        let distance = off(&first, &golden.hidden.concat());
        assert!(
            distance < 1e-4,
            "{name}: a hidden state is off by {distance}"
        );
    }
}

#[test]
fn embeddings_agree_with_transformers() {
    for name in EMBEDDING {
        let golden = golden(name);
        for (quantization, bound) in [(Quantization::F32, 1e-4), (Quantization::F16, 1e-3)] {
            let model = load(name, quantization);
            let embeddings = model.embed(&texts(&golden)).unwrap();
            for (ours, theirs) in embeddings.iter().zip(&golden.embeddings) {
                let distance = off(ours, theirs);
                assert!(
                    distance < bound,
                    "{name} {quantization:?}: off by {distance}"
                );
            }
        }
        for (quantization, least) in [(Quantization::Q8, 0.99), (Quantization::Q4, 0.8)] {
            let embeddings = load(name, quantization).embed(&texts(&golden)).unwrap();
            for (ours, theirs) in embeddings.iter().zip(&golden.embeddings) {
                let cosine = cosine(ours, theirs);
                assert!(cosine > least, "{name} {quantization:?}: cosine {cosine}");
            }
        }
    }
}

#[test]
fn a_text_beside_others_has_the_embedding_it_has_alone() {
    let golden = golden("bert");
    let texts: Vec<&str> = texts(&golden).into_iter().cycle().take(40).collect();
    for quantization in [Quantization::Q8, Quantization::F32] {
        let model = load("bert", quantization);
        let together = model.embed(&texts).unwrap();
        for threads in [2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let shared = pool.build().unwrap().install(|| model.embed(&texts));
            assert_eq!(shared.unwrap(), together, "{quantization:?} {threads}");
        }
        for (text, expected) in texts.iter().zip(together) {
            assert_eq!(model.embed(&[text]).unwrap()[0], expected);
        }
    }
}

#[test]
fn every_kernel_path_embeds_the_same_bits() {
    let golden = golden("bert");
    for assume in [Quantization::Q8, Quantization::F32] {
        let embed = |kernel: KernelChoice| {
            let kernel = kernel.resolve().ok()?;
            let options = LoadOptions::new(kernel, assume);
            let model = Embedder::load(&directory("bert"), options).unwrap();
            Some((
                model.info().numerics_id.clone(),
                model.embed(&texts(&golden)).unwrap(),
            ))
        };
        let expected = embed(KernelChoice::Scalar).unwrap();
        for kernel in KernelChoice::ALL {
            if let Some(got) = embed(kernel) {
                assert_eq!(got, expected, "{kernel}");
            }
        }
    }
}

#[test]
fn a_long_text_is_cut_as_transformers_cuts_it() {
    for name in EMBEDDING {
        let (model, golden) = (load(name, Quantization::F32), golden(name));
        if model.info().context_tokens as usize == golden.long_input_ids.len() {
            let encoded = model.encode(&[&golden.long_text]).unwrap();
            assert_eq!(encoded[0].ids, golden.long_input_ids, "{name}");
            let ours = model.embed(&[&golden.long_text]).unwrap();
            assert!(off(&ours[0], &golden.long_embedding) < 1e-4, "{name}");
        }
    }
    let bert = load("bert", Quantization::F32);
    assert_eq!(
        bert.info().context_tokens,
        48,
        "sentence_bert_config.json says so"
    );
}

#[test]
fn tokens_and_texts_get_the_labels_transformers_gives() {
    let (model, gold) = (load("bert-ner", Quantization::F32), golden("bert-ner"));
    let tagged = model.tag(&texts(&gold)).unwrap();
    for ((text, ours), theirs) in gold.texts.iter().zip(tagged).zip(&gold.labels) {
        // The golden labels include those of the tokens around a text.
        let theirs: Vec<&str> = theirs
            .as_array()
            .unwrap()
            .iter()
            .map(|l| l.as_str().unwrap())
            .collect();
        let labels: Vec<&str> = ours.iter().map(|token| token.label.as_str()).collect();
        assert_eq!(labels, theirs[1..theirs.len() - 1]);
        assert!(
            ours.iter()
                .all(|token| text.get(token.bytes.clone()).is_some())
        );
    }
    let name = "xlm-roberta-classify";
    let (model, gold) = (load(name, Quantization::F32), golden(name));
    let labelled = model.classify(&texts(&gold)).unwrap();
    for (ours, theirs) in labelled.iter().zip(&gold.labels) {
        assert_eq!(ours[0].label, theirs.as_str().unwrap());
        let total: f32 = ours.iter().map(|label| label.score).sum();
        assert!((total - 1.0).abs() < 1e-5);
    }
}

#[test]
fn what_a_model_was_not_made_for_is_refused_by_name() {
    let model = load("bert-ner", Quantization::F32);
    let error = model.embed(&["text"]).unwrap_err().to_string();
    assert!(
        error.contains("cannot embed") && error.contains("label tokens"),
        "{error}"
    );
    let options = LoadOptions::new(KernelChoice::Auto.resolve().unwrap(), Quantization::Q8);
    let error = Embedder::load(&directory("llama2"), options)
        .unwrap_err()
        .to_string();
    assert!(error.contains("LlamaForCausalLM"), "{error}");
}
