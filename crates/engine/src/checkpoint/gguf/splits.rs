//! How byte-level vocabularies cut text into words before they merge, by the
//! name that the file gives it.

use serde_json::{Value, json};

use super::metadata::Metadata;
use crate::checkpoint::CheckpointError;

const KEY: &str = "tokenizer.ggml.pre";
const SUPPORTED: &str = "llama-bpe, llama3, llama-v3, falcon3, dbrx, smaug-bpe, qwen2, \
     deepseek-r1-qwen, megrez, tekken, gpt-4o, gpt-2, phi-2, default, smollm, starcoder, refact, \
     command-r or exaone";

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a byte-level tokenizer treats text before its merges.
#[derive(Clone, Copy)]
pub(super) struct Split {
    rule: Rule,
    /// Whether text is composed (NFC) first.
    composed: bool,
    /// Whether a word that is a token is that token, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Whether a text begins with `bos` when the file does not say.
    pub(super) adds_bos: bool,
}

#[derive(Clone, Copy)]
enum Rule {
    Pattern(&'static str),
    /// GPT-2's own pattern, which the library has built in.
    Gpt2,
    /// The same, after every digit has been cut out.
    Digits,
}

impl Split {
    pub(super) fn read(metadata: &Metadata) -> Result<Self, CheckpointError> {
        let name = metadata
            .text(KEY)?
            .ok_or_else(|| metadata.absent(KEY, SUPPORTED))?;
        let plain = |rule| Self {
            rule,
            composed: false,
            ignore_merges: false,
            adds_bos: false,
        };
        let whole = |rule| Self {
            ignore_merges: true,
            adds_bos: true,
            ..plain(rule)
        };
        Ok(match name {
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" => whole(Rule::Pattern(LLAMA3)),
            "dbrx" | "smaug-bpe" => plain(Rule::Pattern(LLAMA3)),
            "qwen2" => Self {
                composed: true,
                ..plain(Rule::Pattern(QWEN2))
            },
            "deepseek-r1-qwen" | "megrez" => plain(Rule::Pattern(QWEN2)),
            "tekken" => whole(Rule::Pattern(TEKKEN)),
            "gpt-4o" => plain(Rule::Pattern(GPT4O)),
            "gpt-2" | "phi-2" | "default" => plain(Rule::Gpt2),
            "smollm" | "starcoder" | "refact" | "command-r" | "exaone" => plain(Rule::Digits),
            _ => return Err(metadata.refuse(KEY, format!("{name:?}"), SUPPORTED)),
        })
    }

    pub(super) fn normalizer(self) -> Value {
        match self.composed {
            true => json!({"type": "NFC"}),
            false => Value::Null,
        }
    }

    pub(super) fn pre_tokenizer(self) -> Value {
        let bytes = |pattern: bool| {
            json!({
                "type": "ByteLevel",
                "add_prefix_space": false,
                "trim_offsets": true,
                "use_regex": pattern,
            })
        };
        let first = match self.rule {
            Rule::Gpt2 => return bytes(true),
            Rule::Digits => json!({"type": "Digits", "individual_digits": true}),
            Rule::Pattern(pattern) => json!({
                "type": "Split",
                "pattern": {"Regex": pattern},
                "behavior": "Isolated",
                "invert": false,
            }),
        };
        let then = bytes(matches!(self.rule, Rule::Digits));
        json!({"type": "Sequence", "pretokenizers": [first, then]})
    }
}
