use std::path::PathBuf;

use serde::Deserialize;

use super::*;
use crate::artifact::{Artifact, Quantization, tensors::Tensors};
use crate::config::LlamaConfig;
use crate::kernel::KernelChoice;

#[derive(Deserialize)]
struct Golden {
    prompt: String,
    prompt_ids: Vec<u32>,
    logits: Vec<Vec<f32>>,
    greedy_ids: Vec<u32>,
}

fn fixture(name: &str) -> (Artifact, Golden) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    let golden = std::fs::read(directory.join("golden.json")).unwrap();
    (
        Artifact::open(&directory, Quantization::F32).unwrap(),
        serde_json::from_slice(&golden).unwrap(),
    )
}

fn build(artifact: &Artifact, precision: Precision) -> Llama {
    let tensors = Tensors::parse(&artifact.weights).unwrap();
    Llama::build(&artifact.config, &tensors, precision).unwrap()
}

fn packed() -> Precision {
    Precision::Packed(KernelChoice::Auto.resolve().unwrap())
}

fn greedy(model: &Llama, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut cache = model.cache();
    let mut logits = model.forward(prompt, &mut cache);
    let mut ids = Vec::new();
    for position in 0..count {
        let params = crate::sampler::SamplingParams::GREEDY;
        let id = crate::sampler::sample(&logits, params, 0, position as u64).unwrap();
        ids.push(id);
        logits = model.forward(&[id], &mut cache);
    }
    ids
}

/// The largest and the root-mean-square difference from the golden logits.
fn difference(model: &Llama, golden: &Golden) -> (f32, f32) {
    let logits = model.forward_all(&golden.prompt_ids, &mut model.cache());
    let expected = golden.logits.concat();
    assert_eq!(logits.len(), expected.len());
    let differences = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    let largest = differences.clone().fold(0.0, f32::max);
    let squares: f32 = differences.map(|d| d * d).sum();
    (largest, (squares / expected.len() as f32).sqrt())
}

#[test]
fn f32_agrees_with_transformers() {
    for name in ["tiny-llama", "tiny-llama-tied"] {
        let (artifact, golden) = fixture(name);
        assert_eq!(
            artifact.tokenizer.encode_content(&golden.prompt).unwrap(),
            golden.prompt_ids
        );
        let model = build(&artifact, Precision::Dense);
        let (largest, _) = difference(&model, &golden);
        assert!(largest < 1e-4, "{name}: a logit is off by {largest}");
        assert_eq!(
            greedy(&model, &golden.prompt_ids, 32),
            golden.greedy_ids,
            "{name}"
        );
    }
}

/// int8 weights and activations move these random models' logits by 3 % of
/// their standard deviation (9.2 and 5.5).
#[test]
fn q8_stays_close_to_transformers() {
    for name in ["tiny-llama", "tiny-llama-tied"] {
        let (artifact, golden) = fixture(name);
        let (largest, rms) = difference(&build(&artifact, packed()), &golden);
        assert!(
            rms < 0.3,
            "{name}: logits are off by {rms} rms, {largest} at most"
        );
    }
}

#[test]
fn prompt_and_decode_leave_the_same_bits() {
    let (artifact, golden) = fixture("tiny-llama");
    let model = build(&artifact, packed());
    assert!(model.is_row_exact());
    // Long enough to grow the cache in between.
    let ids: Vec<u32> = golden
        .prompt_ids
        .iter()
        .cycle()
        .copied()
        .take(300)
        .collect();
    let together = model.forward_all(&ids, &mut model.cache());
    let mut cache = model.cache();
    let alone: Vec<f32> = ids
        .iter()
        .flat_map(|id| model.forward(&[*id], &mut cache))
        .collect();
    assert!(
        together
            .iter()
            .zip(&alone)
            .all(|(a, b)| a.to_bits() == b.to_bits())
    );
    let mut cache = model.cache();
    let mut chunked = Vec::new();
    for chunk in ids.chunks(37) {
        chunked.extend(model.forward_all(chunk, &mut cache));
    }
    assert!(
        together
            .iter()
            .zip(&chunked)
            .all(|(a, b)| a.to_bits() == b.to_bits())
    );
}

#[test]
fn every_kernel_path_gives_the_same_logits() {
    let (artifact, golden) = fixture("tiny-llama");
    let choices = [
        KernelChoice::Portable,
        KernelChoice::Avx2,
        KernelChoice::Avx512Vnni,
    ];
    let paths = choices
        .into_iter()
        .filter_map(|choice| choice.resolve().ok());
    let logits: Vec<Vec<u32>> = paths
        .map(|path| {
            let model = build(&artifact, Precision::Packed(path));
            let logits = model.forward(&golden.prompt_ids, &mut model.cache());
            logits.iter().map(|l| l.to_bits()).collect()
        })
        .collect();
    assert!(logits.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named() {
    let (artifact, _) = fixture("tiny-llama");
    let tensors = Tensors::parse(&artifact.weights).unwrap();
    let config = LlamaConfig {
        intermediate: 128,
        ..artifact.config.clone()
    };
    let error = Llama::build(&config, &tensors, Precision::Dense)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("model.layers.0.mlp.gate_proj.weight"),
        "{error}"
    );
    let config = LlamaConfig {
        layers: 3,
        ..artifact.config.clone()
    };
    let error = Llama::build(&config, &tensors, Precision::Dense)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("model.layers.2.input_layernorm.weight is missing"),
        "{error}"
    );
}
