use std::path::Path;

use half::f16;
use serde_json::{Value, json};

use super::{golden, open};
use crate::checkpoint::{Checkpoint, TensorSource};

const MODELS: [&str; 6] = ["llama3", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"];

fn read(tensors: &dyn TensorSource, name: &str) -> Vec<f32> {
    let shape = tensors.shape(name).expect("it is there");
    let mut out = vec![f32::NAN; shape.iter().product()];
    tensors.read(name, 0, &mut out).expect("it reads");
    out
}

fn config(checkpoint: &Checkpoint) -> Value {
    serde_json::from_slice(&checkpoint.config_json).expect("it is JSON")
}

#[test]
fn every_architectures_weights_are_hugging_faces() {
    for name in MODELS {
        let checkpoint = open(&format!("{name}.gguf"));
        let golden = golden(&format!("{name}.json"));
        let expected = golden["tensors"].as_object().expect("an object");
        let mut names: Vec<&str> = expected.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(checkpoint.tensors.names(), names, "{name}");
        for (tensor, expected) in expected {
            let shape = checkpoint.tensors.shape(tensor).expect("it is there");
            assert_eq!(json!(shape), expected["shape"], "{name}: {tensor}");
            let values = read(&*checkpoint.tensors, tensor);
            // As the script weighs them: a value depends on every place.
            let (mut sum, mut weights) = (0.0, 0.0);
            for (i, value) in (1..).zip(&values) {
                sum += f64::from(*value) * f64::from(i);
                weights += f64::from(i);
            }
            let near = |found: f64, key: &str| {
                let expected = expected[key].as_f64().expect("a number");
                let error = (found - expected).abs();
                assert!(error < 1e-6, "{name}: {tensor}: {key} {found} {expected}");
            };
            near(sum / weights, "moment");
            near(f64::from(values[values.len() - 1]), "last");
        }
    }
}

#[test]
fn every_architectures_config_says_what_the_original_did() {
    for name in MODELS {
        let found = config(&open(&format!("{name}.gguf")));
        let golden = golden(&format!("{name}.json"));
        for (key, expected) in golden["config"].as_object().expect("an object") {
            assert_eq!(&found[key], expected, "{name}: {key}");
        }
    }
    let kind = |name: &str| config(&open(name))["architectures"].clone();
    assert_eq!(kind("llama3.gguf"), json!(["LlamaForCausalLM"]));
    assert_eq!(kind("qwen2.gguf"), json!(["Qwen2ForCausalLM"]));
    assert_eq!(kind("qwen3.gguf"), json!(["Qwen3ForCausalLM"]));
    assert_eq!(kind("gemma2.gguf"), json!(["Gemma2ForCausalLM"]));
    assert_eq!(kind("gemma3.gguf"), json!(["Gemma3ForCausalLM"]));
    assert_eq!(kind("phi3.gguf"), json!(["Phi3ForCausalLM"]));
}

#[test]
fn layers_of_gemma_alternate_as_its_generation_does() {
    let gemma2 = config(&open("gemma2.gguf"));
    assert_eq!(
        gemma2["layer_types"],
        json!(["sliding_attention", "full_attention"])
    );
    assert_eq!(gemma2["hidden_activation"], json!("gelu_pytorch_tanh"));
    let gemma3 = config(&open("gemma3.gguf"));
    assert_eq!(gemma3["sliding_window_pattern"], json!(6));
    assert_eq!(
        gemma3["layer_types"],
        json!(["sliding_attention", "sliding_attention"])
    );
}

#[test]
fn side_files_say_how_texts_begin_and_end() {
    for name in MODELS {
        let checkpoint = open(&format!("{name}.gguf"));
        assert_eq!(checkpoint.name, name);
        let generation: Value =
            serde_json::from_slice(&checkpoint.side["generation_config.json"]).expect("JSON");
        let golden = golden(&format!("{name}.json"));
        assert_eq!(generation["eos_token_id"], golden["eos"], "{name}");
    }
    let gemma = open("gemma2.gguf");
    assert_eq!(
        gemma.side["chat_template.jinja"],
        b"{{ bos_token }}{{ messages }}"
    );
    let tokens: Value = serde_json::from_slice(&gemma.side["tokenizer_config.json"]).expect("JSON");
    assert_eq!(tokens["bos_token"], json!("<s>"));
    assert_eq!(tokens["add_bos_token"], json!(true));
    assert!(!open("qwen2.gguf").side.contains_key("chat_template.jinja"));
}

/// The checkpoint that the three files were made from.
fn original() -> Checkpoint {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    Checkpoint::open(&fixtures.join("tiny-llama-tied")).expect("the fixture is a checkpoint")
}

#[test]
fn half_precision_is_the_original_rounded() {
    let (original, converted) = (original(), open("llama-f16.gguf"));
    assert_eq!(original.tensors.names(), converted.tensors.names());
    for name in original.tensors.names() {
        let is_matrix = original.tensors.shape(name).is_some_and(|s| s.len() > 1);
        for (found, original) in read(&*converted.tensors, name)
            .iter()
            .zip(read(&*original.tensors, name))
        {
            let rounded = f16::from_f32(original).to_f32();
            assert_eq!(*found, if is_matrix { rounded } else { original }, "{name}");
        }
    }
}

/// Rows that came back in the wrong places would be off by far more than
/// their own rounding.
#[test]
fn quantized_weights_are_within_half_a_step_of_the_original() {
    for (file, kind, steps) in [
        ("llama-q8_0.gguf", "Q8_0", 127.0),
        ("llama-q4_0.gguf", "Q4_0", 8.0),
    ] {
        let (original, converted) = (original(), open(file));
        for name in original.tensors.names() {
            let expected = read(&*original.tensors, name);
            let found = read(&*converted.tensors, name);
            if original.tensors.shape(name).is_some_and(|s| s.len() < 2) {
                assert_eq!(found, expected);
                continue;
            }
            assert_eq!(converted.tensors.dtype_name(name), Some(kind));
            for (found, expected) in found.chunks(32).zip(expected.chunks(32)) {
                let largest = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
                // Four bits reach from -8 to 7: the far end may lose a step.
                // Eight lose a little more to the scale's own rounding.
                let bound = largest / steps * if steps < 100.0 { 1.01 } else { 0.57 };
                for (found, expected) in found.iter().zip(expected) {
                    assert!((found - expected).abs() <= bound, "{file}: {name}");
                }
            }
        }
    }
}

#[test]
fn rows_of_interleaved_heads_read_alone_as_they_do_together() {
    let checkpoint = open("llama3.gguf");
    for name in ["q_proj.weight", "k_proj.weight", "q_proj.bias"] {
        let name = format!("model.layers.0.self_attn.{name}");
        let whole = read(&*checkpoint.tensors, &name);
        for (first, count) in [(0, 1), (3, 50), (23, 2), (25, 7), (24, 8)] {
            let mut piece = vec![f32::NAN; count];
            checkpoint
                .tensors
                .read(&name, first, &mut piece)
                .expect("it is inside");
            assert_eq!(piece, whole[first..first + count], "{name} {first}");
        }
        let beyond = checkpoint
            .tensors
            .read(&name, whole.len() - 1, &mut [0.0; 2]);
        assert!(beyond.is_err());
    }
}
