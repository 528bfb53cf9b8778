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
    /// Where the rest of `path` comes from, if only an artifact's manifest and
    /// configuration are there yet.
    pub remote: Option<Arc<dyn Remote>>,
}

impl ModelSource {
    /// A model whose files are all there.
    #[must_use]
    pub fn new(path: PathBuf, options: LoadOptions) -> Self {
        Self {
            path,
            options,
            remote: None,
        }
    }

    /// Whether its weights are on this machine.
    pub(crate) fn is_here(&self) -> bool {
        self.remote.is_none() || self.path.join(crate::artifact::WEIGHTS).exists()
    }
}

/// Where a model's files are kept when they are not on this machine.
pub trait Remote: std::fmt::Debug + Send + Sync {
    /// Brings what is missing into the source's directory, and blocks until it
    /// is there. What has arrived stays for the next try.
    ///
    /// # Errors
    ///
    /// Why it cannot be had, in words for an operator.
    fn fetch(&self) -> Result<(), String>;
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
