//! The model that ships inside the program.

use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// The artifact's files, as they lie in `models/brand-extractor`.
const FILES: [(&str, &[u8]); 4] = [
    (
        "manifest.json",
        include_bytes!("../models/brand-extractor/manifest.json"),
    ),
    (
        "config.json",
        include_bytes!("../models/brand-extractor/config.json"),
    ),
    (
        "tokenizer.json",
        include_bytes!("../models/brand-extractor/tokenizer.json"),
    ),
    (
        "model.safetensors",
        include_bytes!("../models/brand-extractor/model.safetensors"),
    ),
];

/// Writes the model below `dir` and returns its directory.
///
/// # Errors
/// When the files cannot be written.
pub(crate) fn unpack(dir: &Path) -> anyhow::Result<PathBuf> {
    let model = dir.join("brand-extractor");
    std::fs::create_dir_all(&model).with_context(|| format!("cannot make {}", model.display()))?;
    for (name, bytes) in FILES {
        let path = model.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(model)
}
