//! The tokenizer: byte-level BPE whose pieces never depend on what stands beside a word.
//!
//! Whitespace and punctuation are pieces of their own and Thai, which has no spaces, is cut at
//! every consonant cluster. So a brand is the same token sequence at the start of a title, in the
//! middle of a Thai phrase and inside the JSON answer, and the model can copy it.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::Trainer;
use tokenizers::{
    AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
};

/// Opens a prompt.
pub const TITLE: &str = "<|title|>";
/// Between the title and the answer.
pub const EXTRACT: &str = "<|extract|>";
/// Ends an answer.
pub const END: &str = "<|end|>";
/// Fills a batch.
pub const PAD: &str = "<|pad|>";

/// Tokens that a decoder may hide.
pub const SPECIAL: [&str; 4] = [TITLE, EXTRACT, END, PAD];

/// Stretches of the answer that are always the same, one visible token each.
pub const SCAFFOLD: [&str; 9] = [
    r#"{"brand":""#,
    r#"{"brand":null,"category":""#,
    r#"","category":""#,
    r#"","language":"en"}"#,
    r#"","language":"th"}"#,
    r#"","language":"mixed"}"#,
    r#"{"brand":null,"category":null,"language":"en"}"#,
    r#"{"brand":null,"category":null,"language":"th"}"#,
    r#"{"brand":null,"category":null,"language":"mixed"}"#,
];

/// A Thai cluster, a run of other letters, up to three digits, a run of white space, or one sign.
const PIECES: &str = r"[เ-ไ]?[ก-ฮ][ะ-ฺๅ็-๎]*|(?:[^\P{L}ก-๏]\p{M}*)+|\p{N}{1,3}|\s+|[^\s]";

/// A tokenizer with `vocab` entries in all, trained on `texts` (each with its weight).
///
/// # Errors
///
/// When the library refuses a step.
pub fn train(texts: &[(String, u64)], vocab: usize) -> Result<Tokenizer> {
    let pieces = pieces()?;
    let mut words: HashMap<String, u64> = HashMap::new();
    for (text, weight) in texts {
        for word in split(&pieces, text)? {
            *words.entry(word).or_default() += weight;
        }
    }
    let mut words: Vec<(String, u64)> = words.into_iter().collect();
    words.sort();
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .min_frequency(2)
        .vocab_size(vocab - SPECIAL.len() - SCAFFOLD.len())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let repeated = words
        .iter()
        .flat_map(|(word, count)| std::iter::repeat_n(word.as_str(), *count as usize));
    trainer
        .feed(repeated, |word| Ok(vec![word.to_owned()]))
        .map_err(failure)?;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(failure)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(pieces));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, false)));
    tokenizer.add_special_tokens(&SPECIAL.map(|text| AddedToken::from(text, true)));
    tokenizer.add_tokens(&SCAFFOLD.map(|text| AddedToken::from(text, false).normalized(false)));
    Ok(tokenizer)
}

/// Reads a `tokenizer.json`.
///
/// # Errors
///
/// When the file is missing or malformed.
pub fn load(path: &Path) -> Result<Tokenizer> {
    Tokenizer::from_file(path).map_err(failure)
}

/// Token ids of `text`; the special tokens and the scaffold are recognised in it.
///
/// # Errors
///
/// When the library refuses the text.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoding = tokenizer.encode_fast(text, false).map_err(failure)?;
    Ok(encoding.get_ids().to_vec())
}

fn pieces() -> Result<PreTokenizerWrapper> {
    let pattern = SplitPattern::Regex(PIECES.to_owned());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failure)?;
    Ok(Sequence::new(vec![
        split.into(),
        ByteLevel::new(false, true, false).into(),
    ])
    .into())
}

fn split(pieces: &PreTokenizerWrapper, text: &str) -> Result<Vec<String>> {
    let mut parts = PreTokenizedString::from(text);
    pieces.pre_tokenize(&mut parts).map_err(failure)?;
    Ok(parts
        .get_splits(OffsetReferential::Original, OffsetType::Byte)
        .into_iter()
        .map(|(part, _, _)| part.to_owned())
        .collect())
}

/// The library's errors are boxed without `Sync + 'static` guarantees that `anyhow` wants.
pub(crate) fn failure(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("tokenizer: {error}")
}
