//! From another program's checkpoint to our artifact.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::manifest::{FileEntry, Manifest, Quantization};
use super::side::Overrides;
use super::source::Source;
use super::write::Layout;
use super::{ArtifactError, CONFIG, MANIFEST, TOKENIZER, TensorError, WEIGHTS, hex};

/// How a checkpoint is imported.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// How its matrices are stored.
    pub quantization: Quantization,
    /// The artifact's name; what the checkpoint says if none.
    pub name: Option<String>,
    /// Its licence; what the checkpoint says if none.
    pub license: Option<String>,
    /// Where it comes from; what the checkpoint says if none.
    pub source: Option<String>,
}

impl ImportOptions {
    /// Everything but the quantization as the checkpoint says.
    #[must_use]
    pub fn new(quantization: Quantization) -> Self {
        Self {
            quantization,
            name: None,
            license: None,
            source: None,
        }
    }
}

/// How far an import is.
#[derive(Clone, Copy, Debug)]
pub struct ImportProgress<'a> {
    /// The tensor that was written last, or a part of it.
    pub tensor: &'a str,
    /// Weights written so far.
    pub done_values: u64,
    /// Weights in all.
    pub total_values: u64,
}

/// Why an import failed. Nothing is left behind under the target's name.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source does not load.
    #[error("the model to import does not load")]
    Source(#[source] ArtifactError),
    /// The target is there already.
    #[error("{path} exists already")]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// A file of the target cannot be written.
    #[error("{path} cannot be written")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// Whoever watches asked for it to end.
    #[error("the import was cancelled; nothing was written")]
    Cancelled,
    /// The file of weights cannot be written.
    #[error("the weights cannot be written")]
    Weights(#[source] std::io::Error),
}

impl From<TensorError> for ImportError {
    fn from(error: TensorError) -> Self {
        Self::Source(error.into())
    }
}

/// Writes the artifact of a Hugging Face directory or a GGUF file to `target`,
/// which must not exist; it appears whole or not at all. Memory is bounded by
/// a few megabytes of weights, whatever the checkpoint's size. `progress` is
/// told of each piece that was written, and ends the import where it breaks.
///
/// # Errors
///
/// When the source does not load as a model, or the target cannot be written.
pub fn import(
    source: &Path,
    target: &Path,
    options: &ImportOptions,
    progress: &mut dyn FnMut(ImportProgress<'_>) -> ControlFlow<()>,
) -> Result<Manifest, ImportError> {
    if target.exists() {
        return Err(ImportError::Exists {
            path: target.to_owned(),
        });
    }
    let mut source = Source::open(source).map_err(ImportError::Source)?;
    source.side.apply(Overrides {
        name: options.name.clone(),
        license: options.license.clone(),
        source: options.source.clone(),
    });
    let mut partial = target.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial = Partial(PathBuf::from(partial));
    let manifest = write(&source, &partial.0, options.quantization, progress)?;
    attempt(target, fs::rename(&partial.0, target))?;
    Ok(manifest)
}

/// A directory that is being written. Gone when it is not renamed in time.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename there is nothing of that name.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn attempt<T>(path: &Path, result: std::io::Result<T>) -> Result<T, ImportError> {
    result.map_err(|source| ImportError::Write {
        path: path.to_owned(),
        source,
    })
}

fn write(
    source: &Source,
    directory: &Path,
    quantization: Quantization,
    progress: &mut dyn FnMut(ImportProgress<'_>) -> ControlFlow<()>,
) -> Result<Manifest, ImportError> {
    attempt(directory, fs::create_dir_all(directory))?;
    let path = directory.join(WEIGHTS);
    let options = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path);
    let mut file = attempt(&path, options)?;
    let layout = Layout::new(source.config.tensors(), quantization.encoding());
    layout.write(source, &mut file, progress)?;
    attempt(&path, file.sync_all())?;
    let weights = attempt(&path, entry_of(&path))?;
    let manifest = source
        .side
        .manifest(source, quantization, source.entries(weights))
        .map_err(ImportError::Source)?;
    let mut json = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    json.push(b'\n');
    let checkpoint = &source.checkpoint;
    let optional = source.optional();
    let optional = optional.iter().map(|(name, bytes)| (*name, &**bytes));
    let files = [
        (CONFIG, &*checkpoint.config_json),
        (TOKENIZER, &*checkpoint.tokenizer_json),
        (MANIFEST, &*json),
    ];
    for (name, bytes) in files.into_iter().chain(optional) {
        let path = directory.join(name);
        let written = fs::write(&path, bytes).and_then(|()| File::open(&path)?.sync_all());
        attempt(&path, written)?;
    }
    Ok(manifest)
}

/// Size and SHA-256 of the file of weights, read once more: it was written out
/// of order.
fn entry_of(path: &Path) -> std::io::Result<FileEntry> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
    Ok(FileEntry {
        path: WEIGHTS.to_owned(),
        sha256: hex(&hasher.finalize()),
        bytes,
    })
}
