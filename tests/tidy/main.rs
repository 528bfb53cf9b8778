//! Holds the house in order: what clippy and rustfmt cannot see.

mod crates;
mod dependencies;
mod files;

use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a cargo command prints. `--locked`: a test changes nothing.
fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .arg("--locked")
        .current_dir(root())
        .output()
        .expect("cargo runs, it has just built this");
    assert!(
        output.status.success(),
        "cargo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file that belongs to the repository, relative to it, in order.
fn all_files() -> Vec<PathBuf> {
    // What builds and tools leave behind.
    const LEFT_BEHIND: [&str; 9] = [
        ".git",
        ".pytest_cache",
        ".venv",
        "__pycache__",
        "artifacts",
        "corpus",
        "node_modules",
        "results",
        "target",
    ];
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the repository") {
            let entry = entry.expect("an entry of a folder");
            let kind = entry.file_type().expect("an entry has a type");
            let name = entry.file_name();
            if kind.is_dir() && !LEFT_BEHIND.iter().any(|left| name == *left) {
                folders.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path();
                found.push(path.strip_prefix(root()).expect("below root").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Every Rust file with its text.
fn rust_files() -> impl Iterator<Item = (String, String)> {
    all_files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs"))
        .map(|path| (path.display().to_string(), read(&path)))
}

/// Fails with every finding at once.
fn none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}
