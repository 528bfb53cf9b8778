//! The merges of a byte-pair vocabulary: as the file lists them, or as its
//! scores imply them.

use std::collections::HashMap;

use super::metadata::Metadata;
use super::vocabulary::{Kind, Vocabulary};
use crate::checkpoint::CheckpointError;

const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
/// Several times what the largest vocabularies imply.
const MAX_MERGES: usize = 1 << 22;
/// Every way to cut a piece in two is tried, so that its length is bounded.
const MAX_PIECE: usize = 256;

/// Two tokens that become one, the most urgent pair first.
pub(super) type Merges<'a> = Vec<(&'a str, &'a str)>;

/// The merges that the file lists, if it does.
pub(super) fn listed<'a>(
    metadata: &'a Metadata,
    vocabulary: &Vocabulary<'a>,
) -> Result<Option<Merges<'a>>, CheckpointError> {
    let Some(texts) = metadata.texts(MERGES)? else {
        return Ok(None);
    };
    let mut merges = Vec::with_capacity(texts.len());
    let mut whole = String::new();
    for (at, text) in texts.iter().enumerate() {
        // A part may begin with the space itself.
        let cut = text.char_indices().skip(1).find(|(_, c)| *c == ' ');
        let parts = cut.map(|(cut, _)| (&text[..cut], &text[cut + 1..]));
        let known = parts.filter(|(left, right)| {
            whole.clear();
            whole.push_str(left);
            whole.push_str(right);
            [left, right, &whole.as_str()]
                .iter()
                .all(|part| vocabulary.id(part).is_some())
        });
        let Some(parts) = known else {
            let shown: String = text.chars().take(64).collect();
            return Err(metadata.refuse(
                MERGES,
                format!("merge {at} is {shown:?}"),
                "two tokens that make a third, with a space between them",
            ));
        };
        merges.push(parts);
    }
    Ok(Some(merges))
}

/// One way to make a piece.
struct Pair<'a> {
    left: &'a str,
    right: &'a str,
    score: f32,
    piece: u32,
    /// In characters.
    lengths: (usize, usize),
}

/// The merges that scores imply: every way to make a piece of two others, the
/// best piece first and of its pairs the one with the longest left part. That
/// is how SentencePiece vocabularies are turned into merges elsewhere, so the
/// tokens are the same.
///
/// `by_id` is for vocabularies whose order is the order of merging and whose
/// scores are not.
pub(super) fn implied<'a>(
    metadata: &Metadata,
    vocabulary: &Vocabulary<'a>,
    pieces: &[(&'a str, u32, Kind)],
    by_id: bool,
) -> Result<Merges<'a>, CheckpointError> {
    let scores = metadata
        .floats(SCORES)?
        .ok_or_else(|| metadata.absent(SCORES, "a number for each token"))?;
    if scores.len() != vocabulary.len() {
        let expected = format!("{}, one for each token", vocabulary.len());
        return Err(metadata.refuse(SCORES, format!("{} numbers", scores.len()), expected));
    }
    let merged: HashMap<&str, u32> = pieces
        .iter()
        .filter(|(_, _, kind)| *kind == Kind::Normal)
        .map(|(text, id, _)| (*text, *id))
        .collect();
    let score = |id: u32| scores.get(id as usize).copied().unwrap_or(0.0);
    // Some converters write one score for all; the order is still there.
    let first = merged.values().next().map(|id| score(*id));
    let by_id = by_id || merged.values().all(|id| Some(score(*id)) == first);
    let mut pairs = Vec::new();
    for (&text, &piece) in &merged {
        if text.len() > MAX_PIECE {
            return Err(metadata.refuse(
                "tokenizer.ggml.tokens",
                format!("token {piece} has {} bytes", text.len()),
                format!("at most {MAX_PIECE} in a vocabulary of this kind"),
            ));
        }
        let score = if by_id { -(piece as f32) } else { score(piece) };
        let length = text.chars().count();
        for (nth, (cut, _)) in text.char_indices().enumerate().skip(1) {
            let (left, right) = text.split_at(cut);
            if merged.contains_key(left) && merged.contains_key(right) {
                pairs.push(Pair {
                    left,
                    right,
                    score,
                    piece,
                    lengths: (nth, length - nth),
                });
            }
        }
        if pairs.len() > MAX_MERGES {
            return Err(metadata.refuse(
                "tokenizer.ggml.tokens",
                format!("more than {MAX_MERGES} merges are implied"),
                "fewer",
            ));
        }
    }
    pairs.sort_unstable_by(|a, b| {
        b.score
            .total_cmp(&a.score)
            .then_with(|| b.lengths.cmp(&a.lengths))
            .then_with(|| a.piece.cmp(&b.piece))
    });
    Ok(pairs
        .into_iter()
        .map(|pair| (pair.left, pair.right))
        .collect())
}
