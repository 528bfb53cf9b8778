//! One stream by hand: token ids in, logits out. What tools and measurements
//! use; a mesh goes through [`Engine`](crate::Engine).

use std::sync::Arc;

use crate::loaded::Model;
use crate::model::KvCache;

/// A stream of one model, computed on the caller's thread, or on the threads
/// of the rayon pool the caller is on.
pub struct Session {
    model: Arc<Model>,
    cache: KvCache,
}

/// Token ids that a session cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// There are none.
    #[error("there are no tokens to read")]
    Empty,
    /// One is not in the vocabulary.
    #[error("token {id} is not in the vocabulary of {vocab}")]
    UnknownToken {
        /// The token.
        id: u32,
        /// The vocabulary's size.
        vocab: u32,
    },
    /// They do not fit the context.
    #[error("{tokens} tokens do not fit the context of {context}")]
    TooLong {
        /// Tokens read and to be read.
        tokens: usize,
        /// Tokens the model was made for.
        context: u32,
    },
}

impl Session {
    /// A stream that has read nothing.
    #[must_use]
    pub fn new(model: Arc<Model>) -> Self {
        Self {
            cache: model.decoder.cache(),
            model,
        }
    }

    /// Tokens read so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether nothing was read yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cache.len() == 0
    }

    /// Reads tokens; returns the logits of what comes after the last.
    ///
    /// # Errors
    ///
    /// When there is nothing to read, or it cannot be read.
    pub fn read(&mut self, ids: &[u32]) -> Result<Vec<f32>, SessionError> {
        self.check(ids)?;
        Ok(self.model.decoder.forward(ids, &mut self.cache))
    }

    /// Reads tokens; returns the logits after each, row by row.
    ///
    /// # Errors
    ///
    /// When there is nothing to read, or it cannot be read.
    pub fn read_all(&mut self, ids: &[u32]) -> Result<Vec<f32>, SessionError> {
        self.check(ids)?;
        Ok(self.model.decoder.forward_all(ids, &mut self.cache))
    }

    fn check(&self, ids: &[u32]) -> Result<(), SessionError> {
        let (vocab, context) = (self.model.vocab, self.model.info.context_tokens);
        if ids.is_empty() {
            return Err(SessionError::Empty);
        }
        if let Some(id) = ids.iter().find(|id| **id >= vocab) {
            return Err(SessionError::UnknownToken { id: *id, vocab });
        }
        let tokens = self.cache.len() + ids.len();
        if tokens > context as usize {
            return Err(SessionError::TooLong { tokens, context });
        }
        Ok(())
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("model", &self.model)
            .field("len", &self.cache.len())
            .finish()
    }
}
