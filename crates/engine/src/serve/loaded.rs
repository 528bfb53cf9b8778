//! A model in memory, and where it came from.

use std::path::PathBuf;
use std::sync::Arc;

use crate::artifact::ArtifactError;
use crate::embedder::Embedder;
use crate::loaded::{LoadOptions, Model, ModelInfo};

/// A model in memory.
#[derive(Clone)]
pub(crate) enum Loaded {
    Decoder(Arc<Model>),
    Encoder(Arc<Embedder>),
}

/// A directory of a model, and how to load it.
#[derive(Clone, Debug)]
pub struct ModelSource {
    /// One of our artifacts, or a Hugging Face style directory.
    pub path: PathBuf,
    /// How it is loaded.
    pub options: LoadOptions,
}

impl Loaded {
    pub(crate) fn open(source: &ModelSource) -> Result<Self, ArtifactError> {
        match Model::load(&source.path, source.options) {
            Ok(model) => Ok(Self::Decoder(Arc::new(model))),
            Err(ArtifactError::Kind { .. }) => {
                let embedder = Embedder::load(&source.path, source.options)?;
                Ok(Self::Encoder(Arc::new(embedder)))
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn info(&self) -> &ModelInfo {
        match self {
            Self::Decoder(model) => model.info(),
            Self::Encoder(embedder) => embedder.info(),
        }
    }
}
