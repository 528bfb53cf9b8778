//! Greedy decoding of many titles at once.

use anyhow::Result;
use burn::tensor::Device;
use tokenizers::Tokenizer;

use crate::batch::{id, pad};
use crate::example::prompt;
use crate::model::Llama;
use crate::tokens::{self, END};

/// Sequences decoded together.
const BATCH: usize = 32;
/// Longest answer, in tokens; the longest label has about half of it.
const MAX_ANSWER: usize = 64;

/// The model's answers to titles, in their order, without the end token.
///
/// Every step computes the whole sequences again: they are short, and the training model has no
/// key-value cache that could differ from the engine's.
///
/// # Errors
///
/// When the tokenizer is not one of this crate's.
pub fn answers(model: &Llama, tokenizer: &Tokenizer, titles: &[String]) -> Result<Vec<String>> {
    let device = Device::flex();
    let (end, pad) = (id(tokenizer, END)?.cast_signed(), pad(tokenizer)?);
    let limit = model.shape().max_positions - MAX_ANSWER;
    let mut sequences: Vec<Sequence> = (titles.iter().enumerate())
        .map(|(place, title)| {
            let ids = tokens::encode(tokenizer, &prompt(title))?;
            let mut ids: Vec<i32> = ids.into_iter().map(u32::cast_signed).collect();
            if ids.len() > limit {
                // The separator stays last.
                ids.drain(limit - 1..ids.len() - 1);
            }
            Ok(Sequence {
                place,
                prompt: ids.len(),
                ids,
            })
        })
        .collect::<Result<_>>()?;
    sequences.sort_by_key(|sequence| sequence.ids.len());
    let mut found = vec![String::new(); titles.len()];
    for chunk in sequences.chunks_mut(BATCH) {
        let mut open: Vec<&mut Sequence> = chunk.iter_mut().collect();
        for _ in 0..MAX_ANSWER {
            if open.is_empty() {
                break;
            }
            let next = step(model, &open, pad, &device);
            for (sequence, token) in open.iter_mut().zip(&next) {
                sequence.ids.push(*token);
            }
            open.retain(|sequence| sequence.ids.last() != Some(&end));
        }
    }
    for sequence in sequences {
        let answer: Vec<u32> = (sequence.ids[sequence.prompt..].iter())
            .filter(|&&token| token != end)
            .map(|token| token.cast_unsigned())
            .collect();
        found[sequence.place] = tokenizer.decode(&answer, false).map_err(tokens::failure)?;
    }
    Ok(found)
}

struct Sequence {
    place: usize,
    prompt: usize,
    ids: Vec<i32>,
}

/// The likeliest next token of each sequence.
fn step(model: &Llama, open: &[&mut Sequence], pad: i32, device: &Device) -> Vec<i32> {
    let length = open
        .iter()
        .map(|sequence| sequence.ids.len())
        .max()
        .unwrap_or(1);
    let mut ids = Vec::with_capacity(open.len() * length);
    let mut rows = Vec::with_capacity(open.len());
    for (i, sequence) in open.iter().enumerate() {
        rows.push(i32::try_from(i * length + sequence.ids.len() - 1).expect("a batch is small"));
        ids.extend(&sequence.ids);
        ids.resize((i + 1) * length, pad);
    }
    let logits = model.logits(model.hidden(&ids, length, device), &rows, device);
    logits.argmax(1).into_data().iter::<i32>().collect()
}
