use std::fs;
use std::path::Path;

use tempfile::TempDir;
use tiermesh_core::error::with_causes;

use super::safetensors::file;
use crate::checkpoint::Checkpoint;

const INDEX: &str = "model.safetensors.index.json";

/// A file of one-value tensors with these names and values.
fn shard(tensors: &[(&str, f32)]) -> Vec<u8> {
    let entries: Vec<String> = tensors
        .iter()
        .enumerate()
        .map(|(i, (name, _))| {
            format!(
                r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}"#,
                i * 4,
                i * 4 + 4
            )
        })
        .collect();
    let data: Vec<u8> = tensors.iter().flat_map(|(_, v)| v.to_le_bytes()).collect();
    file(&format!("{{{}}}", entries.join(",")), &data)
}

/// A directory with two shards of two tensors each, without an index.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    put(directory.path(), "config.json", b"{}");
    put(directory.path(), "tokenizer.json", b"{}");
    put(
        directory.path(),
        "one.safetensors",
        &shard(&[("a", 1.0), ("b", 2.0)]),
    );
    put(
        directory.path(),
        "two.safetensors",
        &shard(&[("c", 3.0), ("d", 4.0)]),
    );
    directory
}

fn put(directory: &Path, name: &str, bytes: &[u8]) {
    fs::write(directory.join(name), bytes).expect("a file is written");
}

fn index(entries: &[(&str, &str)]) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|(tensor, file)| format!("{}:{}", json(tensor), json(file)))
        .collect();
    format!(
        r#"{{"metadata":{{"total_size":16}},"weight_map":{{{}}}}}"#,
        entries.join(",")
    )
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("text is JSON")
}

const COMPLETE: [(&str, &str); 4] = [
    ("a", "one.safetensors"),
    ("b", "one.safetensors"),
    ("c", "two.safetensors"),
    ("d", "two.safetensors"),
];

fn refused(directory: &TempDir, index: &str) -> String {
    put(directory.path(), INDEX, index.as_bytes());
    let error = Checkpoint::open(directory.path());
    with_causes(&error.err().expect("the index is refused"))
}

#[test]
fn tensors_of_every_shard_are_read() {
    let directory = directory();
    put(directory.path(), INDEX, index(&COMPLETE).as_bytes());
    let checkpoint = Checkpoint::open(directory.path()).expect("it is complete");
    assert_eq!(checkpoint.tensors.names(), ["a", "b", "c", "d"]);
    for (name, expected) in [("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 4.0)] {
        let mut out = [0.0];
        checkpoint
            .tensors
            .read(name, 0, &mut out)
            .expect("it reads");
        assert_eq!(out, [expected]);
        assert_eq!(checkpoint.tensors.shape(name), Some(&[1][..]));
        assert_eq!(checkpoint.tensors.dtype_name(name), Some("F32"));
    }
    let missing = checkpoint.tensors.read("e", 0, &mut [0.0]);
    assert_eq!(
        with_causes(&missing.expect_err("it is not there")),
        "model.safetensors.index.json: tensor e is missing"
    );
}

#[test]
fn one_file_goes_before_an_index() {
    let directory = directory();
    put(directory.path(), INDEX, b"not looked at");
    put(directory.path(), "model.safetensors", &shard(&[("w", 5.0)]));
    let checkpoint = Checkpoint::open(directory.path()).expect("it is complete");
    assert_eq!(checkpoint.tensors.names(), ["w"]);
}

#[test]
fn a_tensor_the_index_leaves_out_is_there_all_the_same() {
    let directory = directory();
    put(directory.path(), INDEX, index(&COMPLETE[..3]).as_bytes());
    let checkpoint = Checkpoint::open(directory.path()).expect("it is complete");
    assert_eq!(checkpoint.tensors.names(), ["a", "b", "c", "d"]);
}

#[test]
fn an_index_that_contradicts_its_shards_names_tensor_and_shard() {
    let directory = directory();
    let with = |entry| {
        let mut entries = COMPLETE.to_vec();
        entries.retain(|(tensor, _)| *tensor != "a");
        entries.push(entry);
        index(&entries)
    };
    let cases = [
        (
            ("a", "three.safetensors"),
            r#"tensor a is mapped to "three.safetensors": there is no such file"#,
        ),
        (
            ("a", "two.safetensors"),
            r#"tensor a is mapped to "two.safetensors": one.safetensors has it"#,
        ),
        (
            ("x", "one.safetensors"),
            r#"tensor x is mapped to "one.safetensors": that file does not have it"#,
        ),
    ];
    for (entry, expected) in cases {
        let error = refused(&directory, &with(entry));
        assert_eq!(error, format!("{INDEX}: {expected}"));
    }
    put(directory.path(), "two.safetensors", &shard(&[("a", 9.0)]));
    let error = refused(&directory, &index(&COMPLETE));
    assert!(error.contains("two.safetensors has it"), "{error}");
}

#[test]
fn a_tensor_in_two_shards_that_the_index_leaves_out_is_refused() {
    let directory = directory();
    put(
        directory.path(),
        "two.safetensors",
        &shard(&[("a", 9.0), ("c", 3.0)]),
    );
    let error = refused(
        &directory,
        &index(&[("b", "one.safetensors"), ("c", "two.safetensors")]),
    );
    assert_eq!(
        error,
        format!(r#"{INDEX}: tensor a is mapped to "one.safetensors": two.safetensors has it"#)
    );
}

#[test]
fn an_index_is_no_shard_and_shards_are_beside_it() {
    let directory = directory();
    fs::create_dir(directory.path().join("sub")).expect("a directory");
    put(
        &directory.path().join("sub"),
        "one.safetensors",
        &shard(&[("a", 1.0)]),
    );
    for name in [INDEX, "other.safetensors.index.json"] {
        let error = refused(&directory, &index(&[("a", name)]));
        assert!(error.contains("an index is no shard"), "{error}");
    }
    let absolute = directory.path().join("one.safetensors");
    for name in [
        "sub/one.safetensors",
        "../one.safetensors",
        "./one.safetensors",
        "..",
        ".",
        "",
        "sub\\one.safetensors",
        "one.safetensors/",
        "one\0.safetensors",
        absolute.to_str().expect("a path in UTF-8"),
    ] {
        let error = refused(&directory, &index(&[("a", name)]));
        assert!(error.contains("a plain file name"), "{name}: {error}");
    }
    let error = refused(&directory, &index(&[("a", "config.json")]));
    assert!(error.contains("ends in .safetensors"), "{error}");
}

#[test]
fn more_shards_than_can_be_open_are_refused_before_any_is() {
    let directory = directory();
    let names: Vec<(String, String)> = (0..5000)
        .map(|i| (format!("t{i}"), format!("{i}.safetensors")))
        .collect();
    let entries: Vec<(&str, &str)> = names.iter().map(|(t, f)| (&**t, &**f)).collect();
    let error = refused(&directory, &index(&entries));
    assert_eq!(
        error,
        format!("{INDEX} names 5000 shards; allowed: at most 512")
    );
}

#[test]
fn an_index_that_is_not_one_is_refused() {
    let directory = directory();
    for text in [
        "",
        "[]",
        "{}",
        r#"{"weight_map":[]}"#,
        r#"{"weight_map":{"a":1}}"#,
    ] {
        let error = refused(&directory, text);
        assert!(
            error.starts_with(&format!("{INDEX} cannot be parsed")),
            "{error}"
        );
    }
    let twice = r#"{"weight_map":{"a":"one.safetensors","a":"two.safetensors"}}"#;
    let error = refused(&directory, twice);
    assert!(error.contains("tensor a is mapped twice"), "{error}");
    let error = refused(&directory, r#"{"weight_map":{}}"#);
    assert!(error.contains("weight_map is empty"), "{error}");
}

#[test]
fn a_damaged_shard_is_named() {
    let directory = directory();
    put(directory.path(), "two.safetensors", b"short");
    let error = refused(&directory, &index(&COMPLETE));
    assert!(
        error.starts_with("two.safetensors: it has 5 bytes"),
        "{error}"
    );
}
