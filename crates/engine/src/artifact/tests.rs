use std::ops::ControlFlow;
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::model::Decoder;

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama")
}

fn imported(quantization: Quantization) -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("artifact");
    quietly(&fixture(), &target, quantization).unwrap();
    (parent, target)
}

fn quietly(source: &Path, target: &Path, q: Quantization) -> Result<Manifest, ImportError> {
    import(source, target, &ImportOptions::new(q), &mut |_| {
        ControlFlow::Continue(())
    })
}

fn open(directory: &Path) -> Result<Artifact, ArtifactError> {
    Artifact::open(directory, Quantization::Q8)
}

fn logits(artifact: &Artifact) -> Vec<f32> {
    let ModelConfig::Decoder(config) = &artifact.config else {
        panic!("a decoder")
    };
    let precision = artifact.precision(crate::kernel::KernelChoice::Auto.resolve().unwrap());
    let model = Decoder::build(
        config,
        &*artifact.weights,
        (precision, crate::model::KvType::F16),
    )
    .unwrap();
    model.forward(&[5, 6, 7], &mut model.cache())
}

#[test]
fn an_import_carries_what_the_side_file_says() {
    let (_parent, target) = imported(Quantization::Q8);
    let manifest = open(&target).unwrap().manifest;
    assert_eq!(manifest.name.as_str(), "tiny-llama");
    assert_eq!(manifest.license, "Apache-2.0");
    assert_eq!(manifest.eos, [303]);
    assert_eq!(manifest.prompt.prefix, "<|user|>");
    assert_eq!(manifest.context_tokens, 2048);
    assert_eq!(manifest.digest.len(), 64);
}

#[test]
fn an_imported_model_computes_what_packing_on_load_computes() {
    for quantization in [
        Quantization::Q8,
        Quantization::Q4,
        Quantization::F16,
        Quantization::F32,
    ] {
        let (_parent, target) = imported(quantization);
        let plain = Artifact::open(&fixture(), quantization).unwrap();
        assert_eq!(
            logits(&open(&target).unwrap()),
            logits(&plain),
            "{quantization:?}"
        );
        verify(&target).unwrap();
    }
}

#[test]
fn importing_twice_gives_the_same_digest_and_other_weights_another() {
    let digest = |quantization| {
        let (_parent, target) = imported(quantization);
        open(&target).unwrap().manifest.digest
    };
    assert_eq!(digest(Quantization::Q8), digest(Quantization::Q8));
    assert_ne!(digest(Quantization::Q8), digest(Quantization::F32));
}

#[test]
fn a_target_that_exists_is_left_alone() {
    let (_parent, target) = imported(Quantization::Q8);
    let again = quietly(&fixture(), &target, Quantization::F32);
    assert!(matches!(again, Err(ImportError::Exists { .. })));
    assert_eq!(
        open(&target).unwrap().manifest.quantization,
        Quantization::Q8
    );
}

#[test]
fn a_flipped_bit_in_any_file_is_refused_by_its_name() {
    for file in [MANIFEST, CONFIG, TOKENIZER, WEIGHTS] {
        let (_parent, target) = imported(Quantization::Q8);
        let path = target.join(file);
        let original = std::fs::read(&path).unwrap();
        for at in [original.len() / 5, original.len() / 2, original.len() - 3] {
            let mut damaged = original.clone();
            damaged[at] ^= 0x04;
            std::fs::write(&path, &damaged).unwrap();
            let error = open(&target)
                .err()
                .unwrap_or_else(|| panic!("{file} at {at} loads"));
            assert!(
                error.to_string().starts_with(file),
                "{file} at {at}: {error}"
            );
            if file != MANIFEST {
                assert!(matches!(error, ArtifactError::Corrupt { .. }), "{error}");
            }
        }
        std::fs::write(&path, &original[..original.len() - 2]).unwrap();
        assert!(open(&target).err().unwrap().to_string().starts_with(file));
        std::fs::remove_file(&path).unwrap();
        // Without a manifest it is no checkpoint either: tiles are no matrices.
        assert!(open(&target).is_err());
    }
}

#[test]
fn a_corrupt_file_is_told_with_both_digests() {
    let (_parent, target) = imported(Quantization::Q8);
    let path = target.join(WEIGHTS);
    let mut bytes = std::fs::read(&path).unwrap();
    let expected = sha256_hex(&bytes);
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let message = open(&target).err().unwrap().to_string();
    assert!(
        message.contains(&expected) && message.contains(&sha256_hex(&bytes)),
        "{message}"
    );
}

#[test]
fn an_edited_manifest_is_refused() {
    let (_parent, target) = imported(Quantization::Q8);
    let path = target.join(MANIFEST);
    let json = std::fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("<|user|>", "<|root|>"),
        ("\"Apache-2.0\"", "\"MIT\""),
        ("artifact/2", "artifact/1"),
        ("\"eos\"", "\"eos2\""),
    ] {
        assert!(json.contains(from));
        std::fs::write(&path, json.replace(from, to)).unwrap();
        let error = open(&target).err().unwrap().to_string();
        assert!(error.starts_with(MANIFEST), "{error}");
    }
}

#[test]
fn a_side_file_with_an_unknown_end_token_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    for file in [CONFIG, TOKENIZER, WEIGHTS] {
        std::fs::copy(fixture().join(file), parent.path().join(file)).unwrap();
    }
    std::fs::write(
        parent.path().join(SIDE_FILE),
        r#"{"name": "x", "eos": ["<|nope|>"]}"#,
    )
    .unwrap();
    let error = open(parent.path()).err().unwrap().to_string();
    assert!(
        error.contains("tiermesh.json: eos = \"<|nope|>\""),
        "{error}"
    );
    std::fs::write(parent.path().join(SIDE_FILE), r#"{"name": "not a name"}"#).unwrap();
    assert!(
        open(parent.path())
            .err()
            .unwrap()
            .to_string()
            .contains("name")
    );
}

/// Parses these bytes as an artifact's weights, and asks for every tensor.
fn probe(weights: &[u8]) -> Result<(), TensorError> {
    let parent = tempfile::tempdir().unwrap();
    std::fs::write(parent.path().join(WEIGHTS), weights).unwrap();
    let weights = PackedWeights::parse(map::map(parent.path(), WEIGHTS).unwrap())?;
    let config = ModelConfig::parse(&std::fs::read(fixture().join(CONFIG)).unwrap()).unwrap();
    let mut specs = config.tensors().into_iter();
    specs.try_for_each(|spec| source::check(&weights, &spec))
}

#[test]
fn tensors_that_are_missing_extra_or_misshapen_are_named() {
    let original: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture().join(CONFIG)).unwrap()).unwrap();
    for (key, value, expected) in [
        (
            "num_hidden_layers",
            3,
            "model.layers.2.self_attn.q_proj.weight is missing",
        ),
        ("num_hidden_layers", 1, "has no place in LlamaForCausalLM"),
        (
            "intermediate_size",
            96,
            "model.layers.0.mlp.gate_proj.weight has shape",
        ),
        ("vocab_size", 100, "vocab_size"),
    ] {
        let parent = tempfile::tempdir().unwrap();
        for file in [TOKENIZER, WEIGHTS] {
            std::fs::copy(fixture().join(file), parent.path().join(file)).unwrap();
        }
        let mut config = original.clone();
        config[key] = value.into();
        if key == "vocab_size" {
            config["eos_token_id"] = 1.into();
        }
        std::fs::write(parent.path().join(CONFIG), config.to_string()).unwrap();
        let target = parent.path().join("target");
        let error = quietly(parent.path(), &target, Quantization::Q8).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(expected), "{cause}");
        assert!(!target.exists());
    }
}

#[test]
fn an_import_reports_how_far_it_is() {
    let parent = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    let options = ImportOptions {
        name: Some("renamed".to_owned()),
        license: Some("MIT".to_owned()),
        ..ImportOptions::new(Quantization::Q4)
    };
    let manifest = import(
        &fixture(),
        &parent.path().join("x"),
        &options,
        &mut |progress| {
            seen.push((progress.done_values, progress.total_values));
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    assert!(
        seen.windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 == pair[1].1)
    );
    assert_eq!(seen.last().unwrap().0, seen.last().unwrap().1);
    assert_eq!(
        (manifest.name().as_str(), manifest.license()),
        ("renamed", "MIT")
    );
}

#[test]
fn a_cancelled_import_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let mut pieces = 0;
    let options = ImportOptions::new(Quantization::Q8);
    let ended = import(&fixture(), &parent.path().join("x"), &options, &mut |_| {
        pieces += 1;
        match pieces {
            5 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert!(matches!(ended, Err(ImportError::Cancelled)));
    assert_eq!(
        (pieces, std::fs::read_dir(parent.path()).unwrap().count()),
        (5, 0)
    );
}

#[test]
fn nothing_is_left_of_an_import_that_cannot_be_written() {
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("not a directory").join("x");
    std::fs::write(parent.path().join("not a directory"), "a file").unwrap();
    let error = quietly(&fixture(), &target, Quantization::Q8).unwrap_err();
    assert!(matches!(error, ImportError::Write { .. }), "{error}");
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
}

#[test]
fn two_checkpoints_that_differ_in_one_value_have_two_digests() {
    let digest = |flip: bool| {
        let parent = tempfile::tempdir().unwrap();
        for file in [CONFIG, TOKENIZER, WEIGHTS] {
            std::fs::copy(fixture().join(file), parent.path().join(file)).unwrap();
        }
        let path = parent.path().join(WEIGHTS);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 4;
        bytes[last] ^= u8::from(flip);
        std::fs::write(&path, bytes).unwrap();
        let manifest = open(parent.path()).unwrap().manifest;
        let files = manifest.files;
        files
            .into_iter()
            .find(|file| file.path == WEIGHTS)
            .unwrap()
            .sha256
    };
    assert_eq!(digest(false), digest(false));
    assert_ne!(digest(false), digest(true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_weights_never_panic(
        at in 0usize..4000, bytes in prop::collection::vec(any::<u8>(), 1..16),
    ) {
        let (_parent, target) = imported(Quantization::Q8);
        let mut weights = std::fs::read(target.join(WEIGHTS)).unwrap();
        weights[at..at + bytes.len()].copy_from_slice(&bytes);
        let _ = probe(&weights);
    }

    #[test]
    fn garbage_is_no_artifact(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(probe(&bytes).is_err());
    }

    #[test]
    fn garbage_is_no_manifest(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Manifest::parse(&bytes).is_err());
    }
}
