use half::{bf16, f16};
use proptest::prelude::*;
use tiermesh_core::error::with_causes;

use super::{Strict, read_all};
use crate::checkpoint::{SafetensorsFile, TensorSource};

/// A file of this header and this many bytes of data that count up.
pub(super) fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// One tensor of each type that is read, and one that is not.
fn valid() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},
        "a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
        "b":{"dtype":"F16","shape":[3],"data_offsets":[16,22]},
        "c":{"dtype":"BF16","shape":[1,2],"data_offsets":[22,26]},
        "d":{"dtype":"F64","shape":[],"data_offsets":[26,34]},
        "e":{"dtype":"I64","shape":[1],"data_offsets":[34,42]},
        "f":{"dtype":"F32","shape":[0,4],"data_offsets":[42,42]}}  "#;
    let mut data = Vec::new();
    for value in [1.0f32, -2.5, 3.0, 0.125] {
        data.extend(value.to_le_bytes());
    }
    for value in [0.5, -65504.0, 6.0e-8] {
        data.extend(f16::from_f32(value).to_le_bytes());
    }
    for value in [1.5, -3.0e38] {
        data.extend(bf16::from_f32(value).to_le_bytes());
    }
    data.extend(1e-3f64.to_le_bytes());
    data.extend(7i64.to_le_bytes());
    file(header, &data)
}

fn open(bytes: Vec<u8>) -> Result<SafetensorsFile, String> {
    SafetensorsFile::open("model.safetensors", Strict(bytes)).map_err(|error| with_causes(&error))
}

fn refused(header: &str, data: usize) -> String {
    open(file(header, &vec![0; data]))
        .err()
        .expect("the header is refused")
}

fn values(file: &SafetensorsFile, name: &str, first: usize, count: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; count];
    file.read(name, first, &mut out).expect("it is there");
    out
}

#[test]
fn every_float_type_reads_at_any_position() {
    let file = open(valid()).expect("it is valid");
    assert_eq!(file.names(), ["a", "b", "c", "d", "e", "f"]);
    assert_eq!(file.shape("a"), Some(&[2, 2][..]));
    assert_eq!(file.shape("d"), Some(&[][..]));
    assert_eq!(file.shape("g"), None);
    assert_eq!(file.dtype_name("c"), Some("BF16"));
    assert_eq!(values(&file, "a", 0, 4), [1.0, -2.5, 3.0, 0.125]);
    assert_eq!(values(&file, "a", 1, 2), [-2.5, 3.0]);
    assert_eq!(
        values(&file, "b", 0, 3),
        [0.5, -65504.0, f16::from_f32(6.0e-8).to_f32()]
    );
    assert_eq!(values(&file, "c", 1, 1), [bf16::from_f32(-3.0e38).to_f32()]);
    assert_eq!(values(&file, "d", 0, 1), [1e-3]);
    assert!(values(&file, "f", 0, 0).is_empty());
}

#[test]
fn pieces_larger_than_a_read_join_without_a_seam() {
    let count = 200_003usize;
    let header = format!(
        r#"{{"w":{{"dtype":"F16","shape":[{count}],"data_offsets":[0,{}]}}}}"#,
        count * 2
    );
    let data: Vec<u8> = (0..count)
        .flat_map(|i| f16::from_f32((i % 2048) as f32).to_le_bytes())
        .collect();
    let file = open(file(&header, &data)).expect("it is valid");
    let read = values(&file, "w", 5, count - 5);
    assert!(
        read.iter()
            .enumerate()
            .all(|(i, v)| *v == ((i + 5) % 2048) as f32)
    );
}

#[test]
fn what_is_not_there_or_not_floating_point_is_named() {
    let file = open(valid()).expect("it is valid");
    let error = |name: &str, first, count| {
        let mut out = vec![0.0; count];
        with_causes(&file.read(name, first, &mut out).expect_err("it is refused"))
    };
    assert_eq!(
        error("absent", 0, 1),
        "model.safetensors: tensor absent is missing"
    );
    assert_eq!(
        error("a", 2, 3),
        "model.safetensors: tensor a has 4 values; asked for 3 from 2"
    );
    assert!(error("a", usize::MAX, 1).contains("has 4 values"));
    assert_eq!(
        error("e", 0, 1),
        "model.safetensors: tensor e has type I64; supported: F32, F16, BF16 and F64"
    );
}

#[test]
fn a_header_that_does_not_fit_the_file_is_refused_before_it_is_read() {
    assert!(
        open(vec![1, 2, 3])
            .err()
            .expect("too short")
            .contains("it has 3 bytes")
    );
    for claimed in [9u64, 99_000_000, 100_000_001, u64::MAX] {
        let mut bytes = claimed.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"{}      ");
        let error = open(bytes).err().expect("it does not fit");
        assert!(
            error.contains(&format!("said to have {claimed} bytes")),
            "{error}"
        );
        assert!(error.contains("at most 8, as the file has 16"), "{error}");
    }
}

#[test]
fn a_truncated_file_names_what_is_missing() {
    let whole = valid();
    for keep in 0..whole.len() {
        let error = open(whole[..keep].to_vec())
            .err()
            .expect("the end is missing");
        assert!(error.contains("model.safetensors"), "{error}");
    }
}

#[test]
fn two_tensors_of_one_name_are_refused() {
    let entry = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let error = refused(&format!(r#"{{"w":{entry},"w":{entry}}}"#), 4);
    assert!(error.contains("two tensors are called w"), "{error}");
}

#[test]
fn overlaps_gaps_and_trailing_bytes_are_refused() {
    let two = |a: (u64, u64), b: (u64, u64)| {
        let count = |(begin, end): (u64, u64)| (end - begin) / 4;
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[{}],"data_offsets":[{},{}]}},
                 "b":{{"dtype":"F32","shape":[{}],"data_offsets":[{},{}]}}}}"#,
            count(a),
            a.0,
            a.1,
            count(b),
            b.0,
            b.1
        )
    };
    let error = refused(&two((0, 8), (4, 12)), 12);
    assert!(error.contains("tensor b: its bytes begin at 4"), "{error}");
    assert!(error.contains("expected 8"), "{error}");
    let error = refused(&two((0, 4), (8, 12)), 12);
    assert!(error.contains("tensor b: its bytes begin at 8"), "{error}");
    let error = refused(&two((4, 8), (8, 12)), 12);
    assert!(error.contains("tensor a: its bytes begin at 4"), "{error}");
    let error = refused(&two((0, 4), (4, 8)), 12);
    assert!(error.contains("the tensors end at 8"), "{error}");
    let error = refused(&two((0, 4), (4, 16)), 12);
    assert!(error.contains("tensor b: its bytes are 4 to 16"), "{error}");
}

#[test]
fn a_shape_that_is_not_the_tensors_size_is_refused() {
    let one = |dtype: &str, shape: &str, end: u64| {
        refused(
            &format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}}}"#),
            end as usize,
        )
    };
    let error = one("F32", "[3]", 8);
    assert!(
        error.contains("tensor w: it has 8 bytes; expected shape [3] times the size of F32"),
        "{error}"
    );
    assert!(one("BF16", "[2]", 8).contains("times the size of BF16"));
    let huge = one("F32", "[4294967296,4294967296,2]", 8);
    assert!(
        huge.contains("a shape whose product fits 64 bits"),
        "{huge}"
    );
    // The product fits but its bytes do not, and wrap to what is there.
    let wrapped = one("F32", "[4611686018427387906]", 8);
    assert!(wrapped.contains("it has 8 bytes"), "{wrapped}");
    assert!(one("F32", "[1,1,1,1,1,1,1,1,1]", 4).contains("it has 9 axes"));
    assert!(one("Q9", "[1]", 4).contains(r#"its type is "Q9""#));
    assert!(one("F4", "[1]", 0).contains("it has 0 bytes"));
}

#[test]
fn a_header_that_is_not_json_or_not_of_tensors_is_refused() {
    for header in [
        "",
        "[]",
        "{",
        "null",
        "{} x",
        r#"{"w":1}"#,
        r#"{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"w":{"dtype":"F32","shape":[1]}}"#,
        r#"{"w":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#,
    ] {
        let error = refused(header, 4);
        assert!(
            error.starts_with("the header of model.safetensors cannot be parsed"),
            "{header}: {error}"
        );
        assert!(
            !header.contains("\"w\"") || error.contains("tensor w"),
            "{error}"
        );
    }
    let deep = "[".repeat(100_000);
    assert!(refused(&deep, 0).contains("cannot be parsed"));
}

#[derive(Clone, Debug)]
enum Damage {
    Set(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Digits(usize, u64),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        any::<usize>().prop_map(Damage::Cut),
        (any::<usize>(), prop::collection::vec(any::<u8>(), 0..9))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (any::<usize>(), any::<u64>()).prop_map(|(at, number)| Damage::Digits(at, number)),
    ]
}

/// Applies damage; a number of the header is replaced by another, which keeps
/// it JSON, more often than chance would.
fn apply(mut bytes: Vec<u8>, damage: &Damage) -> Vec<u8> {
    let length = bytes.len().max(1);
    match damage {
        Damage::Set(at, byte) => {
            if let Some(there) = bytes.get_mut(at % length) {
                *there = *byte;
            }
        }
        Damage::Cut(at) => bytes.truncate(at % length),
        Damage::Insert(at, new) => {
            let at = (at % length).min(bytes.len());
            bytes.splice(at..at, new.iter().copied());
        }
        Damage::Digits(at, number) => {
            let digits: Vec<usize> = (8..bytes.len())
                .filter(|i| bytes[*i].is_ascii_digit())
                .collect();
            if let Some(at) = digits.get(at % digits.len().max(1)) {
                let before = bytes.len();
                bytes.splice(at..=at, number.to_string().bytes());
                let grown = (bytes.len() - before) as u64;
                let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
                bytes[..8].copy_from_slice(&length.wrapping_add(grown).to_le_bytes());
            }
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_files_are_read_within_their_bounds_or_refused(
        damages in prop::collection::vec(damage(), 1..4),
    ) {
        let bytes = damages.iter().fold(valid(), apply);
        let size = bytes.len();
        if let Ok(file) = open(bytes) {
            read_all(&file, size);
        }
    }

    #[test]
    fn any_bytes_are_read_within_their_bounds_or_refused(
        header in prop::collection::vec(any::<u8>(), 0..64),
        data in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend(data);
        let size = bytes.len();
        if let Ok(file) = open(bytes) {
            read_all(&file, size);
        }
    }
}
