//! The tokens of a GGUF file and what they are for.

use std::collections::HashMap;

use super::metadata::Metadata;
use crate::checkpoint::CheckpointError;

const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
/// Several times the largest vocabulary there is.
const MAX_TOKENS: usize = 1 << 20;
/// The longest tokens in use are runs of a few hundred spaces.
const MAX_TOKEN: usize = 1 << 12;

/// What a token is for, as its number in the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The tokens of one file in order of their ids.
pub(super) struct Vocabulary<'a> {
    tokens: &'a [String],
    kinds: Vec<Kind>,
    ids: HashMap<&'a str, u32>,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) padding: Option<u32>,
    /// What ends a turn or hands over to a tool, where that is not `eos`.
    pub(super) ends: Vec<u32>,
}

impl<'a> Vocabulary<'a> {
    pub(super) fn read(metadata: &'a Metadata) -> Result<Self, CheckpointError> {
        let tokens = metadata
            .texts(TOKENS)?
            .ok_or_else(|| metadata.absent(TOKENS, "an array of texts"))?;
        if tokens.is_empty() || tokens.len() > MAX_TOKENS {
            return Err(metadata.refuse(
                TOKENS,
                format!("{} tokens", tokens.len()),
                format!("from 1 to {MAX_TOKENS}"),
            ));
        }
        let special = |name: &str| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match metadata.unsigned(&key)? {
                None => Ok(None),
                // It is below a million.
                Some(id) if id < tokens.len() as u64 => Ok(Some(id as u32)),
                Some(id) => {
                    let expected = format!("a token below {}", tokens.len());
                    Err(metadata.refuse(&key, id.to_string(), expected))
                }
            }
        };
        let mut ends = Vec::new();
        for name in ["eot", "eom"] {
            ends.extend(special(name)?);
        }
        Ok(Self {
            kinds: kinds(metadata, tokens)?,
            ids: ids(metadata, tokens)?,
            bos: special("bos")?,
            eos: special("eos")?,
            unknown: special("unknown")?,
            padding: special("padding")?,
            tokens,
            ends,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn text(&self, id: u32) -> &'a str {
        self.tokens.get(id as usize).map_or("", String::as_str)
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Tokens that can be written: not the empty ones, and not those that only
    /// fill the embedding up to a round number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &'a str, Kind)> {
        (0..)
            .zip(self.tokens)
            .zip(&self.kinds)
            .map(|((id, text), kind)| (id, text.as_str(), *kind))
            .filter(|(id, text, kind)| {
                let padding = *kind == Kind::Unused && *text == format!("[PAD{id}]");
                !text.is_empty() && !padding
            })
    }
}

fn kinds(metadata: &Metadata, tokens: &[String]) -> Result<Vec<Kind>, CheckpointError> {
    let expected = format!("{} integers, one for each token", tokens.len());
    let numbers = metadata
        .integers(KINDS)?
        .ok_or_else(|| metadata.absent(KINDS, &expected))?;
    if numbers.len() != tokens.len() {
        return Err(metadata.refuse(KINDS, format!("{} integers", numbers.len()), expected));
    }
    numbers
        .iter()
        .map(|number| {
            Ok(match number {
                0 | 1 => Kind::Normal,
                2 => Kind::Unknown,
                3 => Kind::Control,
                4 => Kind::UserDefined,
                5 => Kind::Unused,
                6 => Kind::Byte,
                _ => {
                    let found = format!("a token of type {number}");
                    return Err(metadata.refuse(KINDS, found, "types from 0 to 6"));
                }
            })
        })
        .collect()
}

fn ids<'a>(
    metadata: &Metadata,
    tokens: &'a [String],
) -> Result<HashMap<&'a str, u32>, CheckpointError> {
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, token) in (0u32..).zip(tokens) {
        if token.len() > MAX_TOKEN {
            let found = format!("token {id} has {} bytes", token.len());
            return Err(metadata.refuse(TOKENS, found, format!("at most {MAX_TOKEN}")));
        }
        if token.is_empty() {
            continue;
        }
        if let Some(first) = ids.insert(token.as_str(), id) {
            let found = format!("tokens {first} and {id} are both {token:?}");
            return Err(metadata.refuse(TOKENS, found, "every token once"));
        }
    }
    Ok(ids)
}
