//! `config.json`: what a checkpoint says of its shape, checked before anything
//! is allocated from it.

use serde::Deserialize;
use serde_json::Value;

use crate::kernel::Shape;

/// Bounds on what a file may make us allocate. Each is several times what the
/// largest model that fits an edge server has.
const MAX_VOCAB: usize = 1 << 20;
const MAX_WIDTH: usize = 1 << 16;
const MAX_LAYERS: usize = 512;
const MAX_HEADS: usize = 1024;
const MAX_HEAD_DIM: usize = 1024;
const MAX_CONTEXT: usize = 1 << 20;
/// `max_position_embeddings` of Hugging Face's Llama when the file has none.
const DEFAULT_CONTEXT: usize = 2048;
const DEFAULT_ROPE_THETA: f64 = 10_000.0;

/// The one architecture this engine decodes.
pub(crate) const ARCHITECTURE: &str = "LlamaForCausalLM";

/// A decoder's shape. Every combination that [`LlamaConfig::parse`] lets
/// through can be built.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LlamaConfig {
    pub(crate) vocab: usize,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) context: usize,
    pub(crate) norm_eps: f32,
    pub(crate) rope_theta: f64,
    pub(crate) tied_head: bool,
    pub(crate) eos: Vec<u32>,
}

/// Why `config.json` is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not JSON of the expected shape.
    #[error("config.json cannot be read")]
    Json(#[source] serde_json::Error),
    /// A key's value is outside what can be built.
    #[error("config.json: {key} = {value} is out of range; allowed: {allowed}")]
    Range {
        /// The key.
        key: &'static str,
        /// What the file says.
        value: String,
        /// What would be accepted.
        allowed: String,
    },
    /// A feature of the architecture that this engine does not compute.
    #[error("config.json: {key} = {value} is not supported; supported: {supported}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// What the file says.
        value: String,
        /// What is supported.
        supported: &'static str,
    },
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    architectures: Vec<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<RopeParameters>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    hidden_act: Option<String>,
    eos_token_id: Option<OneOrMany>,
}

/// Where transformers 5 keeps what used to be `rope_theta` and `rope_scaling`.
#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl LlamaConfig {
    /// Parses and checks `config.json`.
    ///
    /// # Errors
    ///
    /// Names the key, its value and what is allowed.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let raw: RawConfig = serde_json::from_slice(json).map_err(ConfigError::Json)?;
        raw.check_supported()?;
        raw.build()
    }

    /// Every matrix of the checkpoint by name.
    pub(crate) fn matrices(&self) -> Vec<(String, Shape)> {
        let Self {
            vocab,
            hidden,
            intermediate,
            heads,
            kv_heads,
            head_dim,
            ..
        } = *self;
        let table = Shape {
            n: vocab,
            k: hidden,
        };
        let mut all = vec![("model.embed_tokens.weight".to_owned(), table)];
        if !self.tied_head {
            all.push(("lm_head.weight".to_owned(), table));
        }
        for layer in 0..self.layers {
            for (part, n, k) in [
                ("self_attn.q_proj", heads * head_dim, hidden),
                ("self_attn.k_proj", kv_heads * head_dim, hidden),
                ("self_attn.v_proj", kv_heads * head_dim, hidden),
                ("self_attn.o_proj", hidden, heads * head_dim),
                ("mlp.gate_proj", intermediate, hidden),
                ("mlp.up_proj", intermediate, hidden),
                ("mlp.down_proj", hidden, intermediate),
            ] {
                all.push((
                    format!("model.layers.{layer}.{part}.weight"),
                    Shape { n, k },
                ));
            }
        }
        all
    }

    /// Every norm of the checkpoint by name; each has `hidden` weights.
    pub(crate) fn norms(&self) -> Vec<String> {
        let of_layer = |layer| {
            ["input_layernorm", "post_attention_layernorm"]
                .map(|norm| format!("model.layers.{layer}.{norm}.weight"))
        };
        let mut all: Vec<String> = (0..self.layers).flat_map(of_layer).collect();
        all.push("model.norm.weight".to_owned());
        all
    }

    /// How many of the model's weights there are, norms left out.
    pub(crate) fn parameters(&self) -> u64 {
        self.matrices()
            .iter()
            .map(|(_, shape)| shape.n as u64 * shape.k as u64)
            .sum()
    }
}

impl RawConfig {
    fn check_supported(&self) -> Result<(), ConfigError> {
        let unsupported = |key, value: &dyn std::fmt::Display, supported| {
            Err(ConfigError::Unsupported {
                key,
                value: value.to_string(),
                supported,
            })
        };
        if !self.architectures.iter().any(|a| a == ARCHITECTURE) {
            return unsupported("architectures", &self.architectures.join(","), ARCHITECTURE);
        }
        if let Some(act) = &self.hidden_act
            && act != "silu"
        {
            return unsupported("hidden_act", act, "silu");
        }
        if self.attention_bias {
            return unsupported("attention_bias", &true, "false");
        }
        if self.mlp_bias {
            return unsupported("mlp_bias", &true, "false");
        }
        if let Some(scaling) = &self.rope_scaling
            && !scaling.is_null()
        {
            return unsupported("rope_scaling", scaling, "null");
        }
        if let Some(kind) = self
            .rope_parameters
            .as_ref()
            .and_then(|p| p.rope_type.as_ref())
            && kind != "default"
        {
            return unsupported("rope_parameters.rope_type", kind, "default");
        }
        Ok(())
    }

    fn build(self) -> Result<LlamaConfig, ConfigError> {
        let heads = within("num_attention_heads", self.num_attention_heads, MAX_HEADS)?;
        let kv_heads = within(
            "num_key_value_heads",
            self.num_key_value_heads.unwrap_or(heads),
            heads,
        )?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(range(
                "num_key_value_heads",
                kv_heads,
                format!("a divisor of {heads}"),
            ));
        }
        let hidden = within("hidden_size", self.hidden_size, MAX_WIDTH)?;
        if self.head_dim.is_none() && !hidden.is_multiple_of(heads) {
            return Err(range(
                "hidden_size",
                hidden,
                format!("a multiple of {heads} heads"),
            ));
        }
        let head_dim = within(
            "head_dim",
            self.head_dim.unwrap_or(hidden / heads),
            MAX_HEAD_DIM,
        )?;
        if !head_dim.is_multiple_of(2) {
            return Err(range("head_dim", head_dim, "an even number".to_owned()));
        }
        let theta = self
            .rope_parameters
            .and_then(|p| p.rope_theta)
            .or(self.rope_theta);
        let rope_theta = theta.unwrap_or(DEFAULT_ROPE_THETA);
        if !(1.0..=1e12).contains(&rope_theta) {
            return Err(range("rope_theta", rope_theta, "1 to 1e12".to_owned()));
        }
        let norm_eps = self.rms_norm_eps;
        if !(1e-12..=1.0).contains(&norm_eps) {
            return Err(range("rms_norm_eps", norm_eps, "1e-12 to 1".to_owned()));
        }
        let vocab = within("vocab_size", self.vocab_size, MAX_VOCAB)?;
        let eos = match self.eos_token_id {
            None => Vec::new(),
            Some(OneOrMany::One(id)) => vec![id],
            Some(OneOrMany::Many(ids)) => ids,
        };
        if let Some(id) = eos.iter().find(|id| **id as usize >= vocab) {
            return Err(range(
                "eos_token_id",
                *id,
                format!("below vocab_size, {vocab}"),
            ));
        }
        let context = self.max_position_embeddings.unwrap_or(DEFAULT_CONTEXT);
        Ok(LlamaConfig {
            vocab,
            hidden,
            intermediate: within("intermediate_size", self.intermediate_size, MAX_WIDTH)?,
            layers: within("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS)?,
            heads,
            kv_heads,
            head_dim,
            context: within("max_position_embeddings", context, MAX_CONTEXT)?,
            norm_eps: norm_eps as f32,
            rope_theta,
            tied_head: self.tie_word_embeddings,
            eos,
        })
    }
}

fn within(key: &'static str, value: usize, most: usize) -> Result<usize, ConfigError> {
    if (1..=most).contains(&value) {
        return Ok(value);
    }
    Err(range(key, value, format!("1 to {most}")))
}

fn range(key: &'static str, value: impl std::fmt::Display, allowed: String) -> ConfigError {
    ConfigError::Range {
        key,
        value: value.to_string(),
        allowed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn base() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 320, "hidden_size": 64,
            "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        })
    }

    fn with(key: &str, value: Value) -> Result<LlamaConfig, ConfigError> {
        let mut config = base();
        config[key] = value;
        LlamaConfig::parse(config.to_string().as_bytes())
    }

    #[test]
    fn theta_is_found_where_either_generation_of_transformers_puts_it() {
        assert_eq!(with("rope_theta", json!(5e5)).unwrap().rope_theta, 5e5);
        let new = json!({"rope_theta": 1e6, "rope_type": "default"});
        assert_eq!(with("rope_parameters", new).unwrap().rope_theta, 1e6);
        assert_eq!(with("x", json!(0)).unwrap().rope_theta, DEFAULT_ROPE_THETA);
    }

    #[test]
    fn head_size_may_differ_from_hidden_over_heads() {
        assert_eq!(with("x", json!(0)).unwrap().head_dim, 16);
        assert_eq!(with("head_dim", json!(32)).unwrap().head_dim, 32);
    }

    #[test]
    fn what_cannot_be_built_is_refused_by_key() {
        for (key, value) in [
            ("vocab_size", json!(0)),
            ("hidden_size", json!(1_u64 << 40)),
            ("num_key_value_heads", json!(3)),
            ("num_attention_heads", json!(0)),
            ("head_dim", json!(15)),
            ("rms_norm_eps", json!(0.0)),
            ("rope_theta", json!(-1.0)),
            ("rope_scaling", json!({"rope_type": "llama3"})),
            ("hidden_act", json!("gelu")),
            ("attention_bias", json!(true)),
            ("eos_token_id", json!(320)),
            ("architectures", json!(["GPT2LMHeadModel"])),
        ] {
            let error = with(key, value).unwrap_err().to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = LlamaConfig::parse(&bytes);
        }

        #[test]
        fn any_number_anywhere_never_panics(key in 0usize..9, value in any::<i64>()) {
            let keys = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                "num_attention_heads", "num_key_value_heads", "head_dim",
                "max_position_embeddings", "eos_token_id"];
            let _ = with(keys[key], json!(value));
        }
    }
}
