//! From a Hugging Face directory to our artifact.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};

use super::manifest::{Manifest, Quantization};
use super::tensors::{Matrix, SCALES, TensorError, Tensors};
use super::{ArtifactError, CONFIG, MANIFEST, Source, TOKENIZER, WEIGHTS};
use crate::config::LlamaConfig;
use crate::kernel::{KernelChoice, Shape, quantize_rows};
use crate::model::{Llama, Precision};

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
    /// The weights cannot be put into a file.
    #[error("the weights cannot be serialised")]
    Serialize(#[source] safetensors::SafeTensorError),
}

/// Writes the artifact of the Hugging Face directory `source` to `target`,
/// which must not exist; it appears whole or not at all.
///
/// # Errors
///
/// When the source does not load as a model, or the target cannot be written.
pub fn import(
    source: &Path,
    target: &Path,
    quantization: Quantization,
) -> Result<Manifest, ImportError> {
    if target.exists() {
        return Err(ImportError::Exists {
            path: target.to_owned(),
        });
    }
    let source = Source::read(source).map_err(ImportError::Source)?;
    let invalid = |error: TensorError| ImportError::Source(error.into());
    let tensors = Tensors::parse(&source.weights).map_err(invalid)?;
    let portable = KernelChoice::Portable
        .resolve()
        .expect("every processor has it");
    // Building the model is the check that every tensor is there and fits.
    Llama::build(&source.config, &tensors, Precision::Packed(portable)).map_err(invalid)?;
    let stored = store(&source.config, &tensors, quantization).map_err(invalid)?;
    let weights = serialize(&stored)?;
    let manifest = source
        .manifest(quantization, &weights)
        .map_err(ImportError::Source)?;
    write(target, &source, &weights, &manifest)?;
    Ok(manifest)
}

struct Stored {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn store(
    config: &LlamaConfig,
    tensors: &Tensors<'_>,
    quantization: Quantization,
) -> Result<Vec<Stored>, TensorError> {
    let mut stored = Vec::new();
    for (name, shape) in config.matrices() {
        let matrix = tensors.matrix(&name, shape)?;
        match (matrix, quantization) {
            (Matrix::Dense(weights), Quantization::F32) => {
                stored.push(floats(name, vec![shape.n, shape.k], &weights));
            }
            (Matrix::Dense(weights), Quantization::Q8) => {
                let (values, scales) =
                    quantize_rows(&weights, shape).map_err(|source| TensorError::Pack {
                        name: name.clone(),
                        source,
                    })?;
                stored.extend(quantized(name, shape, &values, &scales));
            }
            (Matrix::Quantized { values, scales }, Quantization::Q8) => {
                stored.extend(quantized(name, shape, &values, &scales));
            }
            (Matrix::Quantized { .. }, Quantization::F32) => {
                let supported = "F32, F16 and BF16";
                return Err(TensorError::Type {
                    name,
                    found: Dtype::I8,
                    supported,
                });
            }
        }
    }
    for name in config.norms() {
        let weights = tensors.vector(&name, config.hidden)?;
        stored.push(floats(name, vec![config.hidden], &weights));
    }
    Ok(stored)
}

fn floats(name: String, shape: Vec<usize>, values: &[f32]) -> Stored {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Stored {
        name,
        dtype: Dtype::F32,
        shape,
        bytes,
    }
}

fn quantized(name: String, shape: Shape, values: &[i8], scales: &[half::f16]) -> [Stored; 2] {
    let scales = Stored {
        name: format!("{name}{SCALES}"),
        dtype: Dtype::F16,
        shape: vec![shape.n, scales.len() / shape.n],
        bytes: scales.iter().flat_map(|s| s.to_le_bytes()).collect(),
    };
    let bytes = values.iter().map(|v| v.cast_unsigned()).collect();
    [
        Stored {
            name,
            dtype: Dtype::I8,
            shape: vec![shape.n, shape.k],
            bytes,
        },
        scales,
    ]
}

fn serialize(stored: &[Stored]) -> Result<Vec<u8>, ImportError> {
    let views = stored
        .iter()
        .map(|t| {
            Ok((
                t.name.as_str(),
                TensorView::new(t.dtype, t.shape.clone(), &t.bytes)?,
            ))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(ImportError::Serialize)?;
    safetensors::serialize(views, None).map_err(ImportError::Serialize)
}

/// Writes beside the target and renames, so that a crash leaves no half of it.
fn write(
    target: &Path,
    source: &Source,
    weights: &[u8],
    manifest: &Manifest,
) -> Result<(), ImportError> {
    let mut partial = target.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial = PathBuf::from(partial);
    let attempt = |path: &Path, result: std::io::Result<()>| {
        result.map_err(|source| ImportError::Write {
            path: path.to_owned(),
            source,
        })
    };
    let mut manifest_json = serde_json::to_vec_pretty(manifest).expect("a manifest is plain data");
    manifest_json.push(b'\n');
    let all = || {
        attempt(&partial, fs::create_dir_all(&partial))?;
        for (file, bytes) in [
            (CONFIG, &*source.config_json),
            (TOKENIZER, &*source.tokenizer_json),
            (WEIGHTS, weights),
            (MANIFEST, &*manifest_json),
        ] {
            let path = partial.join(file);
            attempt(&path, fs::write(&path, bytes))?;
        }
        attempt(target, fs::rename(&partial, target))
    };
    let result = all();
    if result.is_err() {
        // The error of the write is the one worth reporting.
        let _ = fs::remove_dir_all(&partial);
    }
    result
}
