//! `tiermesh.json`: what the mesh wants to know of a model and `config.json` does not say.

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::tokens::{END, EXTRACT, TITLE};
use crate::weights;

/// The model's name in the mesh.
pub const NAME: &str = "brand-extractor";

/// Writes `tiermesh.json` into a Hugging Face directory. `quality` is the measured share of the
/// goal's titles answered right, from 0 to 1.
///
/// # Errors
///
/// When the folder cannot be written.
pub fn write(folder: &Path, quality: f64) -> Result<()> {
    let manifest = json!({
        "name": NAME,
        "license": "Apache-2.0",
        "source": "trained by crates/training on public product titles; see models/brand-extractor/README.md",
        "task": ["generate", "chat"],
        "quality": (quality * 1000.0).round() / 1000.0,
        "prompt": { "prefix": TITLE, "suffix": EXTRACT },
        "eos": [END],
    });
    let text = serde_json::to_string_pretty(&manifest)?;
    weights::replace(&folder.join("tiermesh.json"), (text + "\n").as_bytes())
}
