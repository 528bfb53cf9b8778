//! Decoders on a graphics adapter, against what `transformers` computes from the
//! same bytes. Fails where there is no adapter: Mesa's lavapipe is one
//! (`.ci/gpu` installs it).

#![allow(clippy::unwrap_used)]

use std::num::NonZeroUsize;
use std::sync::Arc;

use futures::StreamExt;
use golden::{DECODERS, Golden, directory, golden, largest, relative_rms};
use tiermesh_core::{Content, Task};
use tiermesh_engine::{
    Embedder, Engine, EngineOptions, Job, KernelChoice, KernelPath, LoadOptions, Model, Output,
    Quantization, Session,
};

#[path = "../src/model/tests/golden.rs"]
#[expect(dead_code, reason = "long rope is the processor's to test")]
mod golden;

fn adapter() -> KernelPath {
    KernelChoice::Wgpu
        .resolve()
        .unwrap_or_else(|error| panic!("{error}"))
}

fn load(name: &str, kernel: KernelPath, held: Quantization) -> Model {
    Model::load(&directory(name), LoadOptions::new(kernel, held))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn greedy(model: &Arc<Model>, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut session = Session::new(Arc::clone(model));
    golden::likeliest(prompt, count, |ids| session.read(ids).unwrap())
}

fn compared(model: &Arc<Model>, golden: &Golden) -> Vec<(f32, f32)> {
    let mut session = Session::new(Arc::clone(model));
    golden.beside(&session.read_all(&golden.prompt_ids).unwrap())
}

#[test]
fn every_decoder_agrees_with_transformers_on_the_adapter() {
    let kernel = adapter();
    for name in DECODERS {
        let (golden, model) = (golden(name), load(name, kernel, Quantization::F32));
        let model = Arc::new(model);
        let off = largest(&compared(&model, &golden));
        assert!(off < 1e-4, "{name}: a logit is off by {off}");
        let ids = greedy(&model, &golden.prompt_ids, 32);
        assert_eq!(ids, golden.greedy_ids, "{name}");
    }
}

/// Weights are unpacked and activations left as they are, so what is left is
/// the weights' own rounding: never more than on the processor.
#[test]
fn quantised_decoders_stay_as_close_as_on_the_processor() {
    let kernel = adapter();
    for (held, bound) in [
        (Quantization::F16, 1e-5),
        (Quantization::Q8, 0.06),
        (Quantization::Q4, 0.6),
    ] {
        let names = ["llama3", "odd-llama", "qwen2", "phi3", "gemma2"];
        let off = names.map(|name| {
            let model = Arc::new(load(name, kernel, held));
            relative_rms(&compared(&model, &golden(name)))
        });
        let mean = off.iter().sum::<f32>() / off.len() as f32;
        assert!(mean < bound, "{held:?}: {mean} of {off:?}");
    }
}

/// The scheduler's thread, its pool's threads, pages, shared prefixes and
/// streams side by side: the same tokens.
#[tokio::test]
async fn an_engine_serves_streams_from_the_adapter() {
    let golden = golden("llama3");
    let model = load("llama3", adapter(), Quantization::F32);
    assert!(model.info().numerics_id.as_str().contains("/wgpu-"));
    let id = model.info().id.clone();
    let options = EngineOptions {
        streams: NonZeroUsize::new(4).unwrap(),
        threads: NonZeroUsize::new(2).unwrap(),
        ..EngineOptions::default()
    };
    let engine = Engine::start(vec![model], options).unwrap();
    let job = || {
        let prompt = Content::Prompt(golden.prompt.as_str().into());
        Job::new(id.clone(), Task::Generate, prompt, 32)
    };
    let streams: Vec<_> = (0..6).map(|_| engine.submit(job()).unwrap()).collect();
    for mut stream in streams {
        let mut ids = Vec::new();
        while let Some(output) = stream.next().await {
            if let Output::Tokens { items, .. } = output.unwrap() {
                ids.extend(items.iter().filter_map(|token| token.id));
            }
        }
        assert_eq!(ids, golden.generated_ids);
    }
}

#[test]
fn an_encoder_computes_on_the_processor_as_ever() {
    let embed = |kernel| {
        let options = LoadOptions::new(kernel, Quantization::Q8);
        let model = Embedder::load(&directory("bert"), options).unwrap();
        let embedded = model.embed(&["where is the mesh"]).unwrap();
        (model.info().numerics_id.clone(), embedded)
    };
    let auto = KernelChoice::Auto.resolve().unwrap();
    assert_eq!(embed(adapter()), embed(auto));
}
