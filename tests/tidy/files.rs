//! What no file may be or say.

use crate::{all_files, none, read, root, rust_files};

/// Lines a Rust file may have.
const MOST_LINES: usize = 600;
/// Lines it has without a reason to split it.
const FAIR_LINES: usize = 400;
/// Files over [`FAIR_LINES`]. The list only shrinks.
const LONG: &[&str] = &["crates/link/src/gateway.rs", "proto/src/convert.rs"];
/// Bytes a committed file may have.
const MOST_BYTES: u64 = 1_000_000;
/// Weights that ship inside the program.
const LARGE: &[&str] = &["models/brand-extractor/model.safetensors"];
/// Files with `unsafe` in them, each of them for what Rust has no safe words
/// for: vector instructions, a mapped file, a signal, a counting allocator.
const UNSAFE: &[&str] = &[
    "benches/common/counting.rs",
    "crates/engine/src/artifact/map.rs",
    "crates/engine/src/kernel/x86/avx2.rs",
    "crates/engine/src/kernel/x86/avx512.rs",
    "crates/engine/src/kernel/x86/mod.rs",
    "crates/engine/src/kernel/x86/page.rs",
    "tests/e2e/commands.rs",
    "tests/harness/src/daemon.rs",
];
/// Not in code: unfinished work, skipped tests, queues without a bound.
const NEVER: &[&str] = &[
    "#[ignore",
    "::unbounded(",
    "dbg!(",
    "fn test_",
    "std::sync::mpsc::channel",
    "todo!(",
    "unbounded_channel",
    "unimplemented!(",
];
/// How the paths of one machine begin; written so that this file has none.
const ONE_MACHINE: &[&str] = &[
    concat!("/work", "/main"),
    concat!("/work", "/shared"),
    concat!("/work", "/target"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/tmp", "/tier"),
];

/// A line without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

/// Every line of code that holds one of `words`, this program's own apart.
fn lines_with(words: &[&str]) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, text) in rust_files().filter(|(path, _)| !path.starts_with("tests/tidy/")) {
        for (at, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| code(line).contains(**word)) {
                findings.push(format!("{path}:{}: {word}", at + 1));
            }
        }
    }
    findings
}

#[test]
fn files_are_short_enough_to_read() {
    let mut findings = Vec::new();
    for (path, text) in rust_files() {
        let lines = text.lines().count();
        let is_listed = LONG.contains(&path.as_str());
        if lines > MOST_LINES {
            findings.push(format!("{path}: {lines} lines, over {MOST_LINES}"));
        } else if lines > FAIR_LINES && !is_listed {
            findings.push(format!(
                "{path}: {lines} lines, over {FAIR_LINES}: split it"
            ));
        } else if lines <= FAIR_LINES && is_listed {
            findings.push(format!("{path}: {lines} lines: take it off the list"));
        }
    }
    none(&findings);
}

#[test]
fn nothing_is_left_unfinished_skipped_or_unbounded() {
    none(&lines_with(NEVER));
}

#[test]
fn unsafe_stays_where_it_is_known() {
    let is_word = |line: &str| {
        let line = code(line);
        line.match_indices("unsafe").any(|(at, word)| {
            let before = line[..at].chars().next_back();
            let after = line[at + word.len()..].chars().next();
            let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            !inside(before) && !inside(after)
        })
    };
    let mut findings = Vec::new();
    for (path, text) in rust_files().filter(|(path, _)| !path.starts_with("tests/tidy/")) {
        match (text.lines().any(is_word), UNSAFE.contains(&path.as_str())) {
            (true, false) => findings.push(format!("{path}: unsafe, and not on the list")),
            (false, true) => findings.push(format!("{path}: safe: take it off the list")),
            _ => {}
        }
    }
    none(&findings);
}

#[test]
fn no_file_is_large() {
    let large = all_files().into_iter().filter(|path| {
        let size = std::fs::metadata(root().join(path)).expect("a file").len();
        size > MOST_BYTES && !LARGE.iter().any(|known| path.as_os_str() == *known)
    });
    none(&large.map(|p| p.display().to_string()).collect::<Vec<_>>());
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let mut findings = Vec::new();
    for path in all_files() {
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else {
            continue;
        };
        for (at, line) in text.lines().enumerate() {
            if ONE_MACHINE.iter().any(|place| line.contains(place)) {
                findings.push(format!("{}:{}: {line}", path.display(), at + 1));
            }
        }
    }
    none(&findings);
}

#[test]
fn the_architecture_page_names_every_folder() {
    let page = read("ARCHITECTURE.md");
    let mut folders: Vec<_> = all_files()
        .iter()
        .filter(|path| path.components().count() > 1)
        .filter_map(|path| path.components().next())
        .map(|first| first.as_os_str().to_string_lossy().into_owned())
        .filter(|first| !first.starts_with('.'))
        .collect();
    folders.dedup();
    let missing = folders
        .into_iter()
        .filter(|folder| !page.contains(&format!("`{folder}/")));
    none(&missing.collect::<Vec<_>>());
}
