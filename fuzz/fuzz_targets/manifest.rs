//! An artifact's manifest: it is read or it says what is wrong with it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tempfile::TempDir;

static DIRECTORY: LazyLock<TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a temporary directory"));

fuzz_target!(|data: &[u8]| {
    let directory = DIRECTORY.path();
    std::fs::write(directory.join("manifest.json"), data).expect("a temporary file is written");
    if let Ok(manifest) = tiermesh_engine::inspect(directory) {
        // What was accepted has a name, a digest of the right length, and says so.
        assert_eq!(manifest.digest().len(), 64);
        assert!(!manifest.name().as_str().is_empty());
    }
});
