//! GGUF files: one file with everything, in llama.cpp's terms, read in Hugging
//! Face's.
//!
//! ```text
//! "GGUF" version counts │ keys: shape, rope, vocabulary │ tensor table │ data
//!                         └▶ config.json, tokenizer.json   └▶ names, un-done changes
//! ```
//!
//! What conversion did to the weights is undone as they are read: the rows of
//! Llama's queries and keys return to their places, Gemma's norms lose the one
//! that was added.

mod architecture;
mod blocks;
mod config;
mod cursor;
mod header;
mod k_blocks;
mod merges;
mod metadata;
mod rope;
mod shape;
mod splits;
mod tensors;
mod tokenizer;
mod vocabulary;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::architecture::Architecture;
use self::config::Source;
use self::header::Header;
use self::metadata::Metadata;
use self::rope::Rope;
use self::shape::Shape;
use self::tensors::GgufTensors;
use self::tokenizer::Tokenizer;
use self::vocabulary::{Kind, Vocabulary};
use super::{Checkpoint, CheckpointError, ReadAt};

const TEMPLATE: &str = "tokenizer.chat_template";
/// Tokens that end a turn in one family or another. A file with a chat
/// template that has them means them, though its keys name but one.
const TURN_ENDS: [&str; 7] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<end_of_turn>",
];

/// Opens a GGUF file, which errors call `file_name`.
pub(super) fn open(file_name: &str, file: Box<dyn ReadAt>) -> Result<Checkpoint, CheckpointError> {
    let header = Header::read(file_name, &*file)?;
    let metadata = &header.metadata;
    refuse_splits(metadata)?;
    let architecture = Architecture::of(metadata)?;
    let shape = Shape::read(metadata, architecture)?;
    let vocabulary = Vocabulary::read(metadata)?;
    let rope = Rope::read(&header, &*file, architecture, &shape)?;
    let source = Source {
        header: &header,
        architecture,
        shape: &shape,
        rope: &rope,
        vocabulary: &vocabulary,
    };
    let config_json = source.json()?;
    let tokenizer = Tokenizer::build(metadata, &vocabulary, architecture)?;
    let side = side(metadata, &vocabulary, &tokenizer)?;
    let name = name(metadata, file_name)?;
    drop(vocabulary);
    let tensors = GgufTensors::new(file_name, file, header.tensors, architecture, &shape)?;
    Ok(Checkpoint {
        config_json,
        tokenizer_json: tokenizer.json,
        side,
        tensors: Box::new(tensors),
        name,
    })
}

fn refuse_splits(metadata: &Metadata) -> Result<(), CheckpointError> {
    let key = "split.count";
    match metadata.unsigned(key)? {
        Some(count) if count > 1 => Err(metadata.refuse(
            key,
            count.to_string(),
            "one file: merge the parts with llama.cpp's gguf-split --merge",
        )),
        _ => Ok(()),
    }
}

/// What the file calls itself, or is called.
fn name(metadata: &Metadata, file_name: &str) -> Result<String, CheckpointError> {
    let own = metadata.text("general.name")?.map(str::trim);
    let stem = file_name
        .rsplit_once('.')
        .map_or(file_name, |(stem, _)| stem);
    Ok(own.filter(|own| !own.is_empty()).unwrap_or(stem).to_owned())
}

fn side(
    metadata: &Metadata,
    vocabulary: &Vocabulary<'_>,
    tokenizer: &Tokenizer,
) -> Result<BTreeMap<&'static str, Vec<u8>>, CheckpointError> {
    let template = metadata.text(TEMPLATE)?;
    let mut ends: Vec<u32> = vocabulary.eos.into_iter().collect();
    ends.extend(&vocabulary.ends);
    if template.is_some() {
        let tokens = vocabulary.iter();
        let turn_ends = tokens
            .filter(|(_, text, kind)| *kind == Kind::Control && TURN_ENDS.contains(text))
            .map(|(id, _, _)| id);
        ends.extend(turn_ends);
    }
    let mut distinct: Vec<u32> = Vec::new();
    for end in ends {
        if !distinct.contains(&end) {
            distinct.push(end);
        }
    }
    let text = |id: Option<u32>| id.map(|id| vocabulary.text(id));
    let files = [
        (
            "generation_config.json",
            json!({"bos_token_id": vocabulary.bos, "eos_token_id": distinct}),
        ),
        (
            "tokenizer_config.json",
            json!({
                "add_bos_token": tokenizer.adds_bos,
                "add_eos_token": tokenizer.adds_eos,
                "bos_token": text(vocabulary.bos),
                "eos_token": text(vocabulary.eos),
                "unk_token": text(vocabulary.unknown),
                "pad_token": text(vocabulary.padding),
                "clean_up_tokenization_spaces": false,
                "tokenizer_class": "PreTrainedTokenizerFast",
            }),
        ),
    ];
    let mut side: BTreeMap<&'static str, Vec<u8>> = files
        .into_iter()
        .map(|(name, json): (&'static str, Value)| (name, format!("{json:#}\n").into_bytes()))
        .collect();
    if let Some(template) = template {
        side.insert("chat_template.jinja", template.as_bytes().to_vec());
    }
    Ok(side)
}

#[cfg(test)]
mod tests;
