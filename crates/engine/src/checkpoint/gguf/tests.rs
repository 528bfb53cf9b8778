mod blocks;
mod headers;
mod models;
mod tokenizers;

use std::path::{Path, PathBuf};

use serde_json::Value;
use tiermesh_core::error::with_causes;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::tests::Strict;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/gguf")
        .join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).expect("a fixture")
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(name)).expect("the fixture is a checkpoint")
}

/// What the script that made a fixture says must be read from it.
fn golden(name: &str) -> Value {
    serde_json::from_slice(&bytes(name)).expect("the golden file is JSON")
}

fn refused(bytes: Vec<u8>) -> String {
    let error = Checkpoint::from_gguf("model.gguf", Strict(bytes)).err();
    with_causes(&error.expect("it is refused"))
}

/// Writes a GGUF file piece by piece.
#[derive(Default)]
struct Writer {
    pairs: (u64, Vec<u8>),
    tensors: (u64, Vec<u8>),
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

impl Writer {
    /// A key with a value of type `kind` that is these bytes.
    fn raw(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        let (count, bytes) = &mut self.pairs;
        *count += 1;
        bytes.extend(text(key));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
        self
    }

    fn unsigned(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    fn float(self, key: &str, value: f32) -> Self {
        self.raw(key, 6, &value.to_le_bytes())
    }

    fn string(self, key: &str, value: &str) -> Self {
        self.raw(key, 8, &text(value))
    }

    fn strings(self, key: &str, values: &[&str]) -> Self {
        self.array(key, 8, values.iter().map(|value| text(value)))
    }

    fn integers(self, key: &str, values: &[i32]) -> Self {
        let values = values.iter().map(|value| value.to_le_bytes().to_vec());
        self.array(key, 5, values)
    }

    fn array(self, key: &str, kind: u32, values: impl ExactSizeIterator<Item = Vec<u8>>) -> Self {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        bytes.extend(values.flatten());
        self.raw(key, 9, &bytes)
    }

    fn tensor(mut self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        let (count, bytes) = &mut self.tensors;
        *count += 1;
        bytes.extend(text(name));
        bytes.extend((dimensions.len() as u32).to_le_bytes());
        bytes.extend(dimensions.iter().flat_map(|d| d.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        self
    }

    /// The file with this many bytes of data, aligned by 32.
    fn finish(self, data: usize) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(self.tensors.0.to_le_bytes());
        bytes.extend(self.pairs.0.to_le_bytes());
        bytes.extend(self.pairs.1);
        bytes.extend(self.tensors.1);
        bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
        bytes
    }
}
