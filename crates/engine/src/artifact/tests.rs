use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::model::{Llama, Precision};

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama")
}

fn imported(quantization: Quantization) -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let target = parent.path().join("artifact");
    import(&fixture(), &target, quantization).unwrap();
    (parent, target)
}

fn open(directory: &Path) -> Result<Artifact, ArtifactError> {
    Artifact::open(directory, Quantization::Q8)
}

fn precision() -> Precision {
    Precision::Packed(crate::kernel::KernelChoice::Auto.resolve().unwrap())
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
fn an_imported_model_computes_what_quantising_on_load_computes() {
    let logits = |artifact: Artifact| {
        let tensors = tensors::Tensors::parse(&artifact.weights).unwrap();
        let model = Llama::build(&artifact.config, &tensors, precision()).unwrap();
        model.forward(&[5, 6, 7], &mut model.cache())
    };
    let (_parent, target) = imported(Quantization::Q8);
    let plain = open(&fixture()).unwrap();
    let imported = open(&target).unwrap();
    assert!(imported.weights.len() < plain.weights.len() / 3);
    assert_eq!(logits(imported), logits(plain));
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
    let again = import(&fixture(), &target, Quantization::F32);
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
        // Without a manifest it is a Hugging Face directory, and loads as one.
        assert_eq!(open(&target).is_ok(), file == MANIFEST);
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
        ("artifact/1", "artifact/2"),
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

fn small_config() -> LlamaConfig {
    LlamaConfig::parse(&std::fs::read(fixture().join(CONFIG)).unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_weights_never_panic(
        at in 0usize..4000, bytes in prop::collection::vec(any::<u8>(), 1..16),
    ) {
        let mut weights = std::fs::read(fixture().join(WEIGHTS)).unwrap();
        weights[at..at + bytes.len()].copy_from_slice(&bytes);
        if let Ok(tensors) = tensors::Tensors::parse(&weights) {
            let _ = Llama::build(&small_config(), &tensors, precision());
        }
    }

    #[test]
    fn garbage_is_no_checkpoint(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(tensors::Tensors::parse(&bytes).is_err());
    }

    #[test]
    fn garbage_is_no_manifest(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Manifest::parse(&bytes).is_err());
    }
}
