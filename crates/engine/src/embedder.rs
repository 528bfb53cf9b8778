//! Encoders in memory: embeddings, token labels and text labels.

use std::path::Path;

use rayon::prelude::*;

use crate::artifact::{Artifact, ArtifactError};
use crate::config::{Head, ModelConfig};
use crate::kernel::Encoding;
use crate::loaded::{KvCacheType, LoadOptions, ModelInfo};
use crate::model::{Encoder, Precision};
use crate::pooling::Pooling;
use crate::tokenizer::{EncodeError, TextTokenizer};

/// An encoder in memory. It computes on the caller's thread, or on the threads
/// of the rayon pool the caller is on.
pub struct Embedder {
    info: ModelInfo,
    encoder: Encoder,
    tokenizer: TextTokenizer,
    /// None where a head labels instead.
    pooling: Option<Pooling>,
    labels: Vec<String>,
    hidden: usize,
    head: Head,
}

/// Why texts are not encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// A text cannot be made into tokens.
    #[error("text {index} cannot be encoded")]
    Encode {
        /// Which one, counted from 0.
        index: usize,
        /// The reason.
        #[source]
        source: EncodeError,
    },
    /// A text has no token at all.
    #[error("text {index} is empty")]
    Empty {
        /// Which one, counted from 0.
        index: usize,
    },
    /// The model does something else.
    #[error("{name} cannot {wanted}; it was made to {made_to}")]
    Kind {
        /// The model.
        name: String,
        /// What was wanted.
        wanted: &'static str,
        /// What it can do.
        made_to: &'static str,
    },
    /// The model computed something that is not a number.
    #[error("{name} computed values that are not numbers")]
    NotANumber {
        /// The model.
        name: String,
    },
}

/// A label for a piece of text.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledToken {
    /// Its bytes in the text.
    pub bytes: std::ops::Range<usize>,
    /// The likeliest label.
    pub label: String,
    /// Its probability.
    pub score: f32,
}

/// A label for a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Label {
    /// The label.
    pub label: String,
    /// Its probability among all labels.
    pub score: f32,
}

/// Texts made into tokens, cut to the model's length.
struct Tokens {
    ids: Vec<u32>,
    bytes: Vec<(usize, usize)>,
}

impl Embedder {
    /// Reads, verifies and builds an encoder: one of our artifacts, or another
    /// program's checkpoint.
    ///
    /// # Errors
    ///
    /// Names the file, and the key or tensor in it.
    pub fn load(directory: &Path, options: LoadOptions) -> Result<Self, ArtifactError> {
        let artifact = Artifact::open(directory, options.assume)?;
        let Artifact {
            manifest,
            config,
            tokenizer,
            weights,
            ..
        } = artifact;
        let ModelConfig::Encoder(encoder) = &config else {
            return Err(ArtifactError::Kind {
                name: manifest.name.to_string(),
                found: manifest.architecture,
                wanted: "embed or label texts",
            });
        };
        // An f32 encoder has tiles of its own, too.
        let encoding = manifest.quantization.encoding();
        let encoding = encoding.unwrap_or(Encoding::F32);
        let precision = Precision::Packed(encoding, options.kernel);
        Ok(Self {
            info: ModelInfo::new(
                &manifest,
                &config,
                (precision, KvCacheType::Auto.beside(precision)),
            ),
            encoder: Encoder::build(encoder, &*weights, (encoding, options.kernel))?,
            tokenizer,
            pooling: manifest.pooling,
            labels: encoder.labels.clone(),
            hidden: encoder.hidden,
            head: encoder.head,
        })
    }

    /// What it is.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Numbers of an embedding.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.hidden
    }

    /// An embedding for each text. What a text's embedding is does not depend
    /// on the texts beside it.
    ///
    /// # Errors
    ///
    /// When a text cannot be encoded, or the model does not embed.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let Some(pooling) = &self.pooling else {
            return Err(self.kind("embed"));
        };
        let tokens = self.encode(texts)?;
        let states = self.encoder.hidden(&ids(&tokens));
        self.numbers(&states)?;
        let mut rest = &*states;
        let each = tokens.iter().map(|text| {
            let (mine, others) = rest.split_at(text.ids.len() * self.hidden);
            rest = others;
            pooling.apply(mine, self.hidden)
        });
        Ok(each.collect())
    }

    /// The likeliest label of each token of each text, tokens without text
    /// left out.
    ///
    /// # Errors
    ///
    /// When a text cannot be encoded, or the model does not label tokens.
    pub fn tag(&self, texts: &[&str]) -> Result<Vec<Vec<LabelledToken>>, EmbedError> {
        if self.head != Head::Tokens {
            return Err(self.kind("label tokens"));
        }
        let tokens = self.encode(texts)?;
        let logits = self.encoder.outputs(&ids(&tokens));
        self.numbers(&logits)?;
        let mut rows = logits.chunks_exact(self.labels.len());
        let tag = |text: &Tokens| {
            let rows = rows.by_ref().take(text.ids.len());
            let labelled = rows
                .zip(&text.bytes)
                .filter(|(_, (first, end))| first < end);
            let labelled = labelled.map(|(row, (first, end))| {
                let (label, score) = likeliest(row);
                LabelledToken {
                    bytes: *first..*end,
                    label: self.labels[label].clone(),
                    score,
                }
            });
            labelled.collect()
        };
        Ok(tokens.iter().map(tag).collect())
    }

    /// The labels of each text with their probabilities, likeliest first.
    ///
    /// # Errors
    ///
    /// When a text cannot be encoded, or the model does not label texts.
    pub fn classify(&self, texts: &[&str]) -> Result<Vec<Vec<Label>>, EmbedError> {
        if !matches!(self.head, Head::Pooled | Head::Dense) {
            return Err(self.kind("label texts"));
        }
        let tokens = self.encode(texts)?;
        let logits = self.encoder.outputs(&ids(&tokens));
        self.numbers(&logits)?;
        let label = |row: &[f32]| {
            let mut labels: Vec<Label> = softmax(row)
                .into_iter()
                .zip(&self.labels)
                .map(|(score, label)| Label {
                    label: label.clone(),
                    score,
                })
                .collect();
            labels.sort_by(|a, b| b.score.total_cmp(&a.score));
            labels
        };
        Ok(logits.chunks_exact(self.labels.len()).map(label).collect())
    }

    /// Tokens of a text, those around it included.
    pub(crate) fn count(&self, text: &str) -> Result<usize, EmbedError> {
        Ok(self
            .encode(&[text])?
            .iter()
            .map(|text| text.ids.len())
            .sum())
    }

    /// Computes once, whatever it was made to.
    pub(crate) fn probe(&self, text: &str) -> Result<(), EmbedError> {
        let tokens = self.encode(&[text])?;
        self.numbers(&self.encoder.hidden(&ids(&tokens)))
    }

    fn encode(&self, texts: &[&str]) -> Result<Vec<Tokens>, EmbedError> {
        let most = self.info.context_tokens as usize;
        let encode = |(index, text): (usize, &&str)| {
            let (ids, bytes) = self
                .tokenizer
                .encode_whole(text, most)
                .map_err(|source| EmbedError::Encode { index, source })?;
            match ids.is_empty() {
                true => Err(EmbedError::Empty { index }),
                false => Ok(Tokens { ids, bytes }),
            }
        };
        if texts.len() == 1 || rayon::current_thread_index().is_none() {
            return texts.iter().enumerate().map(encode).collect();
        }
        texts.par_iter().enumerate().map(encode).collect()
    }

    fn numbers(&self, values: &[f32]) -> Result<(), EmbedError> {
        match values.iter().all(|v| v.is_finite()) {
            true => Ok(()),
            false => Err(EmbedError::NotANumber {
                name: self.info.id.to_string(),
            }),
        }
    }

    fn kind(&self, wanted: &'static str) -> EmbedError {
        EmbedError::Kind {
            name: self.info.id.to_string(),
            wanted,
            made_to: match self.head {
                Head::Embed => "embed",
                Head::Tokens => "label tokens",
                Head::Pooled | Head::Dense => "label texts",
            },
        }
    }
}

impl std::fmt::Debug for Embedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedder")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

fn ids(tokens: &[Tokens]) -> Vec<&[u32]> {
    tokens.iter().map(|text| &*text.ids).collect()
}

fn softmax(row: &[f32]) -> Vec<f32> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = row
        .iter()
        .map(|logit| crate::model::math::exp(logit - largest))
        .collect();
    let total: f32 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

fn likeliest(row: &[f32]) -> (usize, f32) {
    let scores = softmax(row).into_iter().enumerate();
    scores.fold((0, f32::NEG_INFINITY), |best, next| match next.1 > best.1 {
        true => next,
        false => best,
    })
}

#[cfg(test)]
mod tests;
