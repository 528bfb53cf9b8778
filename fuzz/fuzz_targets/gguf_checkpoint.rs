//! A GGUF file with anything in it: it becomes a checkpoint whose tensors are
//! read inside its bounds, or it is refused. The first byte chooses whether
//! the rest is the file, or damage to one of several that are valid.
#![no_main]

use std::io;

use libfuzzer_sys::fuzz_target;
use tiermesh_engine::{Checkpoint, ReadAt};

const WHOLE: [&[u8]; 5] = [
    include_bytes!("../../crates/engine/tests/fixtures/gguf/llama3.gguf"),
    include_bytes!("../../crates/engine/tests/fixtures/gguf/llama-q4_0.gguf"),
    include_bytes!("../../crates/engine/tests/fixtures/gguf/qwen2.gguf"),
    include_bytes!("../../crates/engine/tests/fixtures/gguf/gemma3.gguf"),
    include_bytes!("../../crates/engine/tests/fixtures/gguf/phi3.gguf"),
];

/// Never asked for a byte that it does not have: that bounds what a reader
/// allocates for its reads.
struct Strict(Vec<u8>);

impl ReadAt for Strict {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = self.0.read_exact_at(offset, out);
        assert!(read.is_ok(), "{} bytes from {offset}", out.len());
        read
    }
}

fuzz_target!(|data: &[u8]| {
    let [kind, rest @ ..] = data else {
        return;
    };
    let file = match WHOLE.get(usize::from(kind % 6)) {
        None => rest.to_vec(),
        Some(whole) => {
            let mut file = whole.to_vec();
            for damage in rest.chunks_exact(4) {
                // Headers with their vocabularies end before this.
                let at = usize::from(u16::from_le_bytes([damage[0], damage[1]])) % 16_384;
                let at = at.min(file.len() - 1);
                match damage[2] % 3 {
                    0 => file[at] = damage[3],
                    1 => file.insert(at, damage[3]),
                    _ => drop(file.remove(at)),
                }
            }
            file
        }
    };
    let size = file.len();
    let Ok(checkpoint) = Checkpoint::from_gguf("model.gguf", Strict(file)) else {
        return;
    };
    assert!(serde_json::from_slice::<serde_json::Value>(&checkpoint.config_json).is_ok());
    assert!(serde_json::from_slice::<serde_json::Value>(&checkpoint.tokenizer_json).is_ok());
    let tensors = &checkpoint.tensors;
    for name in tensors.names() {
        let shape = tensors.shape(name).expect("a listed tensor has a shape");
        let values: usize = shape.iter().product();
        assert!(values <= size * 2, "{values} values in {size} bytes");
        let mut out = vec![0.0; values.min(300)];
        let _ = tensors.read(name, 0, &mut out);
        let _ = tensors.read(name, values - out.len(), &mut out);
        assert!(tensors.read(name, values, &mut [0.0]).is_err());
    }
});
