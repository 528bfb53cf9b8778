//! `config.json` from a GGUF file's keys.

use serde_json::{Map, Value, json};

use super::architecture::Architecture;
use super::header::Header;
use super::metadata::Metadata;
use super::rope::Rope;
use super::shape::Shape;
use super::vocabulary::Vocabulary;
use crate::checkpoint::CheckpointError;

/// Gemma 2's, which files from before there were keys for them mean.
const GEMMA2_ATTENTION_CAP: f64 = 50.0;
const GEMMA2_LOGIT_CAP: f64 = 30.0;
/// Every sixth of Gemma 3's layers sees the whole context, every second of
/// Gemma 2's.
const GEMMA3_PATTERN: u64 = 6;
const GEMMA2_PATTERN: u64 = 2;
const GEMMA3_LOCAL_THETA: f64 = 10_000.0;

/// What `config.json` is made from.
pub(super) struct Source<'a> {
    pub(super) header: &'a Header,
    pub(super) architecture: Architecture,
    pub(super) shape: &'a Shape,
    pub(super) rope: &'a Rope,
    pub(super) vocabulary: &'a Vocabulary<'a>,
}

impl Source<'_> {
    fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.prefix())
    }

    fn has(&self, tensor: &str) -> bool {
        self.header.tensors.contains_key(tensor)
    }

    fn unsigned(&self, name: &str) -> Result<u64, CheckpointError> {
        let key = self.key(name);
        self.metadata()
            .unsigned(&key)?
            .ok_or_else(|| self.metadata().absent(&key, "an integer"))
    }

    fn float(&self, name: &str) -> Result<Option<f64>, CheckpointError> {
        self.metadata().float(&self.key(name))
    }

    /// The file as UTF-8 JSON.
    pub(super) fn json(&self) -> Result<Vec<u8>, CheckpointError> {
        let mut config = self.common()?;
        match self.architecture {
            Architecture::Llama => self.llama(&mut config)?,
            Architecture::Qwen2 => {}
            Architecture::Qwen3 => self.biases(&mut config),
            Architecture::Gemma2 => self.gemma2(&mut config)?,
            Architecture::Gemma3 => self.gemma3(&mut config)?,
            Architecture::Phi3 => self.phi3(&mut config)?,
        }
        let mut json = serde_json::to_vec_pretty(&Value::Object(config))
            .expect("plain data has a form in JSON");
        json.push(b'\n');
        Ok(json)
    }

    fn common(&self) -> Result<Map<String, Value>, CheckpointError> {
        let (name, kind) = match self.architecture {
            Architecture::Llama => ("LlamaForCausalLM", "llama"),
            Architecture::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
            Architecture::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
            Architecture::Gemma2 => ("Gemma2ForCausalLM", "gemma2"),
            Architecture::Gemma3 => ("Gemma3ForCausalLM", "gemma3_text"),
            Architecture::Phi3 => ("Phi3ForCausalLM", "phi3"),
        };
        let epsilon = "attention.layer_norm_rms_epsilon";
        let norm_eps = self
            .float(epsilon)?
            .ok_or_else(|| self.metadata().absent(&self.key(epsilon), "a number"))?;
        let activation = if self.architecture.is_gemma() {
            ("hidden_activation", "gelu_pytorch_tanh")
        } else {
            ("hidden_act", "silu")
        };
        let mut config = Map::new();
        let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
        put("architectures", json!([name]));
        put("model_type", json!(kind));
        put("vocab_size", json!(self.vocab_size()?));
        put("hidden_size", json!(self.shape.hidden));
        put(
            "intermediate_size",
            json!(self.unsigned("feed_forward_length")?),
        );
        put("num_hidden_layers", json!(self.shape.layers));
        put("num_attention_heads", json!(self.shape.heads));
        put("num_key_value_heads", json!(self.shape.kv_heads));
        put("head_dim", json!(self.shape.head_dim));
        put(
            "max_position_embeddings",
            json!(self.unsigned("context_length")?),
        );
        put("rms_norm_eps", json!(norm_eps));
        put("rope_theta", json!(self.rope.theta));
        put("rope_scaling", self.rope.scaling.clone());
        put("tie_word_embeddings", json!(!self.has("output.weight")));
        put(activation.0, json!(activation.1));
        put("bos_token_id", json!(self.vocabulary.bos));
        put("eos_token_id", json!(self.vocabulary.eos));
        // Without one, some families take a number that this model lacks.
        put("pad_token_id", json!(self.vocabulary.padding));
        Ok(config)
    }

    /// As many as the embedding has rows, which may be more than tokens.
    fn vocab_size(&self) -> Result<usize, CheckpointError> {
        let name = "token_embd.weight";
        let missing = || CheckpointError::Missing {
            file: self.metadata().file().to_owned(),
            tensor: name.to_owned(),
        };
        let embedding = self.header.tensors.get(name).ok_or_else(missing)?;
        let rows = embedding.shape.first().copied().unwrap_or(0);
        let tokens = self.vocabulary.len();
        if rows >= tokens {
            return Ok(rows);
        }
        Err(CheckpointError::tensor(
            self.metadata().file(),
            name,
            format!("it has {rows} rows"),
            format!("at least {tokens}, one for each token"),
        ))
    }

    /// Whether there are biases is not in the keys but in the tensors.
    fn biases(&self, config: &mut Map<String, Value>) {
        let attention = self.has("blk.0.attn_q.bias");
        config.insert("attention_bias".to_owned(), json!(attention));
    }

    fn llama(&self, config: &mut Map<String, Value>) -> Result<(), CheckpointError> {
        self.biases(config);
        let mlp = self.has("blk.0.ffn_up.bias");
        config.insert("mlp_bias".to_owned(), json!(mlp));
        // Only Mistral's have a window.
        if let Some(window) = self.window()? {
            config.insert("architectures".to_owned(), json!(["MistralForCausalLM"]));
            config.insert("model_type".to_owned(), json!("mistral"));
            config.insert("sliding_window".to_owned(), json!(window));
        }
        Ok(())
    }

    /// Zero is how the conversion writes that there is none.
    fn window(&self) -> Result<Option<u64>, CheckpointError> {
        let window = self
            .metadata()
            .unsigned(&self.key("attention.sliding_window"))?;
        Ok(window.filter(|window| *window > 0))
    }

    fn layer_types(&self, pattern: u64) -> Value {
        (1..=self.shape.layers)
            .map(|layer| {
                if layer.is_multiple_of(pattern) {
                    "full_attention"
                } else {
                    "sliding_attention"
                }
            })
            .collect()
    }

    /// By which the attention's scores are scaled. No key has it: the largest
    /// model of each generation is the one that does not use its head's size.
    fn attention_scalar(&self, largest: u64) -> u64 {
        if self.shape.layers == largest {
            self.shape.hidden / self.shape.heads
        } else {
            self.shape.head_dim
        }
    }

    fn gemma2(&self, config: &mut Map<String, Value>) -> Result<(), CheckpointError> {
        let attention = self.float("attn_logit_softcapping")?;
        let logits = self.float("final_logit_softcapping")?;
        let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
        put(
            "attn_logit_softcapping",
            json!(attention.unwrap_or(GEMMA2_ATTENTION_CAP)),
        );
        put(
            "final_logit_softcapping",
            json!(logits.unwrap_or(GEMMA2_LOGIT_CAP)),
        );
        put("query_pre_attn_scalar", json!(self.attention_scalar(46)));
        put("sliding_window", json!(self.window()?));
        put("layer_types", self.layer_types(GEMMA2_PATTERN));
        Ok(())
    }

    fn gemma3(&self, config: &mut Map<String, Value>) -> Result<(), CheckpointError> {
        let window = self.window()?;
        let key = self.key("attention.sliding_window_pattern");
        let pattern = match self.metadata().unsigned(&key)? {
            Some(0) => {
                return Err(self
                    .metadata()
                    .refuse(&key, "0", "an integer of at least 1"));
            }
            Some(pattern) => pattern,
            // Without a window every layer sees all.
            None if window.is_none() => 1,
            None => GEMMA3_PATTERN,
        };
        let local = self.float("rope.freq_base_swa")?;
        let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
        put("query_pre_attn_scalar", json!(self.attention_scalar(62)));
        put("attn_logit_softcapping", Value::Null);
        put(
            "final_logit_softcapping",
            json!(self.float("final_logit_softcapping")?),
        );
        put("sliding_window", json!(window));
        put("sliding_window_pattern", json!(pattern));
        put("layer_types", self.layer_types(pattern));
        put(
            "rope_local_base_freq",
            json!(local.unwrap_or(GEMMA3_LOCAL_THETA)),
        );
        Ok(())
    }

    fn phi3(&self, config: &mut Map<String, Value>) -> Result<(), CheckpointError> {
        let original = "rope.scaling.original_context_length";
        let original = self.metadata().unsigned(&self.key(original))?;
        let rotated = self
            .metadata()
            .unsigned(&self.key("rope.dimension_count"))?;
        let rotated = rotated.unwrap_or(self.shape.head_dim);
        let context = self.unsigned("context_length")?;
        let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
        put("sliding_window", json!(self.window()?));
        put(
            "partial_rotary_factor",
            json!(rotated as f64 / self.shape.head_dim as f64),
        );
        put(
            "original_max_position_embeddings",
            json!(original.unwrap_or(context)),
        );
        Ok(())
    }
}
