//! `tokenizer.json` from a GGUF file's vocabulary.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::architecture::Architecture;
use super::merges::{self, Merges};
use super::metadata::Metadata;
use super::splits::Split;
use super::vocabulary::{Kind, Vocabulary};
use crate::checkpoint::CheckpointError;

const MODEL: &str = "tokenizer.ggml.model";
const MERGES: &str = "tokenizer.ggml.merges";
/// What SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";

/// The form of Hugging Face's tokenizers library.
#[derive(Serialize)]
struct File<'a> {
    version: &'static str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<Added<'a>>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Model<'a>,
}

/// A token that is found in text before anything else happens to it.
#[derive(Serialize)]
struct Added<'a> {
    id: u32,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Serialize)]
struct Model<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    dropout: Option<f32>,
    unk_token: Option<&'a str>,
    continuing_subword_prefix: Option<&'static str>,
    end_of_word_suffix: Option<&'static str>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    #[serde(serialize_with = "in_order")]
    vocab: Vec<(&'a str, u32)>,
    merges: Merges<'a>,
}

fn in_order<S: Serializer>(vocab: &[(&str, u32)], out: S) -> Result<S::Ok, S::Error> {
    out.collect_map(vocab.iter().copied())
}

/// A tokenizer and what else the file says of how texts begin and end.
pub(super) struct Tokenizer {
    pub(super) json: Vec<u8>,
    pub(super) adds_bos: bool,
    pub(super) adds_eos: bool,
}

impl Tokenizer {
    pub(super) fn build(
        metadata: &Metadata,
        vocabulary: &Vocabulary<'_>,
        architecture: Architecture,
    ) -> Result<Self, CheckpointError> {
        match metadata.text(MODEL)? {
            Some("gpt2") => byte_level(metadata, vocabulary),
            Some("llama") => sentence_piece(metadata, vocabulary, architecture),
            Some(other) => Err(metadata.refuse(MODEL, format!("{other:?}"), "gpt2 or llama")),
            None => Err(metadata.absent(MODEL, "gpt2 or llama")),
        }
    }
}

/// What a text begins and ends with.
struct Ends {
    bos: bool,
    eos: bool,
}

impl Ends {
    fn read(metadata: &Metadata, bos_by_default: bool) -> Result<Self, CheckpointError> {
        let flag = |name: &str| metadata.bool(&format!("tokenizer.ggml.add_{name}_token"));
        Ok(Self {
            bos: flag("bos")?.unwrap_or(bos_by_default),
            eos: flag("eos")?.unwrap_or(false),
        })
    }

    fn post_processor(
        &self,
        metadata: &Metadata,
        vocabulary: &Vocabulary<'_>,
    ) -> Result<Value, CheckpointError> {
        let mut special = Map::new();
        let mut token = |wanted: bool, name: &str, id: Option<u32>| {
            if !wanted {
                return Ok(None);
            }
            let key = format!("tokenizer.ggml.{name}_token_id");
            let id = id.ok_or_else(|| {
                metadata.absent(&key, "a token, as texts are said to have it added")
            })?;
            let text = vocabulary.text(id);
            let entry = json!({"id": text, "ids": [id], "tokens": [text]});
            special.insert(text.to_owned(), entry);
            Ok(Some(text))
        };
        let bos = token(self.bos, "bos", vocabulary.bos)?;
        let eos = token(self.eos, "eos", vocabulary.eos)?;
        if bos.is_none() && eos.is_none() {
            return Ok(Value::Null);
        }
        let template = |sequences: &[(&str, u32)]| -> Value {
            let end =
                |text: &str, kind: u32| json!({"SpecialToken": {"id": text, "type_id": kind}});
            let mut parts = Vec::new();
            for (sequence, kind) in sequences {
                parts.extend(bos.map(|text| end(text, *kind)));
                parts.push(json!({"Sequence": {"id": sequence, "type_id": kind}}));
                parts.extend(eos.map(|text| end(text, *kind)));
            }
            parts.into()
        };
        Ok(json!({
            "type": "TemplateProcessing",
            "single": template(&[("A", 0)]),
            "pair": template(&[("A", 0), ("B", 1)]),
            "special_tokens": special,
        }))
    }
}

fn added<'a>(vocabulary: &Vocabulary<'a>, strips: impl Fn(&str) -> bool) -> Vec<Added<'a>> {
    vocabulary
        .iter()
        .filter_map(|(id, content, kind)| {
            let special = match kind {
                Kind::Control | Kind::Unknown => true,
                Kind::UserDefined => false,
                Kind::Normal | Kind::Unused | Kind::Byte => return None,
            };
            Some(Added {
                id,
                content,
                single_word: false,
                lstrip: false,
                rstrip: strips(content),
                normalized: false,
                special,
            })
        })
        .collect()
}

fn write(file: &File<'_>, ends: &Ends) -> Tokenizer {
    Tokenizer {
        json: serde_json::to_vec(file).expect("plain data has a form in JSON"),
        adds_bos: ends.bos,
        adds_eos: ends.eos,
    }
}

/// Byte-pair encoding over bytes, each written as a printable character.
fn byte_level(
    metadata: &Metadata,
    vocabulary: &Vocabulary<'_>,
) -> Result<Tokenizer, CheckpointError> {
    let split = Split::read(metadata)?;
    let ends = Ends::read(metadata, split.adds_bos && vocabulary.bos.is_some())?;
    let merges = merges::listed(metadata, vocabulary)?
        .ok_or_else(|| metadata.absent(MERGES, "an array of texts"))?;
    let bytes = json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": true,
    });
    let file = File {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: added(vocabulary, |_| false),
        normalizer: split.normalizer(),
        pre_tokenizer: split.pre_tokenizer(),
        post_processor: ends.post_processor(metadata, vocabulary)?,
        decoder: bytes,
        model: Model {
            kind: "BPE",
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: split.ignore_merges,
            // The library gives an added token the id that the model has for
            // its text, so those are here as well.
            vocab: vocabulary.iter().map(|(id, text, _)| (text, id)).collect(),
            merges,
        },
    };
    Ok(write(&file, &ends))
}

/// SentencePiece's byte-pair encoding: characters, and bytes for those that
/// are no token.
fn sentence_piece(
    metadata: &Metadata,
    vocabulary: &Vocabulary<'_>,
    architecture: Architecture,
) -> Result<Tokenizer, CheckpointError> {
    let ends = Ends::read(metadata, true)?;
    let prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?;
    let prefix = prefix.unwrap_or(!architecture.is_gemma());
    let unknown = vocabulary
        .unknown
        .map(|id| vocabulary.text(id))
        .or_else(|| {
            let mut tokens = vocabulary.iter();
            let found = tokens.find(|(_, _, kind)| *kind == Kind::Unknown)?;
            Some(found.1)
        });
    let spelled: Vec<(Cow<'_, str>, u32, Kind)> = vocabulary
        .iter()
        .map(
            |(id, text, kind)| match respelled(text, vocabulary, architecture) {
                Some(text) => (Cow::Owned(text), id, Kind::Normal),
                None => (Cow::Borrowed(text), id, kind),
            },
        )
        .collect();
    let pieces: Vec<(&str, u32, Kind)> = spelled
        .iter()
        .map(|(text, id, kind)| (&**text, *id, *kind))
        .collect();
    let merges = match merges::listed(metadata, vocabulary)? {
        Some(merges) => merges,
        None => merges::implied(metadata, vocabulary, &pieces, architecture.is_gemma())?,
    };
    // Phi-3's tokens swallow the space behind them; no key says so.
    let strips = |text: &str| {
        architecture == Architecture::Phi3 && !["<unk>", "<s>", "<|endoftext|>"].contains(&text)
    };
    let mut added = added(vocabulary, strips);
    added.retain(|token| respelled(token.content, vocabulary, architecture).is_none());
    let file = File {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: added,
        normalizer: normalizer(prefix),
        pre_tokenizer: Value::Null,
        post_processor: ends.post_processor(metadata, vocabulary)?,
        decoder: decoder(prefix),
        model: Model {
            kind: "BPE",
            dropout: None,
            unk_token: unknown,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: true,
            byte_fallback: true,
            ignore_merges: false,
            vocab: pieces.iter().map(|(text, id, _)| (*text, *id)).collect(),
            merges,
        },
    };
    Ok(write(&file, &ends))
}

/// Gemma's runs of spaces are merged like words; files have them with spaces
/// of their own, as tokens to be found in the text. This is such a run in the
/// spelling of the merges, or nothing.
fn respelled(
    text: &str,
    vocabulary: &Vocabulary<'_>,
    architecture: Architecture,
) -> Option<String> {
    let spaces = !text.is_empty() && text.bytes().all(|byte| byte == b' ');
    let spelled = (architecture.is_gemma() && spaces).then(|| SPACE.repeat(text.len()))?;
    vocabulary.id(&spelled).is_none().then_some(spelled)
}

fn normalizer(prefix: bool) -> Value {
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    if !prefix {
        return spaces;
    }
    let prepend = json!({"type": "Prepend", "prepend": SPACE});
    json!({"type": "Sequence", "normalizers": [prepend, spaces]})
}

fn decoder(prefix: bool) -> Value {
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": decoders})
}
