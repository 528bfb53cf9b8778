use super::{bytes, fixture};
use crate::checkpoint::ReadAt;
use crate::checkpoint::gguf::header::Header;

/// In the order in which the script wrote them.
const TYPES: [&str; 11] = [
    "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k",
];

/// The values that the script says each tensor has.
fn expected() -> impl Iterator<Item = (&'static str, Vec<f32>)> {
    let all: Vec<f32> = bytes("blocks.f32")
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")))
        .collect();
    let mut at = 0;
    TYPES.into_iter().map(move |name| {
        let count = if name.ends_with("_k") {
            3 * 512
        } else {
            3 * 64
        };
        at += count;
        (name, all[at - count..at].to_vec())
    })
}

fn close(found: f32, expected: f32) -> bool {
    // The reference multiplies in another order here and there.
    (found - expected).abs() <= 1e-6 * expected.abs().max(1e-3)
}

#[test]
fn every_type_gives_the_values_of_the_reference() {
    let file = bytes("blocks.gguf");
    let header = Header::read("blocks.gguf", &file).expect("the header is valid");
    assert_eq!(header.tensors.len(), TYPES.len());
    for (name, expected) in expected() {
        let info = &header.tensors[name];
        assert_eq!(info.kind.name().to_lowercase(), name);
        assert_eq!(info.shape, [3, expected.len() / 3]);
        let mut found = vec![f32::NAN; expected.len()];
        info.kind
            .read(&file, info.offset, 0, &mut found)
            .expect("it reads");
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!(close(*found, *expected), "{name}[{i}]: {found} {expected}");
        }
    }
}

#[test]
fn a_read_may_begin_and_end_inside_a_block() {
    let file = bytes("blocks.gguf");
    let header = Header::read("blocks.gguf", &file).expect("the header is valid");
    for (name, expected) in expected() {
        let info = &header.tensors[name];
        for (first, count) in [
            (0, 1),
            (31, 2),
            (1, 62),
            (33, 31),
            (100, 92),
            (191, 1),
            (7, 0),
        ] {
            let mut found = vec![f32::NAN; count];
            info.kind
                .read(&file, info.offset, first, &mut found)
                .expect("it reads");
            for (i, found) in found.iter().enumerate() {
                let expected = expected[first + i];
                assert!(close(*found, expected), "{name}[{first} + {i}]");
            }
        }
    }
}

#[test]
fn a_file_on_disk_reads_as_one_in_memory() {
    use crate::checkpoint::read_at::DiskFile;

    let disk = DiskFile::open(&fixture("blocks.gguf"), "blocks.gguf").expect("it is there");
    let memory = bytes("blocks.gguf");
    assert_eq!(disk.size(), memory.size());
    let header = Header::read("blocks.gguf", &disk).expect("the header is valid");
    for info in header.tensors.values() {
        let read = |file: &dyn ReadAt| {
            let mut out = vec![0.0; info.values];
            info.kind
                .read(file, info.offset, 0, &mut out)
                .expect("it reads");
            out
        };
        assert_eq!(read(&disk), read(&memory));
    }
}
