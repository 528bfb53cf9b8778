use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn base() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 320, "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
    })
}

fn parse(config: &Value) -> Result<DecoderConfig, ConfigError> {
    match ModelConfig::parse(config.to_string().as_bytes())? {
        ModelConfig::Decoder(config) => Ok(config),
        ModelConfig::Encoder(_) => panic!("a decoder was asked for"),
    }
}

fn with(key: &str, value: Value) -> Result<DecoderConfig, ConfigError> {
    let mut config = base();
    config[key] = value;
    parse(&config)
}

fn family(name: &str, more: Value) -> DecoderConfig {
    let mut config = base();
    config["architectures"] = json!([name]);
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    parse(&config).unwrap()
}

#[test]
fn theta_is_found_where_either_generation_of_transformers_puts_it() {
    let second = |config: DecoderConfig| 1.0 / config.ropes[0].frequencies[1];
    let theta = |value: f64| value.powf(1.0 / 8.0) as f32;
    let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-4 * b, "{a} {b}");
    close(second(with("rope_theta", json!(5e5)).unwrap()), theta(5e5));
    let new = json!({"rope_theta": 1e6, "rope_type": "default"});
    close(second(with("rope_parameters", new).unwrap()), theta(1e6));
    close(second(with("x", json!(0)).unwrap()), theta(1e4));
}

#[test]
fn head_size_may_differ_from_hidden_over_heads() {
    assert_eq!(with("x", json!(0)).unwrap().head_dim, 16);
    assert_eq!(with("head_dim", json!(32)).unwrap().head_dim, 32);
}

#[test]
fn families_differ_where_they_should() {
    let qwen2 = family("Qwen2ForCausalLM", json!({"sliding_window": 8}));
    assert!(qwen2.qkv_bias && !qwen2.output_bias && !qwen2.qk_norm);
    assert!(
        qwen2.layers.iter().all(|layer| layer.window.is_none()),
        "not asked to slide"
    );
    let mistral = family("MistralForCausalLM", json!({"sliding_window": 8}));
    assert!(mistral.layers.iter().all(|layer| layer.window == Some(8)));
    let gemma2 = family("Gemma2ForCausalLM", json!({"query_pre_attn_scalar": 64}));
    assert_eq!(gemma2.layers[0].window, Some(4096));
    assert_eq!(gemma2.layers[1].window, None);
    assert_eq!(
        (gemma2.attention_scale, gemma2.embedding_scale),
        (0.125, 8.0)
    );
    assert!(gemma2.tied_head && gemma2.sandwich_norms);
    let gemma3 = family(
        "Gemma3ForCausalLM",
        json!({"sliding_window": 4, "sliding_window_pattern": 2}),
    );
    assert_eq!(
        gemma3.layers[0],
        AttentionKind {
            window: Some(4),
            rope: Some(1)
        }
    );
    assert_eq!(
        gemma3.layers[1],
        AttentionKind {
            window: None,
            rope: Some(0)
        }
    );
    let turned = |more: Value| {
        let layers = family("SmolLM3ForCausalLM", more).layers;
        layers.iter().map(|l| l.rope.is_some()).collect::<Vec<_>>()
    };
    assert_eq!(
        turned(json!({"no_rope_layer_interval": 2})),
        [true, false],
        "the second of two"
    );
    assert_eq!(turned(json!({"no_rope_layers": [0, 1]})), [false, true]);
    let phi3 = family("Phi3ForCausalLM", json!({}));
    assert!(
        phi3.tensors()
            .iter()
            .any(|t| t.name.ends_with("self_attn.qkv_proj.weight"))
    );
}

#[test]
fn long_rope_serves_the_length_its_short_factors_hold_for() {
    let config = family(
        "Phi3ForCausalLM",
        json!({
            "max_position_embeddings": 4096, "original_max_position_embeddings": 64,
            "rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1, 1, 1, 1, 2], "long_factor": [2]},
        }),
    );
    assert_eq!(config.context, 64);
    assert!(config.ropes[0].amplitude > 1.0);
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
        ("rope_scaling", json!({"rope_type": "mystery"})),
        (
            "rope_scaling",
            json!({"rope_type": "linear", "factor": 0.0}),
        ),
        ("hidden_act", json!("quick_gelu")),
        ("eos_token_id", json!(320)),
        ("architectures", json!(["GPT2LMHeadModel"])),
        ("layer_types", json!(["full_attention", "mamba"])),
        ("layer_types", json!(["full_attention"])),
        ("partial_rotary_factor", json!(1.5)),
    ] {
        let error = with(key, value).unwrap_err().to_string();
        assert!(error.contains(key), "{key}: {error}");
    }
    let mut config = base();
    config["architectures"] = json!(["SmolLM3ForCausalLM"]);
    config["no_rope_layers"] = json!([1]);
    let error = parse(&config).unwrap_err().to_string();
    assert!(error.contains("no_rope_layers"), "{error}");
    let mut config = base();
    config.as_object_mut().unwrap().remove("hidden_size");
    let error = parse(&config).unwrap_err().to_string();
    assert!(error.contains("hidden_size is missing"), "{error}");
}

#[test]
fn an_encoders_head_and_labels_come_from_its_architecture() {
    let config = json!({
        "architectures": ["XLMRobertaForSequenceClassification"], "vocab_size": 300, "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 130, "pad_token_id": 1, "type_vocab_size": 1,
        "id2label": {"0": "no", "1": "yes", "2": "maybe"},
    });
    let parsed = ModelConfig::parse(config.to_string().as_bytes()).unwrap();
    let ModelConfig::Encoder(parsed) = parsed else {
        panic!("{parsed:?}")
    };
    assert_eq!(parsed.head, Head::Dense);
    assert_eq!((parsed.context, parsed.first_position), (128, 2));
    assert_eq!(parsed.labels, ["no", "yes", "maybe"]);
    let mut gap = config;
    gap["id2label"] = json!({"0": "no", "2": "maybe"});
    let error = ModelConfig::parse(gap.to_string().as_bytes()).unwrap_err();
    assert!(error.to_string().contains("no 1"), "{error}");
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ModelConfig::parse(&bytes);
    }

    #[test]
    fn any_number_anywhere_never_panics(
        key in 0usize..14, value in any::<i64>(), fraction in any::<f64>(), architecture in 0usize..4,
    ) {
        let keys = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
            "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings",
            "eos_token_id", "sliding_window", "sliding_window_pattern", "pad_token_id",
            "original_max_position_embeddings", "type_vocab_size"];
        let architectures = ["LlamaForCausalLM", "Gemma3ForCausalLM", "Phi3ForCausalLM", "XLMRobertaModel"];
        let mut config = base();
        config["architectures"] = json!([architectures[architecture]]);
        config[keys[key]] = json!(value);
        config["rope_scaling"] = json!({"rope_type": "yarn", "factor": fraction, "beta_fast": fraction});
        let _ = ModelConfig::parse(config.to_string().as_bytes());
    }
}
