//! Decoders: what the families have in common, and where they differ.

use super::attention::{AttentionKind, layers, ropes};
use super::raw::{RawConfig, activation};
use super::rope::Rope;
use super::{
    ConfigError, MAX_CONTEXT, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH,
    TensorSpec, range, unsupported, within,
};
use crate::model::Activation;

/// `max_position_embeddings` of Hugging Face's Llama when the file has none.
const DEFAULT_CONTEXT: usize = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    SmolLm3,
    Phi3,
    Gemma,
    Gemma2,
    Gemma3,
}

impl Family {
    const ALL: [(Self, &str); 9] = [
        (Self::Llama, "LlamaForCausalLM"),
        (Self::Mistral, "MistralForCausalLM"),
        (Self::Qwen2, "Qwen2ForCausalLM"),
        (Self::Qwen3, "Qwen3ForCausalLM"),
        (Self::SmolLm3, "SmolLM3ForCausalLM"),
        (Self::Phi3, "Phi3ForCausalLM"),
        (Self::Gemma, "GemmaForCausalLM"),
        (Self::Gemma2, "Gemma2ForCausalLM"),
        (Self::Gemma3, "Gemma3ForCausalLM"),
    ];

    pub(super) fn of(raw: &RawConfig) -> Option<Self> {
        let named = |(_, name): &&(Self, &str)| raw.architectures.iter().any(|a| a == name);
        Self::ALL.iter().find(named).map(|(family, _)| *family)
    }

    fn name(self) -> &'static str {
        let known = Self::ALL.iter().find(|(family, _)| *family == self);
        known.map_or("", |(_, name)| name)
    }

    fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma | Self::Gemma2 | Self::Gemma3)
    }
}

/// A decoder's shape.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DecoderConfig {
    family: Family,
    pub(crate) vocab: usize,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) context: usize,
    pub(crate) norm_eps: f32,
    pub(crate) layers: Vec<AttentionKind>,
    pub(crate) ropes: Vec<Rope>,
    pub(crate) tied_head: bool,
    pub(crate) eos: Vec<u32>,
    pub(crate) qkv_bias: bool,
    pub(crate) output_bias: bool,
    pub(crate) mlp_bias: bool,
    /// Queries and keys are normed head by head.
    pub(crate) qk_norm: bool,
    /// Norms stand after attention and feed-forward too.
    pub(crate) sandwich_norms: bool,
    /// What is added to a norm's weights: they are stored as differences.
    pub(crate) norm_offset: f32,
    /// Query, key and value come as one matrix, and so do gate and up.
    pub(crate) fused: bool,
    pub(crate) activation: Activation,
    /// What embeddings are multiplied with.
    pub(crate) embedding_scale: f32,
    /// What attention's scores are multiplied with.
    pub(crate) attention_scale: f32,
    pub(crate) attention_softcap: Option<f32>,
    pub(crate) logit_softcap: Option<f32>,
}

impl DecoderConfig {
    pub(super) fn build(family: Family, raw: &RawConfig) -> Result<Self, ConfigError> {
        let heads = raw.needed("num_attention_heads", raw.num_attention_heads)?;
        let heads = within("num_attention_heads", heads, MAX_HEADS)?;
        let kv_heads = raw.num_key_value_heads.unwrap_or(heads);
        let kv_heads = within("num_key_value_heads", kv_heads, heads)?;
        if !heads.is_multiple_of(kv_heads) {
            let allowed = format!("a divisor of {heads}");
            return Err(range("num_key_value_heads", kv_heads, allowed));
        }
        let hidden = raw.needed("hidden_size", raw.hidden_size)?;
        let hidden = within("hidden_size", hidden, MAX_WIDTH)?;
        let head_dim = head_dim(raw, hidden, heads)?;
        let vocab = raw.needed("vocab_size", raw.vocab_size)?;
        let vocab = within("vocab_size", vocab, MAX_VOCAB)?;
        let intermediate = raw.needed("intermediate_size", raw.intermediate_size)?;
        let layer_count = raw.needed("num_hidden_layers", raw.num_hidden_layers)?;
        let layer_count = within("num_hidden_layers", layer_count, MAX_LAYERS)?;
        let context = raw.max_position_embeddings.unwrap_or(DEFAULT_CONTEXT);
        let context = within("max_position_embeddings", context, MAX_CONTEXT)?;
        let norm_eps = raw.rms_norm_eps.unwrap_or(1e-6);
        if !(1e-12..=1.0).contains(&norm_eps) {
            return Err(range("rms_norm_eps", norm_eps, "1e-12 to 1"));
        }
        if raw.use_bidirectional_attention == Some(true) {
            return Err(unsupported("use_bidirectional_attention", true, "false"));
        }
        let eos = raw.eos();
        if let Some(id) = eos.iter().find(|id| **id as usize >= vocab) {
            return Err(range(
                "eos_token_id",
                *id,
                format!("below vocab_size, {vocab}"),
            ));
        }
        let (ropes, positions) = ropes(family, raw, head_dim, context)?;
        let layers = layers(family, raw, layer_count, ropes.len())?;
        let query = raw
            .query_pre_attn_scalar
            .filter(|_| family != Family::Gemma);
        let query = query
            .filter(|_| family.is_gemma())
            .unwrap_or(head_dim as f64);
        let bias = raw.attention_bias.unwrap_or(false);
        Ok(Self {
            family,
            vocab,
            hidden,
            intermediate: within("intermediate_size", intermediate, MAX_WIDTH)?,
            heads,
            kv_heads,
            head_dim,
            context: context.min(positions),
            norm_eps: norm_eps as f32,
            layers,
            ropes,
            tied_head: raw
                .tie_word_embeddings
                .unwrap_or(family.is_gemma() || family == Family::SmolLm3),
            eos,
            qkv_bias: bias || family == Family::Qwen2,
            output_bias: bias && family != Family::Qwen2,
            mlp_bias: raw.mlp_bias.unwrap_or(false),
            qk_norm: matches!(family, Family::Qwen3 | Family::Gemma3),
            sandwich_norms: matches!(family, Family::Gemma2 | Family::Gemma3),
            norm_offset: if family.is_gemma() { 1.0 } else { 0.0 },
            fused: family == Family::Phi3,
            activation: gate(family, raw)?,
            embedding_scale: match family.is_gemma() {
                true => (hidden as f32).sqrt(),
                false => 1.0,
            },
            attention_scale: positive("query_pre_attn_scalar", query)?.powf(-0.5) as f32,
            attention_softcap: softcap("attn_logit_softcapping", raw.attn_logit_softcapping)?,
            logit_softcap: softcap("final_logit_softcapping", raw.final_logit_softcapping)?,
        })
    }

    pub(super) fn architecture(&self) -> &'static str {
        self.family.name()
    }

    /// Every tensor, layer by layer.
    pub(super) fn tensors(&self) -> Vec<TensorSpec> {
        let (hidden, head_dim) = (self.hidden, self.head_dim);
        let mut all = vec![TensorSpec::matrix(
            "model.embed_tokens.weight",
            self.vocab,
            hidden,
        )];
        if !self.tied_head {
            all.push(TensorSpec::matrix("lm_head.weight", self.vocab, hidden));
        }
        for layer in 0..self.layers.len() {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let mut linear = |part: &str, n: usize, k: usize, bias: bool| {
                all.push(TensorSpec::matrix(name(&format!("{part}.weight")), n, k));
                if bias {
                    all.push(TensorSpec::vector(name(&format!("{part}.bias")), n));
                }
            };
            for (part, n, bias) in self.qkv() {
                linear(part, n, hidden, bias);
            }
            let attended = self.heads * head_dim;
            linear("self_attn.o_proj", hidden, attended, self.output_bias);
            for (part, n) in self.gate_up() {
                linear(part, n, hidden, self.mlp_bias);
            }
            linear("mlp.down_proj", hidden, self.intermediate, self.mlp_bias);
            let norms = self.norms().iter();
            all.extend(
                norms.map(|norm| TensorSpec::vector(name(&format!("{norm}.weight")), hidden)),
            );
            if self.qk_norm {
                let norms = ["self_attn.q_norm.weight", "self_attn.k_norm.weight"];
                all.extend(norms.map(|norm| TensorSpec::vector(name(norm), head_dim)));
            }
        }
        all.push(TensorSpec::vector("model.norm.weight", hidden));
        all
    }

    /// The matrices that make queries, keys and values, in that order: name,
    /// outputs, bias.
    pub(crate) fn qkv(&self) -> Vec<(&'static str, usize, bool)> {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        match self.fused {
            true => vec![("self_attn.qkv_proj", q + 2 * kv, self.qkv_bias)],
            false => vec![
                ("self_attn.q_proj", q, self.qkv_bias),
                ("self_attn.k_proj", kv, self.qkv_bias),
                ("self_attn.v_proj", kv, self.qkv_bias),
            ],
        }
    }

    /// The matrices that make gates and ups, in that order: name, outputs.
    pub(crate) fn gate_up(&self) -> Vec<(&'static str, usize)> {
        match self.fused {
            true => vec![("mlp.gate_up_proj", 2 * self.intermediate)],
            false => vec![
                ("mlp.gate_proj", self.intermediate),
                ("mlp.up_proj", self.intermediate),
            ],
        }
    }

    /// A layer's norms: before attention, before feed-forward, and with
    /// sandwich norms after each.
    pub(crate) fn norms(&self) -> &'static [&'static str] {
        match self.sandwich_norms {
            true => &[
                "input_layernorm",
                "pre_feedforward_layernorm",
                "post_attention_layernorm",
                "post_feedforward_layernorm",
            ],
            false => &["input_layernorm", "post_attention_layernorm"],
        }
    }
}

fn head_dim(raw: &RawConfig, hidden: usize, heads: usize) -> Result<usize, ConfigError> {
    if raw.head_dim.is_none() && !hidden.is_multiple_of(heads) {
        return Err(range(
            "hidden_size",
            hidden,
            format!("a multiple of {heads} heads"),
        ));
    }
    let head_dim = within(
        "head_dim",
        raw.head_dim.unwrap_or(hidden / heads),
        MAX_HEAD_DIM,
    )?;
    match head_dim.is_multiple_of(2) {
        true => Ok(head_dim),
        false => Err(range("head_dim", head_dim, "an even number")),
    }
}

fn gate(family: Family, raw: &RawConfig) -> Result<Activation, ConfigError> {
    if family == Family::Gemma {
        // Published checkpoints say `gelu` and mean the form by tanh.
        let name = raw.hidden_act.as_deref().filter(|name| *name != "gelu");
        return activation("hidden_act", name.unwrap_or("gelu_pytorch_tanh"));
    }
    if family.is_gemma() {
        let name = raw.hidden_activation.as_deref();
        return activation("hidden_activation", name.unwrap_or("gelu_pytorch_tanh"));
    }
    activation("hidden_act", raw.hidden_act.as_deref().unwrap_or("silu"))
}

fn positive(key: &'static str, value: f64) -> Result<f64, ConfigError> {
    match (1e-6..=1e9).contains(&value) {
        true => Ok(value),
        false => Err(range(key, value, "1e-6 to 1e9")),
    }
}

fn softcap(key: &'static str, value: Option<f64>) -> Result<Option<f32>, ConfigError> {
    value
        .map(|value| Ok(positive(key, value)? as f32))
        .transpose()
}
