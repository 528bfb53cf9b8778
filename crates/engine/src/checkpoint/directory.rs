//! A Hugging Face directory.

use std::collections::BTreeMap;
use std::path::Path;

use super::read_at::{DiskFile, read_whole};
use super::safetensors::SafetensorsFile;
use super::shards::{INDEX, Shards};
use super::{CONFIG, Checkpoint, CheckpointError, TOKENIZER, TensorSource};

const WEIGHTS: &str = "model.safetensors";
const MAX_CONFIG: u64 = 1 << 20;
const MAX_TOKENIZER: u64 = 1 << 26;
/// What may lie beside the two files every checkpoint has, and the most bytes
/// it may have. `tokenizer_config.json` repeats every added token.
const SIDE_FILES: [(&str, u64); 8] = [
    ("1_Pooling/config.json", 1 << 20),
    ("chat_template.jinja", 1 << 20),
    ("generation_config.json", 1 << 20),
    ("modules.json", 1 << 20),
    ("sentence_bert_config.json", 1 << 20),
    ("special_tokens_map.json", 1 << 22),
    ("tiermesh.json", 1 << 20),
    ("tokenizer_config.json", 1 << 24),
];
/// A directory whose being there says something; it has no content.
const NORMALIZE: &str = "2_Normalize";

pub(super) fn open(directory: &Path) -> Result<Checkpoint, CheckpointError> {
    let config_json = required(directory, CONFIG, MAX_CONFIG, || {
        "it says what the model's shape is; pass the directory that has it".to_owned()
    })?;
    let tokenizer_json = required(directory, TOKENIZER, MAX_TOKENIZER, || {
        tokenizer_hint(directory)
    })?;
    let mut side = BTreeMap::new();
    for (name, most) in SIDE_FILES {
        let path = directory.join(name);
        if path.exists() {
            side.insert(name, read_whole(&path, name, most)?);
        }
    }
    if directory.join(NORMALIZE).is_dir() {
        side.insert(NORMALIZE, Vec::new());
    }
    Ok(Checkpoint {
        config_json,
        tokenizer_json,
        side,
        tensors: tensors(directory)?,
        name: name(directory),
    })
}

fn required(
    directory: &Path,
    wanted: &'static str,
    most: u64,
    hint: impl FnOnce() -> String,
) -> Result<Vec<u8>, CheckpointError> {
    let path = directory.join(wanted);
    if path.exists() {
        return read_whole(&path, wanted, most);
    }
    Err(CheckpointError::Absent {
        directory: directory.to_owned(),
        wanted,
        hint: hint(),
    })
}

fn tokenizer_hint(directory: &Path) -> String {
    let old = ["tokenizer.model", "spiece.model", "vocab.txt", "vocab.json"]
        .into_iter()
        .find(|name| directory.join(name).exists());
    match old {
        Some(old) => format!(
            "{old} is there: write it once with Python's transformers, \
             AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        ),
        None => "it is the tokenizer in the form of Hugging Face's tokenizers".to_owned(),
    }
}

/// As the reference implementation does: one file goes before an index.
fn tensors(directory: &Path) -> Result<Box<dyn TensorSource>, CheckpointError> {
    let whole = directory.join(WEIGHTS);
    if whole.exists() {
        let file = DiskFile::open(&whole, WEIGHTS)?;
        return Ok(Box::new(SafetensorsFile::open(WEIGHTS, file)?));
    }
    if directory.join(INDEX).exists() {
        return Ok(Box::new(Shards::open(directory)?));
    }
    Err(CheckpointError::Absent {
        directory: directory.to_owned(),
        wanted: "model.safetensors and no model.safetensors.index.json",
        hint: weights_hint(directory),
    })
}

fn weights_hint(directory: &Path) -> String {
    let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
    if let Some(found) = pickled.iter().find(|name| directory.join(name).exists()) {
        return format!(
            "{found} is there: convert it once with Python's transformers, \
             AutoModel.from_pretrained(DIR).save_pretrained(DIR), with the class that \
             config.json's architectures names"
        );
    }
    if directory.join("adapter_model.safetensors").exists() {
        return "adapter_model.safetensors is there: merge the adapter into its base model first"
            .to_owned();
    }
    match ggufs(directory).as_slice() {
        [] => "a checkpoint has its weights in one of them".to_owned(),
        [one] => format!("{one} is there: pass that file"),
        [first, ..] => format!("there are several .gguf files: pass one of them, as {first}"),
    }
}

/// The directory's GGUF files in order, looked for only to be named.
fn ggufs(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.to_ascii_lowercase().ends_with(".gguf"))
        .collect();
    found.sort();
    found
}

/// `.` and `..` have no name of their own, the directory they stand for has.
fn name(directory: &Path) -> String {
    let resolved = directory.canonicalize().ok();
    resolved
        .as_deref()
        .unwrap_or(directory)
        .file_name()
        .map_or_else(
            || "model".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        )
}
