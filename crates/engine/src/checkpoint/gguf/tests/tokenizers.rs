use serde_json::Value;
use tokenizers::Tokenizer;

use super::{golden, open};

fn tokenizer(name: &str) -> Tokenizer {
    let json = open(name).tokenizer_json;
    Tokenizer::from_bytes(json).expect("the library accepts it")
}

#[test]
fn text_becomes_the_tokens_of_the_original_tokenizer() {
    for name in ["llama3", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"] {
        let tokenizer = tokenizer(&format!("{name}.gguf"));
        let golden = golden(&format!("{name}.json"));
        for case in golden["encodings"].as_array().expect("an array") {
            let text = case["text"].as_str().expect("a text");
            let expected: Vec<u64> = case["ids"]
                .as_array()
                .expect("an array")
                .iter()
                .filter_map(Value::as_u64)
                .collect();
            let found = tokenizer.encode(text, true).expect("text encodes");
            let found: Vec<u64> = found.get_ids().iter().map(|id| u64::from(*id)).collect();
            assert_eq!(found, expected, "{name}: {text:?}");
        }
    }
}

#[test]
fn tokens_become_the_text_again() {
    let text = "where's the caf\u{e9}?  \u{6771}\u{4eac} \u{1f600} 12";
    for name in ["llama3", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"] {
        let tokenizer = tokenizer(&format!("{name}.gguf"));
        let encoded = tokenizer.encode(text, true).expect("text encodes");
        let decoded = tokenizer.decode(encoded.get_ids(), true);
        assert_eq!(decoded.expect("tokens decode"), text, "{name}");
    }
}

#[test]
fn special_tokens_have_the_files_ids() {
    let llama = tokenizer("llama3.gguf");
    assert_eq!(llama.token_to_id("<|begin|>"), Some(301));
    assert_eq!(llama.token_to_id("<|end|>"), Some(303));
    let phi = tokenizer("phi3.gguf");
    // The space behind it belongs to the token.
    let encoded = phi.encode("<|user|> the", false).expect("text encodes");
    let apart = phi.encode("<|user|>the", false).expect("text encodes");
    assert_eq!(encoded.get_ids(), apart.get_ids());
    assert_eq!(encoded.get_ids()[0], 352);
}

#[test]
fn what_only_fills_the_embedding_is_no_token() {
    let qwen = tokenizer("qwen2.gguf");
    assert_eq!(qwen.get_vocab_size(true), 304);
    assert_eq!(qwen.id_to_token(310), None);
}
