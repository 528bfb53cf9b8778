use std::fs;
use std::path::{Path, PathBuf};

use tiermesh_core::error::with_causes;

use super::read_all;
use crate::checkpoint::Checkpoint;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn refused(path: &Path) -> String {
    with_causes(&Checkpoint::open(path).err().expect("it is refused"))
}

fn directory(files: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for name in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("it is inside")).expect("a directory");
        fs::write(path, b"{}").expect("a file is written");
    }
    directory
}

#[test]
fn a_checkpoint_of_transformers_opens() {
    let checkpoint = Checkpoint::open(&fixture("tiny-llama")).expect("it opens");
    assert_eq!(checkpoint.name, "tiny-llama");
    assert!(checkpoint.config_json.starts_with(b"{"));
    assert!(checkpoint.tokenizer_json.starts_with(b"{"));
    assert_eq!(
        checkpoint.side.keys().copied().collect::<Vec<_>>(),
        ["tiermesh.json"]
    );
    let tensors = &checkpoint.tensors;
    let name = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(tensors.shape(name), Some(&[64, 64][..]));
    assert_eq!(tensors.dtype_name(name), Some("F32"));
    let mut row = vec![0.0; 64];
    tensors.read(name, 64 * 63, &mut row).expect("the last row");
    assert!(row.iter().any(|v| *v != 0.0));
    read_all(&**tensors, 1 << 20);
}

#[test]
fn side_files_come_along_and_others_do_not() {
    let directory = directory(&[
        "config.json",
        "tokenizer.json",
        "1_Pooling/config.json",
        "2_Normalize/config.json",
        "modules.json",
        "chat_template.jinja",
        "README.md",
    ]);
    let weights = fs::read(fixture("tiny-llama-tied/model.safetensors")).expect("a fixture");
    fs::write(directory.path().join("model.safetensors"), weights).expect("a file is written");
    let checkpoint = Checkpoint::open(directory.path()).expect("it opens");
    assert_eq!(
        checkpoint.side.keys().copied().collect::<Vec<_>>(),
        [
            "1_Pooling/config.json",
            "2_Normalize",
            "chat_template.jinja",
            "modules.json"
        ]
    );
    assert_eq!(checkpoint.side["modules.json"], b"{}");
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    let empty = directory(&[]);
    assert!(refused(empty.path()).contains("has no config.json"));
    let error = refused(directory(&["config.json"]).path());
    assert!(error.contains("has no tokenizer.json"), "{error}");
    let error = refused(directory(&["config.json", "tokenizer.model"]).path());
    assert!(error.contains("tokenizer.model is there"), "{error}");
    assert!(error.contains("AutoTokenizer.from_pretrained"), "{error}");

    let with = |file: &str| refused(directory(&["config.json", "tokenizer.json", file]).path());
    let error = with("notes.txt");
    assert!(
        error.contains("has no model.safetensors and no model.safetensors.index.json"),
        "{error}"
    );
    let error = with("pytorch_model.bin");
    assert!(
        error.contains("pytorch_model.bin is there: convert it"),
        "{error}"
    );
    assert!(error.contains("save_pretrained"), "{error}");
    let error = with("model-q8_0.gguf");
    assert!(
        error.contains("model-q8_0.gguf is there: pass that file"),
        "{error}"
    );
    let error = with("adapter_model.safetensors");
    assert!(error.contains("merge the adapter"), "{error}");
    let several = directory(&["config.json", "tokenizer.json", "b.gguf", "a.gguf"]);
    assert!(refused(several.path()).contains("pass one of them, as a.gguf"));
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let directory = directory(&["weights.bin"]);
    let error = refused(&directory.path().join("weights.bin"));
    assert!(error.contains("a file that ends in .gguf"), "{error}");
    let error = refused(&directory.path().join("absent"));
    assert!(error.contains("is no checkpoint"), "{error}");
}

#[test]
fn a_side_file_larger_than_its_kind_is_not_read() {
    let directory = directory(&["config.json", "tokenizer.json"]);
    let config = fs::File::options()
        .write(true)
        .open(directory.path().join("config.json"))
        .expect("it is there");
    // A sparse file: nothing of it is on disk.
    config.set_len(1 << 40).expect("it grows");
    let error = refused(directory.path());
    assert_eq!(
        error,
        "config.json has 1099511627776 bytes; allowed: at most 1048576"
    );
}

#[test]
fn a_directory_in_a_files_place_is_refused() {
    let directory = directory(&["config.json/inside", "tokenizer.json"]);
    let error = refused(directory.path());
    assert_eq!(
        error,
        "config.json cannot be read: it is not a regular file"
    );
}
