mod directory;
mod safetensors;
mod shards;

use std::io;

use super::{ReadAt, TensorSource};

/// Bytes that fail a test when they are asked for anything beyond themselves,
/// which bounds what a reader can have allocated for it.
pub(super) struct Strict(pub(super) Vec<u8>);

impl ReadAt for Strict {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64);
        assert!(
            end.is_some_and(|end| end <= self.size()),
            "{} bytes from {offset} of {} were asked for",
            out.len(),
            self.size()
        );
        self.0.read_exact_at(offset, out)
    }
}

/// Reads every tensor in two pieces; none may have more values than `most`.
pub(super) fn read_all(tensors: &dyn TensorSource, most: usize) {
    for name in tensors.names() {
        let shape = tensors.shape(name).expect("a listed tensor has a shape");
        let values: usize = shape.iter().product();
        assert!(values <= most, "{name} claims {values} values");
        assert!(tensors.dtype_name(name).is_some());
        let mut out = vec![0.0; values];
        let (head, tail) = out.split_at_mut(values / 3);
        let first = head.len();
        if tensors.read(name, 0, head).is_ok() {
            tensors
                .read(name, first, tail)
                .expect("what follows a piece that is there is there");
        }
        let beyond = tensors.read(name, values, &mut [0.0]);
        assert!(beyond.is_err(), "{name} has a value after its last");
    }
}
