//! The architectures that are read, and what their tensors are called.

use super::metadata::Metadata;
use crate::checkpoint::CheckpointError;

const KEY: &str = "general.architecture";
const SUPPORTED: &str = "llama, qwen2, qwen3, gemma2, gemma3 or phi3";

/// What `general.architecture` may be. Mistral and SmolLM2 are Llamas here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
    Gemma2,
    Gemma3,
    Phi3,
}

/// Where a tensor of the file belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Among the weights, by Hugging Face's name, in a layer or outside.
    Weight { name: String, layer: Option<u64> },
    /// In `config.json`: by how much each frequency is divided.
    RopeFactors,
}

impl Architecture {
    pub(super) fn of(metadata: &Metadata) -> Result<Self, CheckpointError> {
        let name = metadata
            .text(KEY)?
            .ok_or_else(|| metadata.absent(KEY, SUPPORTED))?;
        Ok(match name {
            "llama" => Self::Llama,
            "qwen2" => Self::Qwen2,
            "qwen3" => Self::Qwen3,
            "gemma2" => Self::Gemma2,
            "gemma3" => Self::Gemma3,
            "phi3" => Self::Phi3,
            _ => return Err(metadata.refuse(KEY, format!("{name:?}"), SUPPORTED)),
        })
    }

    /// What the architecture's own keys begin with.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3",
            Self::Phi3 => "phi3",
        }
    }

    pub(super) fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    /// Where a tensor belongs, or nothing when the architecture has none of
    /// that name.
    pub(super) fn place(self, tensor: &str) -> Option<Place> {
        let outside = |name: &str| {
            Some(Place::Weight {
                name: name.to_owned(),
                layer: None,
            })
        };
        match tensor {
            "token_embd.weight" => return outside("model.embed_tokens.weight"),
            "output_norm.weight" => return outside("model.norm.weight"),
            "output.weight" => return outside("lm_head.weight"),
            "rope_freqs.weight" if self == Self::Llama => return Some(Place::RopeFactors),
            "rope_factors_long.weight" | "rope_factors_short.weight" if self == Self::Phi3 => {
                return Some(Place::RopeFactors);
            }
            _ => {}
        }
        let (number, rest) = tensor.strip_prefix("blk.")?.split_once('.')?;
        let layer: u64 = number.parse().ok()?;
        // Two spellings of one number would be two tensors of one name.
        if number != layer.to_string() {
            return None;
        }
        let (part, suffix) = rest.rsplit_once('.')?;
        if !matches!(suffix, "weight" | "bias") {
            return None;
        }
        let part = self.part(part)?;
        Some(Place::Weight {
            name: format!("model.layers.{layer}.{part}.{suffix}"),
            layer: Some(layer),
        })
    }

    /// A part of a layer.
    fn part(self, part: &str) -> Option<&'static str> {
        let normed = matches!(self, Self::Qwen3 | Self::Gemma3);
        let fused = self == Self::Phi3;
        Some(match part {
            "attn_norm" => "input_layernorm",
            "attn_q" if !fused => "self_attn.q_proj",
            "attn_k" if !fused => "self_attn.k_proj",
            "attn_v" if !fused => "self_attn.v_proj",
            "attn_qkv" if fused => "self_attn.qkv_proj",
            "attn_output" => "self_attn.o_proj",
            "attn_q_norm" if normed => "self_attn.q_norm",
            "attn_k_norm" if normed => "self_attn.k_norm",
            "post_attention_norm" if self.is_gemma() => "post_attention_layernorm",
            "ffn_norm" if self.is_gemma() => "pre_feedforward_layernorm",
            "ffn_norm" => "post_attention_layernorm",
            "post_ffw_norm" if self.is_gemma() => "post_feedforward_layernorm",
            "ffn_gate" if !fused => "mlp.gate_proj",
            "ffn_up" if fused => "mlp.gate_up_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            _ => return None,
        })
    }
}
