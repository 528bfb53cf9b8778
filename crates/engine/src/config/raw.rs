//! `config.json` as it is written, by transformers 4 and 5.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::ConfigError;
use crate::model::Activation;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawConfig {
    pub(super) architectures: Vec<String>,
    pub(super) vocab_size: Option<usize>,
    pub(super) hidden_size: Option<usize>,
    pub(super) intermediate_size: Option<usize>,
    pub(super) num_hidden_layers: Option<usize>,
    pub(super) num_attention_heads: Option<usize>,
    pub(super) num_key_value_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    pub(super) max_position_embeddings: Option<usize>,
    pub(super) original_max_position_embeddings: Option<usize>,
    pub(super) rms_norm_eps: Option<f64>,
    pub(super) layer_norm_eps: Option<f64>,
    pub(super) rope_theta: Option<f64>,
    pub(super) rope_local_base_freq: Option<f64>,
    pub(super) rope_scaling: Option<RawRope>,
    pub(super) rope_parameters: Option<RawRopes>,
    pub(super) partial_rotary_factor: Option<f64>,
    pub(super) tie_word_embeddings: Option<bool>,
    pub(super) attention_bias: Option<bool>,
    pub(super) mlp_bias: Option<bool>,
    pub(super) hidden_act: Option<String>,
    pub(super) hidden_activation: Option<String>,
    pub(super) eos_token_id: Option<OneOrMany>,
    pub(super) sliding_window: Option<usize>,
    pub(super) use_sliding_window: Option<bool>,
    pub(super) max_window_layers: Option<usize>,
    pub(super) sliding_window_pattern: Option<usize>,
    pub(super) layer_types: Option<Vec<String>>,
    pub(super) no_rope_layers: Option<Vec<i64>>,
    pub(super) no_rope_layer_interval: Option<usize>,
    pub(super) query_pre_attn_scalar: Option<f64>,
    pub(super) attn_logit_softcapping: Option<f64>,
    pub(super) final_logit_softcapping: Option<f64>,
    pub(super) use_bidirectional_attention: Option<bool>,
    pub(super) type_vocab_size: Option<usize>,
    pub(super) pad_token_id: Option<i64>,
    pub(super) position_embedding_type: Option<String>,
    pub(super) id2label: BTreeMap<String, String>,
    pub(super) num_labels: Option<usize>,
    pub(super) is_decoder: Option<bool>,
}

/// Where transformers 5 keeps theta and scaling; 4 has the scaling alone.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct RawRope {
    pub(super) rope_theta: Option<f64>,
    pub(super) rope_type: Option<String>,
    #[serde(rename = "type")]
    pub(super) old_type: Option<String>,
    pub(super) factor: Option<f64>,
    pub(super) low_freq_factor: Option<f64>,
    pub(super) high_freq_factor: Option<f64>,
    pub(super) original_max_position_embeddings: Option<usize>,
    pub(super) attention_factor: Option<f64>,
    pub(super) beta_fast: Option<f64>,
    pub(super) beta_slow: Option<f64>,
    pub(super) mscale: Option<f64>,
    pub(super) mscale_all_dim: Option<f64>,
    pub(super) truncate: Option<bool>,
    pub(super) short_factor: Option<Vec<f64>>,
    pub(super) partial_rotary_factor: Option<f64>,
}

/// One for all layers, or one for each type of layer. The type that has no
/// required key comes last.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RawRopes {
    ByLayer {
        full_attention: Box<RawRope>,
        sliding_attention: Option<Box<RawRope>>,
    },
    All(Box<RawRope>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl RawConfig {
    pub(super) fn needed<T: Copy>(
        &self,
        key: &'static str,
        value: Option<T>,
    ) -> Result<T, ConfigError> {
        value.ok_or_else(|| ConfigError::Missing {
            key,
            architecture: self.architectures.join(","),
        })
    }

    pub(super) fn eos(&self) -> Vec<u32> {
        match &self.eos_token_id {
            None => Vec::new(),
            Some(OneOrMany::One(id)) => vec![*id],
            Some(OneOrMany::Many(ids)) => ids.clone(),
        }
    }
}

/// The activation that transformers calls by this name.
pub(super) fn activation(key: &'static str, name: &str) -> Result<Activation, ConfigError> {
    Ok(match name {
        "silu" | "swish" => Activation::Silu,
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        _ => {
            let supported = "silu, gelu, gelu_new, gelu_pytorch_tanh, relu";
            return Err(super::unsupported(key, name, supported));
        }
    })
}
