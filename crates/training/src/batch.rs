//! From examples to the arrays a training step takes.

use anyhow::{Context, Result};
use rayon::prelude::*;
use tokenizers::Tokenizer;

use crate::example::{Category, Example};
use crate::tokens::{self, EXTRACT, PAD, SCAFFOLD};

/// An example as token ids.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Prompt and answer.
    pub ids: Vec<i32>,
    /// Length of the prompt.
    pub prompt: usize,
    /// Length of prompt and answer up to the end of the brand.
    pub brand_end: usize,
    /// Whether the category is labelled.
    pub labelled: bool,
}

/// Sequences of one length.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[sequences, length]`, row-major, filled up at the right.
    pub tokens: Vec<i32>,
    /// Tokens a sequence.
    pub length: usize,
    /// Where an answer token is predicted, as `sequence * length + position`.
    pub rows: Vec<i32>,
    /// The token to predict there.
    pub targets: Vec<i32>,
    /// Tokens that are not filling.
    pub useful: usize,
}

/// Encodes examples, in parallel and in order.
///
/// # Errors
///
/// When the tokenizer refuses a text, which it does for none.
pub fn encode_all(tokenizer: &Tokenizer, examples: &[Example]) -> Result<Vec<Encoded>> {
    (examples.par_iter())
        .map(|example| encode(tokenizer, example))
        .collect()
}

/// Encodes one example.
///
/// # Errors
///
/// When the tokenizer refuses the text, which it does for none.
pub fn encode(tokenizer: &Tokenizer, example: &Example) -> Result<Encoded> {
    let text = example.prompt() + &example.answer();
    let ids = tokens::encode(tokenizer, &text)?;
    let extract = id(tokenizer, EXTRACT)?;
    let prompt = 1
        + (ids.iter())
            .rposition(|&token| token == extract)
            .context("the prompt has no separator")?;
    // The brand ends with the token that opens the category, whichever of the three it is.
    let closing = SCAFFOLD[2];
    let closing = id(tokenizer, closing)?;
    let brand_end = match &example.brand {
        Some(_) => {
            1 + (ids.iter())
                .rposition(|&token| token == closing)
                .context("the answer has no category")?
        }
        None => prompt + 1,
    };
    Ok(Encoded {
        ids: ids.into_iter().map(u32::cast_signed).collect(),
        prompt,
        brand_end,
        labelled: example.category != Category::Unlabelled,
    })
}

/// Groups sequences of like length into batches of `size`.
#[must_use]
pub fn group(mut encoded: Vec<Encoded>, size: usize, pad: i32) -> Vec<Batch> {
    encoded.sort_by_key(|one| one.ids.len());
    encoded
        .chunks(size)
        .map(|chunk| batch(chunk, pad))
        .collect()
}

/// One batch of all of `chunk`.
#[must_use]
pub fn batch(chunk: &[Encoded], pad: i32) -> Batch {
    let length = chunk.iter().map(|one| one.ids.len()).max().unwrap_or(1);
    let mut made = Batch {
        tokens: Vec::with_capacity(chunk.len() * length),
        length,
        rows: Vec::new(),
        targets: Vec::new(),
        useful: 0,
    };
    for (sequence, one) in chunk.iter().enumerate() {
        made.tokens.extend(&one.ids);
        made.tokens.resize((sequence + 1) * length, pad);
        made.useful += one.ids.len();
        // An unlabelled row teaches nothing behind its brand.
        let scored = if one.labelled {
            one.ids.len()
        } else {
            one.brand_end
        };
        for position in one.prompt - 1..scored - 1 {
            let row = sequence * length + position;
            made.rows
                .push(i32::try_from(row).expect("a batch is small"));
            made.targets.push(one.ids[position + 1]);
        }
    }
    made
}

/// The id of a token that every tokenizer of this crate has.
///
/// # Errors
///
/// When the tokenizer is not one of this crate's.
pub fn id(tokenizer: &Tokenizer, token: &str) -> Result<u32> {
    tokenizer
        .token_to_id(token)
        .with_context(|| format!("the tokenizer lacks {token}"))
}

/// The id that fills a batch.
///
/// # Errors
///
/// When the tokenizer is not one of this crate's.
pub fn pad(tokenizer: &Tokenizer) -> Result<i32> {
    Ok(id(tokenizer, PAD)?.cast_signed())
}
