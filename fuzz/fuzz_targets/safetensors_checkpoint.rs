//! A safetensors file with anything in it: its tensors are read inside its
//! bounds or it is refused. The first byte chooses whether the rest is the
//! file, or damage to a file that is valid.
#![no_main]

use std::io;

use libfuzzer_sys::fuzz_target;
use tiermesh_engine::{ReadAt, SafetensorsFile, TensorSource};

const WHOLE: &[u8] =
    include_bytes!("../../crates/engine/tests/fixtures/tiny-llama-tied/model.safetensors");

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
    let file = match kind % 3 {
        0 => rest.to_vec(),
        // The header alone: its length is put before it.
        1 => {
            let mut file = (rest.len() as u64).to_le_bytes().to_vec();
            file.extend_from_slice(rest);
            file.resize(file.len() + usize::from(*kind), 0);
            file
        }
        _ => {
            let mut file = WHOLE.to_vec();
            for damage in rest.chunks_exact(3) {
                // Most of the file is data; its header is what has meaning.
                let at = usize::from(u16::from_le_bytes([damage[0], damage[1]])) % 1536;
                file[at] = damage[2];
            }
            file
        }
    };
    let size = file.len();
    let Ok(file) = SafetensorsFile::open("model.safetensors", Strict(file)) else {
        return;
    };
    for name in file.names() {
        let shape = file.shape(name).expect("a listed tensor has a shape");
        let values: usize = shape.iter().product();
        assert!(values <= size * 2, "{values} values in {size} bytes");
        let mut out = vec![0.0; values.min(64)];
        let _ = file.read(name, 0, &mut out);
        let _ = file.read(name, values - out.len(), &mut out);
        assert!(file.read(name, values, &mut [0.0]).is_err());
    }
});
