//! Attention over whole texts: every token sees every token of its text.
//!
//! No cache is kept, so keys and values are laid out as pages only while a
//! head is attended for. A row's scores, weights and sums run over its
//! positions in order; which rows share a pass changes none of its bits.

use std::ops::Range;

use super::softmax::softmax;
use crate::kernel::page::{self, PAGE};
use crate::kernel::{Work, wide};

/// The most queries that share a pass over keys and values.
const QUERIES: usize = 6;

/// Rows of queries, keys and values side by side, of all texts of a call, in
/// blocks of so many rows.
#[derive(Clone, Copy)]
pub(crate) struct Blocks<'a> {
    pub(crate) blocks: &'a [Vec<f32>],
    /// Rows of each block but the last, which may have fewer.
    pub(crate) rows: usize,
}

/// Heads of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) count: usize,
    pub(crate) dim: usize,
    /// What scores are multiplied with.
    pub(crate) scale: f32,
}

/// Attention for some rows of a call whose texts are these ranges of its rows.
/// Returns `[rows.len(), heads × dim]`.
pub(crate) fn attend_whole(
    qkv: Blocks<'_>,
    texts: &[Range<usize>],
    rows: Range<usize>,
    heads: Heads,
) -> Vec<f32> {
    let width = heads.count * heads.dim;
    let mut out = vec![0.0; rows.len() * width];
    let mut room = Room::default();
    for text in texts {
        let mine = rows.start.max(text.start)..rows.end.min(text.end);
        if mine.is_empty() {
            continue;
        }
        let out = &mut out[(mine.start - rows.start) * width..][..mine.len() * width];
        for head in 0..heads.count {
            room.lay_out(qkv, text.clone(), (head, heads));
            let mut first = mine.start;
            for passes in (1..=mine.len().div_ceil(QUERIES)).rev() {
                let count = (mine.end - first).div_ceil(passes);
                let pass = Pass {
                    room: &mut room,
                    qkv,
                    first,
                    head,
                    heads,
                };
                let out = &mut out[(first - mine.start) * width..];
                match count {
                    1 => pass.run::<1>(out),
                    2 => pass.run::<2>(out),
                    3 => pass.run::<3>(out),
                    4 => pass.run::<4>(out),
                    5 => pass.run::<5>(out),
                    _ => pass.run::<QUERIES>(out),
                }
                first += count;
            }
        }
    }
    out
}

/// One head's keys and values of one text, and the scores of a pass.
#[derive(Default)]
struct Room {
    positions: usize,
    /// A page after the other, `[dim, 16]` each.
    keys: Vec<f32>,
    /// `[positions, dim]`.
    values: Vec<f32>,
    scores: Vec<f32>,
}

impl Room {
    fn lay_out(&mut self, qkv: Blocks<'_>, text: Range<usize>, (head, heads): (usize, Heads)) {
        let Heads { count, dim, .. } = heads;
        self.positions = text.len();
        let pages = text.len().div_ceil(PAGE);
        // What is left in a last page's empty positions is multiplied, but no
        // sum sees it.
        self.keys.resize(pages * PAGE * dim, 0.0);
        self.values.clear();
        for (position, row) in text.enumerate() {
            let row = qkv.row(row, 3 * count * dim);
            let key = &row[(count + head) * dim..][..dim];
            let page = &mut self.keys[position / PAGE * PAGE * dim..][..PAGE * dim];
            for (cells, key) in page.chunks_exact_mut(PAGE).zip(key) {
                cells[position % PAGE] = *key;
            }
            self.values
                .extend_from_slice(&row[(2 * count + head) * dim..][..dim]);
        }
    }
}

impl<'a> Blocks<'a> {
    #[inline(always)]
    fn row(self, row: usize, width: usize) -> &'a [f32] {
        &self.blocks[row / self.rows][row % self.rows * width..][..width]
    }
}

/// Some rows of one head, from `first` on.
struct Pass<'a> {
    room: &'a mut Room,
    qkv: Blocks<'a>,
    first: usize,
    head: usize,
    heads: Heads,
}

impl Pass<'_> {
    /// Into rows of all heads side by side.
    fn run<const R: usize>(self, out: &mut [f32]) {
        let Heads { count, dim, scale } = self.heads;
        let at = self.head * dim;
        let queries: [&[f32]; R] =
            std::array::from_fn(|r| &self.qkv.row(self.first + r, 3 * count * dim)[at..][..dim]);
        let Room {
            positions,
            keys,
            values,
            scores,
        } = self.room;
        let span = positions.next_multiple_of(PAGE);
        scores.resize(R * span, 0.0);
        for (index, keys) in keys.chunks_exact(PAGE * dim).enumerate() {
            let found: [[f32; PAGE]; R] = page::scores(queries, keys);
            for (row, found) in scores.chunks_exact_mut(span).zip(found) {
                row[index * PAGE..][..PAGE].copy_from_slice(&found);
            }
        }
        wide(Weights {
            scores,
            span,
            positions: *positions,
            scale,
        });
        let mut rows = out.chunks_exact_mut(count * dim);
        let outs = std::array::from_fn(|_| {
            let row = rows.next().expect("a pass has no more rows than are left");
            &mut row[at..][..dim]
        });
        let weights = std::array::from_fn(|r| &scores[r * span..][..*positions]);
        page::weigh::<f32, R>(weights, values, outs);
    }
}

/// Scores become weights, row by row.
struct Weights<'a> {
    scores: &'a mut [f32],
    span: usize,
    positions: usize,
    scale: f32,
}

impl Work for Weights<'_> {
    #[inline(always)]
    fn run(self) {
        for row in self.scores.chunks_exact_mut(self.span) {
            let row = &mut row[..self.positions];
            row.iter_mut().for_each(|score| *score *= self.scale);
            softmax(row, None);
        }
    }
}
