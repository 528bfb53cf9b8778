//! From hidden states to one vector, as sentence-transformers' files say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::artifact::ArtifactError;
use crate::artifact::manifest::field as wrong;
use crate::config::{Head, ModelConfig};

const MODULES: &str = "modules.json";
const POOLING: &str = "1_Pooling/config.json";
const LENGTH: &str = "sentence_bert_config.json";

/// Which tokens make the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PoolingMode {
    /// The mean of all tokens.
    Mean,
    /// The first token.
    Cls,
    /// The largest value of each dimension.
    Max,
    /// The last token.
    Last,
}

/// How an embedding is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pooling {
    pub(crate) mode: PoolingMode,
    /// Whether embeddings have length one.
    pub(crate) normalize: bool,
    /// Texts are cut to so many tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PoolingFile {
    pooling_mode: Option<String>,
    pooling_mode_cls_token: bool,
    pooling_mode_mean_tokens: bool,
    pooling_mode_max_tokens: bool,
    pooling_mode_lasttoken: bool,
    pooling_mode_mean_sqrt_len_tokens: bool,
    pooling_mode_weightedmean_tokens: bool,
}

#[derive(Deserialize)]
struct LengthFile {
    max_seq_length: Option<u32>,
}

type Files = BTreeMap<&'static str, Vec<u8>>;

impl Pooling {
    /// What the files say; without any, the mean, as it is. None for a model
    /// that does not embed.
    pub(crate) fn of(config: &ModelConfig, files: &Files) -> Result<Option<Self>, ArtifactError> {
        match config {
            ModelConfig::Encoder(config) if config.head == Head::Embed => {}
            _ => return Ok(None),
        }
        let mut pooling = Self {
            mode: PoolingMode::Mean,
            normalize: false,
            max_tokens: None,
        };
        for module in parse::<Vec<Module>>(files, MODULES)?.unwrap_or_default() {
            match module.kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" | "Pooling" => {}
                "Normalize" => pooling.normalize = true,
                other => {
                    let allowed = "Transformer, Pooling, Normalize";
                    return Err(wrong(MODULES, "type", other, allowed));
                }
            }
        }
        if let Some(file) = parse::<PoolingFile>(files, POOLING)? {
            pooling.mode = file.mode()?;
        }
        if let Some(file) = parse::<LengthFile>(files, LENGTH)? {
            pooling.max_tokens = file.max_seq_length.filter(|most| *most > 0);
        }
        Ok(Some(pooling))
    }

    /// The embedding of a text from its hidden states, `[tokens, width]`.
    pub(crate) fn apply(&self, states: &[f32], width: usize) -> Vec<f32> {
        let rows = states.chunks_exact(width);
        let count = rows.len().max(1);
        let mut out = match self.mode {
            PoolingMode::Cls => states[..width].to_vec(),
            PoolingMode::Last => states[states.len() - width..].to_vec(),
            PoolingMode::Mean => {
                let mut sums = vec![0.0; width];
                for row in rows {
                    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                }
                sums.iter_mut().for_each(|sum| *sum /= count as f32);
                sums
            }
            PoolingMode::Max => {
                let mut largest = states[..width].to_vec();
                for row in rows {
                    largest
                        .iter_mut()
                        .zip(row)
                        .for_each(|(m, x)| *m = m.max(*x));
                }
                largest
            }
        };
        if self.normalize {
            let length = out.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
            out.iter_mut().for_each(|x| *x /= length);
        }
        out
    }
}

impl PoolingFile {
    fn mode(&self) -> Result<PoolingMode, ArtifactError> {
        let allowed = "one of mean, cls, max, lasttoken";
        if let Some(name) = &self.pooling_mode {
            return Ok(match name.as_str() {
                "mean" => PoolingMode::Mean,
                "cls" => PoolingMode::Cls,
                "max" => PoolingMode::Max,
                "lasttoken" => PoolingMode::Last,
                other => return Err(wrong(POOLING, "pooling_mode", other, allowed)),
            });
        }
        let flags = [
            (self.pooling_mode_mean_tokens, Some(PoolingMode::Mean)),
            (self.pooling_mode_cls_token, Some(PoolingMode::Cls)),
            (self.pooling_mode_max_tokens, Some(PoolingMode::Max)),
            (self.pooling_mode_lasttoken, Some(PoolingMode::Last)),
            (self.pooling_mode_mean_sqrt_len_tokens, None),
            (self.pooling_mode_weightedmean_tokens, None),
        ];
        let mut set = flags.iter().filter(|(set, _)| *set);
        match (set.next(), set.next()) {
            (Some((_, Some(mode))), None) => Ok(*mode),
            (None, _) => Err(wrong(POOLING, "pooling_mode_*", "(none set)", allowed)),
            _ => Err(wrong(
                POOLING,
                "pooling_mode_*",
                "(several, or one not supported)",
                allowed,
            )),
        }
    }
}

fn parse<T: for<'a> Deserialize<'a>>(
    files: &Files,
    file: &'static str,
) -> Result<Option<T>, ArtifactError> {
    let Some(json) = files.get(file) else {
        return Ok(None);
    };
    let parsed = serde_json::from_slice(json);
    parsed
        .map(Some)
        .map_err(|source| ArtifactError::Json { file, source })
}
