//! Every family against what `transformers` computes from the same bytes.

use burn::tensor::{Tensor, TensorData};

use self::golden::{DECODERS, Golden, directory, golden, largest, relative_rms};
use super::layers::{GpuLinear, Projection};
use super::*;
use crate::artifact::{Artifact, Quantization};
use crate::config::ModelConfig;
use crate::kernel::{Encoding, KernelChoice, KernelPath, Shape};
use crate::loaded::KvCacheType;

#[expect(dead_code, reason = "only an engine ends as the model says")]
mod golden;

fn open(name: &str) -> Artifact {
    Artifact::open(&directory(name), Quantization::F32).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn build(artifact: &Artifact, precision: Precision) -> Decoder {
    let ModelConfig::Decoder(config) = &artifact.config else {
        panic!("{:?} is no decoder", artifact.config)
    };
    let kv = KvCacheType::Auto.beside(precision);
    Decoder::build(config, &*artifact.weights, (precision, kv)).unwrap()
}

fn auto() -> KernelPath {
    KernelChoice::Auto.resolve().unwrap()
}

fn greedy(model: &Decoder, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut cache = model.cache();
    golden::likeliest(prompt, count, |ids| model.forward(ids, &mut cache))
}

fn compared(model: &Decoder, golden: &Golden) -> Vec<(f32, f32)> {
    golden.beside(&model.forward_all(&golden.prompt_ids, &mut model.cache()))
}

#[test]
fn every_decoder_agrees_with_transformers_in_f32() {
    for name in DECODERS
        .into_iter()
        .chain(["tiny-llama", "tiny-llama-tied"])
    {
        let (artifact, golden) = (open(name), golden(name));
        let model = build(&artifact, Precision::Dense);
        let off = largest(&compared(&model, &golden));
        assert!(off < 1e-4, "{name}: a logit is off by {off}");
        let ids = greedy(&model, &golden.prompt_ids, 32);
        assert_eq!(ids, golden.greedy_ids, "{name}");
        assert!(!golden.prompt.is_empty());
    }
}

#[test]
fn configurations_of_either_generation_of_transformers_mean_the_same() {
    let mut compared = 0;
    for name in DECODERS.into_iter().chain(["phi3-longrope"]) {
        let read = |file: &str| std::fs::read(directory(name).join(file));
        let Ok(older) = read("config.v4.json") else {
            continue;
        };
        let newer = ModelConfig::parse(&read("config.json").unwrap()).unwrap();
        assert_eq!(ModelConfig::parse(&older).unwrap(), newer, "{name}");
        compared += 1;
    }
    assert_eq!(compared, 14, "all but odd-llama and sharded have both");
}

/// What an adapter computes in Burn's own operations, here on the processor.
#[test]
fn plain_operations_compute_what_our_own_do() {
    let values = |count: usize, seed: f32| {
        let value = |i: usize| ((i as f32 * 0.37 + seed).sin() * 9.0).powi(3) / 40.0;
        (0..count).map(value).collect::<Vec<f32>>()
    };
    let tensor = |values: &[f32], rows: usize| {
        let data = TensorData::new(values.to_vec(), [rows, values.len() / rows]);
        Tensor::<2>::from_data(data, &device())
    };
    let close = |plain: Tensor<2>, own: Vec<f32>, what: &str| {
        let plain: Vec<f32> = plain.into_data().try_into_vec().unwrap();
        let pairs: Vec<(f32, f32)> = plain.into_iter().zip(own).collect();
        assert!(largest(&pairs) < 1e-4, "{what}: {}", largest(&pairs));
    };
    let (x, weight) = (values(3 * 64, 0.1), values(64, 0.7));
    let plain_weight = Tensor::<1>::from_data(TensorData::new(weight.clone(), [64]), &device());
    let normed = plain::rms_norm(tensor(&x, 3), plain_weight, 1e-5);
    close(normed, math::rms_norm(&x, &weight, 1e-5), "norm");
    for activation in [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::Tanh,
    ] {
        let own = math::gated(&x, 32, activation);
        close(
            plain::gated(tensor(&x, 3), activation),
            own,
            &format!("{activation:?}"),
        );
    }
}

#[test]
fn a_matrix_in_pieces_computes_what_it_does_whole() {
    let weights: Vec<f32> = (0..7 * 8).map(|i| (i as f32).sin()).collect();
    let bias: Vec<f32> = (0..7).map(|i| i as f32).collect();
    let data = TensorData::new(weights.clone(), [7, 8]);
    let x = Tensor::<2>::from_data(data, &device());
    let whole = Projection::dense(
        weights.clone(),
        Shape { n: 7, k: 8 },
        Some(bias.clone()),
        &device(),
    );
    let mut cut = GpuLinear::new(Some(bias), &device());
    for piece in weights.chunks(3 * 8) {
        cut.push(piece.to_vec(), 8, &device());
    }
    let values = |x: Tensor<2>| x.into_data().try_into_vec::<f32>().unwrap();
    let cut = values(Projection::Gpu(cut).forward(x.clone()));
    let pairs: Vec<_> = cut.into_iter().zip(values(whole.forward(x))).collect();
    assert!(pairs.len() == 49 && largest(&pairs) < 1e-5);
}

/// f16 holds these checkpoints' weights exactly, so what is left is the order
/// of sums: our own kernels are held to the same bound as Burn's.
#[test]
fn every_decoder_agrees_with_transformers_in_f16() {
    for name in DECODERS {
        let (artifact, golden) = (open(name), golden(name));
        let model = build(&artifact, Precision::Packed(Encoding::F16, auto()));
        let off = largest(&compared(&model, &golden));
        assert!(off < 2e-4, "{name}: a logit is off by {off}");
        let ids = greedy(&model, &golden.prompt_ids, 32);
        assert_eq!(ids, golden.greedy_ids, "{name}");
    }
}

#[test]
fn long_rope_holds_up_to_the_original_length() {
    let (artifact, golden) = (open("phi3-longrope"), golden("phi3-longrope"));
    let context = artifact.config.context();
    assert!(golden.short_prompt_ids.len() <= context && context < golden.prompt_ids.len());
    let model = build(&artifact, Precision::Dense);
    let logits = model.forward(&golden.short_prompt_ids, &mut model.cache());
    let pairs: Vec<_> = logits
        .into_iter()
        .zip(golden.short_logits[0].clone())
        .collect();
    assert!(largest(&pairs) < 1e-4);
}

/// Random weights spread an error as no trained model does, so the bounds are
/// on the mean of the families; `benches/README.md` has a trained model's.
#[test]
fn quantised_decoders_stay_close_to_transformers() {
    for (encoding, bound) in [(Encoding::Q8, 0.06), (Encoding::Q4, 0.6)] {
        let off = DECODERS.map(|name| {
            let (artifact, golden) = (open(name), golden(name));
            let model = build(&artifact, Precision::Packed(encoding, auto()));
            relative_rms(&compared(&model, &golden))
        });
        let mean = off.iter().sum::<f32>() / off.len() as f32;
        assert!(mean < bound, "{encoding:?}: {mean} of {off:?}");
    }
}

#[test]
fn prompt_and_decode_leave_the_same_bits() {
    let bits = |logits: &[f32]| logits.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
    for (name, encoding) in [
        ("tiny-llama", Encoding::Q8),
        ("gemma3", Encoding::Q4),
        ("odd-llama", Encoding::F16),
        ("mistral", Encoding::Q8),
    ] {
        let (artifact, golden) = (open(name), golden(name));
        let model = build(&artifact, Precision::Packed(encoding, auto()));
        assert!(model.is_row_exact());
        let ids: Vec<u32> = golden
            .prompt_ids
            .iter()
            .cycle()
            .copied()
            .take(150)
            .collect();
        let together = bits(&model.forward_all(&ids, &mut model.cache()));
        let in_chunks = |size: usize| {
            let mut cache = model.cache();
            let chunks = ids.chunks(size);
            chunks
                .flat_map(|chunk| bits(&model.forward_all(chunk, &mut cache)))
                .collect::<Vec<_>>()
        };
        for size in [1, 37] {
            assert!(together == in_chunks(size), "{name} in chunks of {size}");
        }
    }
}

#[test]
fn every_kernel_path_gives_the_same_logits() {
    for name in ["tiny-llama", "gemma2"] {
        let (artifact, golden) = (open(name), golden(name));
        for encoding in [Encoding::Q8, Encoding::Q4, Encoding::F16] {
            let paths = KernelChoice::ALL
                .into_iter()
                .filter_map(|c| c.resolve().ok());
            let logits: Vec<Vec<u32>> = paths
                .map(|path| {
                    let model = build(&artifact, Precision::Packed(encoding, path));
                    let logits = model.forward(&golden.prompt_ids, &mut model.cache());
                    logits.iter().map(|l| l.to_bits()).collect()
                })
                .collect();
            assert!(
                logits.windows(2).all(|pair| pair[0] == pair[1]),
                "{name} {encoding:?}"
            );
        }
    }
}

#[test]
fn a_shape_that_the_weights_do_not_have_is_named() {
    let artifact = open("tiny-llama");
    let ModelConfig::Decoder(config) = &artifact.config else {
        panic!("a decoder")
    };
    let mut config = config.clone();
    config.layers.push(config.layers[0]);
    let error =
        Decoder::build(&config, &*artifact.weights, (Precision::Dense, KvType::F32)).unwrap_err();
    let message = format!("{error}");
    assert!(message.contains("model.layers.2."), "{message}");
}
