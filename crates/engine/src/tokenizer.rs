//! Text to tokens and back.
//!
//! A prompt's fixed parts are written by the artifact's author, and special
//! tokens in them are what they look like. The user's text goes through a
//! second tokenizer that has never heard of added tokens, so `<|end|>` typed
//! by a user is seven characters and nothing else.

use serde_json::Value;
use tokenizers::Tokenizer;

mod detokenize;

pub(crate) use detokenize::{Detokenizer, Piece};

/// Why `tokenizer.json` is refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// It is not JSON.
    #[error("tokenizer.json cannot be parsed")]
    Json(#[source] serde_json::Error),
    /// It is JSON, but no tokenizer.
    #[error("tokenizer.json does not describe a tokenizer: {0}")]
    Build(String),
    /// Building it broke the tokenizer library.
    #[error("tokenizer.json broke the tokenizer")]
    Panicked,
}

/// A text the tokenizer cannot encode; which one is not said, it is content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tokenizer cannot encode this text")]
pub struct EncodeError;

/// A tokenizer for templates and content.
pub(crate) struct TextTokenizer {
    template: Tokenizer,
    content: Tokenizer,
}

impl TextTokenizer {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, TokenizerError> {
        let mut value: Value = serde_json::from_slice(json).map_err(TokenizerError::Json)?;
        let template = build(json.to_vec())?;
        if let Some(added) = value.get_mut("added_tokens") {
            *added = Value::Array(Vec::new());
        }
        let plain = serde_json::to_vec(&value).map_err(TokenizerError::Json)?;
        Ok(Self {
            template,
            content: build(plain)?,
        })
    }

    /// The id of a token by its text.
    pub(crate) fn token_id(&self, token: &str) -> Option<u32> {
        self.template.token_to_id(token)
    }

    /// Encodes a fixed part of the prompt: special tokens are recognised.
    pub(crate) fn encode_template(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        encode(&self.template, text)
    }

    /// Encodes what a user wrote: nothing in it is special.
    pub(crate) fn encode_content(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        encode(&self.content, text)
    }

    /// The text of these tokens, special ones left out. Incomplete characters
    /// become U+FFFD.
    fn decode(&self, ids: &[u32]) -> String {
        // Decoders of the supported kinds do not fail; if one does, the token
        // has no text.
        self.template.decode(ids, true).unwrap_or_default()
    }
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, EncodeError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    // Offsets are of no use here, and leaving them out is faster.
    let encoding = tokenizer
        .encode_fast(text, false)
        .map_err(|_| EncodeError)?;
    Ok(encoding.get_ids().to_vec())
}

/// Garbage in some corners of the format panics inside the library.
fn build(json: Vec<u8>) -> Result<Tokenizer, TokenizerError> {
    let built = std::panic::catch_unwind(|| Tokenizer::from_bytes(json));
    let mut tokenizer = built
        .map_err(|_| TokenizerError::Panicked)?
        .map_err(|error| TokenizerError::Build(error.to_string()))?;
    tokenizer.with_padding(None);
    // Lengths are checked where they can be refused, never cut in silence.
    tokenizer
        .with_truncation(None)
        .map_err(|error| TokenizerError::Build(error.to_string()))?;
    Ok(tokenizer)
}

#[cfg(test)]
mod tests;
