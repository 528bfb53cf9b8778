//! A model's directory with one file replaced or damaged: it loads or it says
//! which file is wrong. Without a manifest every file is read as it lies
//! there, so damage reaches the parsers and not only the digests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::LazyLock;
use tempfile::TempDir;
use tiermesh_engine::{KernelChoice, LoadOptions, Model, Quantization};

const FILES: [(&str, &[u8]); 3] = [
    (
        "config.json",
        include_bytes!("../../crates/engine/tests/fixtures/tiny-llama-tied/config.json"),
    ),
    (
        "tokenizer.json",
        include_bytes!("../../crates/engine/tests/fixtures/tiny-llama-tied/tokenizer.json"),
    ),
    (
        "model.safetensors",
        include_bytes!("../../crates/engine/tests/fixtures/tiny-llama-tied/model.safetensors"),
    ),
];

static DIRECTORY: LazyLock<TempDir> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, bytes) in FILES {
        write(directory.path(), name, bytes);
    }
    directory
});

fn write(directory: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(directory.join(name), bytes).expect("a temporary file is written");
}

fuzz_target!(|data: &[u8]| {
    let [kind, low, high, rest @ ..] = data else {
        return;
    };
    let directory = DIRECTORY.path();
    if kind % 7 == 6 {
        write(directory, "manifest.json", &data[1..]);
        load(directory);
        std::fs::remove_file(directory.join("manifest.json")).expect("it was just written");
        return;
    }
    let (name, whole) = FILES[usize::from(kind % 3)];
    let mut damaged = whole.to_vec();
    if kind % 2 == 0 {
        data[1..].clone_into(&mut damaged);
    } else {
        let at = usize::from(u16::from_le_bytes([*low, *high])) % whole.len();
        let length = rest.len().min(whole.len() - at);
        damaged[at..at + length].copy_from_slice(&rest[..length]);
    }
    write(directory, name, &damaged);
    load(directory);
    write(directory, name, whole);
});

fn load(directory: &Path) {
    let kernel: KernelChoice = "portable".parse().expect("a kernel's name");
    let options = LoadOptions::new(
        kernel
            .resolve()
            .expect("every machine has the portable kernel"),
        Quantization::Q8,
    );
    drop(Model::load(directory, options));
}
