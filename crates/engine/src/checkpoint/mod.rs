//! Checkpoints as other programs write them: a Hugging Face directory or a
//! GGUF file, in one form.
//!
//! ```text
//! directory/config.json, tokenizer.json, … ─┐
//!   model.safetensors | shards + index ─────┼─▶ Checkpoint ─▶ the importer
//! file.gguf: metadata, tensor table ────────┘    tensors by Hugging Face's names
//! ```
//!
//! Headers are checked whole before anything is read by them; values are read
//! by position, a piece at a time, so that a checkpoint larger than memory can
//! be imported.

mod directory;
mod error;
mod floats;
mod gguf;
mod read_at;
mod safetensors;
mod shards;

use std::collections::BTreeMap;
use std::path::Path;

pub use error::CheckpointError;
use read_at::DiskFile;
pub use read_at::ReadAt;
pub use safetensors::SafetensorsFile;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";

/// A checkpoint as it lies on disk, whichever its format.
pub struct Checkpoint {
    /// `config.json` in Hugging Face's form.
    pub config_json: Vec<u8>,
    /// `tokenizer.json` in the form of Hugging Face's `tokenizers`.
    pub tokenizer_json: Vec<u8>,
    /// Those of `generation_config.json`, `tokenizer_config.json`,
    /// `special_tokens_map.json`, `chat_template.jinja`, `modules.json`,
    /// `1_Pooling/config.json`, `sentence_bert_config.json` and
    /// `tiermesh.json` that exist. `2_Normalize` is there, empty, when the
    /// directory of that name is.
    pub side: BTreeMap<&'static str, Vec<u8>>,
    /// The weights.
    pub tensors: Box<dyn TensorSource>,
    /// The directory's name, or what the GGUF file calls itself.
    pub name: String,
}

/// Tensors by Hugging Face's names, read as f32 in pieces of any size.
pub trait TensorSource: Send + Sync {
    /// Every tensor, in order of name.
    fn names(&self) -> Vec<&str>;

    /// A tensor's shape, row-major: `[out, in]` for a linear layer.
    fn shape(&self, name: &str) -> Option<&[usize]>;

    /// How the file calls the type of a tensor's values.
    fn dtype_name(&self, name: &str) -> Option<&str>;

    /// Reads `out.len()` values from the `first`-th on, row-major.
    ///
    /// # Errors
    ///
    /// When there is no such tensor, it has fewer values, its type is not
    /// one that is read, or the file cannot be read.
    fn read(&self, name: &str, first: usize, out: &mut [f32]) -> Result<(), CheckpointError>;
}

impl Checkpoint {
    /// Opens a directory or a `.gguf` file and checks its headers.
    ///
    /// # Errors
    ///
    /// Names the file, tensor or key that is wrong and what is expected.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        if path.is_dir() {
            return directory::open(path);
        }
        let is_gguf = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        if !is_gguf {
            return Err(CheckpointError::Kind {
                path: path.to_owned(),
            });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        gguf::open(&name, Box::new(DiskFile::open(path, &name)?))
    }

    /// Reads a GGUF file that errors call `name`, from wherever its bytes are.
    ///
    /// # Errors
    ///
    /// Names the tensor or key that is wrong and what is expected.
    pub fn from_gguf(name: &str, file: impl ReadAt + 'static) -> Result<Self, CheckpointError> {
        gguf::open(name, Box::new(file))
    }
}

#[cfg(test)]
mod tests;
