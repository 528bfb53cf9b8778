//! Grouped-query attention over paged keys and values.
//!
//! A row's scores, weights and sums run over its positions in order, page by
//! page; which other rows share a page's pass changes none of its bits.

use rayon::prelude::*;

use super::rms_norm_row;
use super::softmax::Softmax;
use crate::kernel::page::{self, PAGE};
use crate::kernel::wide;
use crate::model::cache::{Element, KvCache, KvType};

/// Tokens of a prompt that are attended for together.
const TOKENS: usize = 4;
/// Below this many multiplications attention stays on the calling thread.
const PARALLEL_FROM: usize = 1 << 17;

/// Shapes and rules of one layer's attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttendSpec<'a> {
    pub(crate) layer: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// What scores are multiplied with.
    pub(crate) scale: f32,
    /// Scores are squeezed into ± this.
    pub(crate) softcap: Option<f32>,
    /// A token sees so many positions, its own included; all if none.
    pub(crate) window: Option<usize>,
    /// Whether a token sees only what was before it.
    pub(crate) causal: bool,
    /// Norms of queries and keys, head by head, with their epsilon.
    pub(crate) norms: Option<(&'a [f32], &'a [f32], f32)>,
    /// Queries and keys are turned by their position, if at all.
    pub(crate) rotation: Option<&'a Rotation>,
}

/// Cosines and sines for the rows of a call, `[rows, dims / 2]` each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rotation {
    pub(crate) half: usize,
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
}

impl Rotation {
    /// Rotates the first dimensions of a head, the first half of them against
    /// the second, as Hugging Face's models do; the rest stays.
    #[inline(always)]
    fn turn(&self, row: usize, head: &mut [f32]) {
        let cos = &self.cos[row * self.half..][..self.half];
        let sin = &self.sin[row * self.half..][..self.half];
        let (first, rest) = head.split_at_mut(self.half);
        let pairs = first.iter_mut().zip(&mut rest[..self.half]);
        for ((a, b), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// One stream's rows in a call: so many, after what its cache holds.
pub(crate) struct Segment<'a> {
    pub(crate) tokens: usize,
    pub(crate) cache: &'a mut KvCache,
}

/// Attention for the rows of `qkv`, `[tokens, (heads + 2 kv_heads) × head_dim]`,
/// segment after segment. Keys and values go into each segment's cache, which
/// has room for them. Returns `[tokens, heads × head_dim]`.
pub(crate) fn attend(
    mut qkv: Vec<f32>,
    segments: &mut [Segment<'_>],
    spec: AttendSpec<'_>,
) -> Vec<f32> {
    let width = (spec.heads + 2 * spec.kv_heads) * spec.head_dim;
    let out_width = spec.heads * spec.head_dim;
    let mut out = vec![0.0; qkv.len() / width * out_width];
    let (mut rows, mut rest, mut first) = (&mut *qkv, &mut *out, 0);
    let mut work = Vec::with_capacity(segments.len());
    let mut products = 0;
    for segment in segments {
        let (mine, others) = rows.split_at_mut(segment.tokens * width);
        let (out, others_out) = rest.split_at_mut(segment.tokens * out_width);
        (rows, rest) = (others, others_out);
        products += out.len() * (segment.cache.len() + segment.tokens);
        work.push((mine, first, segment.tokens, &mut *segment.cache, out));
        first += segment.tokens;
    }
    let each = |(qkv, first, tokens, cache, out): (_, _, _, &mut KvCache, _)| {
        let mut segment = Segment { tokens, cache };
        match segment.cache.layout().kind {
            KvType::F16 => one::<u16>(qkv, first, &mut segment, spec, out),
            KvType::F32 => one::<f32>(qkv, first, &mut segment, spec, out),
            KvType::Q8 => one::<i8>(qkv, first, &mut segment, spec, out),
        }
    };
    let alone = work.len() == 1 || rayon::current_thread_index().is_none();
    if alone || products < PARALLEL_FROM {
        work.into_iter().for_each(each);
    } else {
        work.into_par_iter().with_max_len(1).for_each(each);
    }
    out
}

/// One segment, whose first row is the call's `first`.
fn one<E: Element>(
    qkv: &mut [f32],
    first: usize,
    segment: &mut Segment<'_>,
    spec: AttendSpec<'_>,
    out: &mut [f32],
) {
    let AttendSpec {
        heads,
        kv_heads,
        head_dim,
        layer,
        ..
    } = spec;
    let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let start = segment.cache.len();
    for (token, row) in qkv.chunks_exact_mut(q_width + 2 * kv_width).enumerate() {
        let (turning, v) = row.split_at_mut(q_width + kv_width);
        prepare(turning, first + token, spec);
        let k = &turning[q_width..];
        segment.cache.write::<E>(layer, start + token, k, v);
    }
    let call = Call::<E> {
        qkv,
        cache: segment.cache,
        start,
        tokens: segment.tokens,
        spec,
        element: std::marker::PhantomData,
    };
    let threads = rayon::current_thread_index().map_or(1, |_| rayon::current_num_threads());
    let work = q_width * segment.tokens * (start + segment.tokens);
    if threads == 1 || work < PARALLEL_FROM {
        for (index, out) in out.chunks_mut(TOKENS * q_width).enumerate() {
            call.unit(index * TOKENS..segment.tokens, 0..heads, out);
        }
    } else if segment.tokens == 1 {
        let group = (heads / kv_heads).min(heads.div_ceil(threads));
        out.par_chunks_mut(group * head_dim)
            .enumerate()
            .for_each(|(index, out)| {
                let first = index * group;
                call.unit(0..1, first..first + out.len() / head_dim, out);
            });
    } else {
        out.par_chunks_mut(TOKENS * q_width)
            .enumerate()
            .for_each(|(index, out)| call.unit(index * TOKENS..segment.tokens, 0..heads, out));
    }
}

/// Norms and turns the queries and keys of one token.
fn prepare(row: &mut [f32], index: usize, spec: AttendSpec<'_>) {
    let queries = spec.heads;
    let mut normed = Vec::new();
    for (head, values) in row.chunks_exact_mut(spec.head_dim).enumerate() {
        if let Some((q_norm, k_norm, eps)) = spec.norms {
            let weight = if head < queries { q_norm } else { k_norm };
            normed.resize(spec.head_dim, 0.0);
            rms_norm_row(values, weight, eps, &mut normed);
            values.copy_from_slice(&normed);
        }
        if let Some(rotation) = spec.rotation {
            rotation.turn(index, values);
        }
    }
}

struct Call<'a, E> {
    qkv: &'a [f32],
    cache: &'a KvCache,
    start: usize,
    tokens: usize,
    spec: AttendSpec<'a>,
    element: std::marker::PhantomData<E>,
}

impl<E: Element> Call<'_, E> {
    /// Attention of some heads for some tokens: as many as `out` has room for,
    /// rows of tokens with these heads side by side.
    fn unit(&self, tokens: std::ops::Range<usize>, heads: std::ops::Range<usize>, out: &mut [f32]) {
        let width = heads.len() * self.spec.head_dim;
        let tokens = tokens.start..tokens.start + out.len() / width;
        let unit = Unit {
            call: self,
            tokens,
            heads,
            out,
        };
        unit.run();
    }

    /// The positions a token of the segment sees.
    #[inline(always)]
    fn sees(&self, token: usize) -> std::ops::Range<usize> {
        if !self.spec.causal {
            return 0..self.start + self.tokens;
        }
        let end = self.start + token + 1;
        let first = self.spec.window.map_or(0, |w| end.saturating_sub(w));
        first..end
    }

    #[inline(always)]
    fn query(&self, token: usize, head: usize) -> &[f32] {
        let AttendSpec {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.spec;
        let row = (heads + 2 * kv_heads) * head_dim;
        &self.qkv[token * row + head * head_dim..][..head_dim]
    }
}

struct Unit<'a, E> {
    call: &'a Call<'a, E>,
    tokens: std::ops::Range<usize>,
    heads: std::ops::Range<usize>,
    out: &'a mut [f32],
}

/// A query and what it sees.
#[derive(Clone)]
struct Row {
    token: usize,
    head: usize,
    sees: std::ops::Range<usize>,
}

impl<E: Element> Unit<'_, E> {
    fn run(mut self) {
        let group = self.call.spec.heads / self.call.spec.kv_heads;
        let mut scores = Vec::new();
        let mut head = self.heads.start;
        while head < self.heads.end {
            let kv_head = head / group;
            let last = ((kv_head + 1) * group).min(self.heads.end);
            let rows: Vec<Row> = self
                .tokens
                .clone()
                .flat_map(|token| (head..last).map(move |head| (token, head)))
                .map(|(token, head)| Row {
                    token,
                    head,
                    sees: self.call.sees(token),
                })
                .collect();
            self.heads_of(kv_head, &rows, &mut scores);
            head = last;
        }
    }

    /// Rows that share their keys and values.
    fn heads_of(&mut self, kv_head: usize, rows: &[Row], scores: &mut Vec<f32>) {
        let first = rows.iter().map(|row| row.sees.start).min().unwrap_or(0);
        let end = rows.iter().map(|row| row.sees.end).max().unwrap_or(0);
        let pages = first / PAGE..end.div_ceil(PAGE);
        let span = pages.len() * PAGE;
        scores.resize(rows.len() * span, 0.0);
        let (cache, layer) = (self.call.cache, self.call.spec.layer);
        for (index, page) in pages.clone().enumerate() {
            let keys = cache.keys::<E>(page, layer, kv_head);
            self.score_page(rows, keys, (index * PAGE, span), scores);
            if let Some((scales, _)) = cache.scales(page, layer, kv_head) {
                scale_page(scales, (index * PAGE, span), scores);
            }
        }
        for (row, scores) in rows.iter().zip(scores.chunks_exact_mut(span)) {
            let from = row.sees.start - pages.start * PAGE;
            let scores = &mut scores[from..][..row.sees.len()];
            wide(Softmax {
                scores,
                softcap: self.call.spec.softcap,
            });
        }
        for (index, page) in pages.enumerate() {
            let values = cache.values::<E>(page, layer, kv_head);
            if let Some((_, scales)) = cache.scales(page, layer, kv_head) {
                scale_page(scales, (index * PAGE, span), scores);
            }
            self.weigh_page(rows, values, (page, index, span), scores);
        }
    }

    /// The scores of all rows for one page, to `at` of each row's span.
    fn score_page(&self, rows: &[Row], keys: &[E], (at, span): (usize, usize), scores: &mut [f32]) {
        let scale = self.call.spec.scale;
        let mut index = 0;
        while index < rows.len() {
            let rest = &rows[index..];
            let mut put = |found: &[[f32; PAGE]]| {
                for (offset, page) in found.iter().enumerate() {
                    let target = &mut scores[(index + offset) * span + at..][..PAGE];
                    for (target, score) in target.iter_mut().zip(page) {
                        *target = score * scale;
                    }
                }
                found.len()
            };
            index += match rest.len() {
                8.. => put(&page::scores::<E, 8>(self.queries(rest), keys)),
                4.. => put(&page::scores::<E, 4>(self.queries(rest), keys)),
                2.. => put(&page::scores::<E, 2>(self.queries(rest), keys)),
                _ => put(&page::scores::<E, 1>(self.queries(rest), keys)),
            };
        }
    }

    fn queries<const R: usize>(&self, rows: &[Row]) -> [&[f32]; R] {
        std::array::from_fn(|r| self.call.query(rows[r].token, rows[r].head))
    }

    /// Adds one page's values to all rows' outputs. Rows that see the same part
    /// of it share a pass.
    fn weigh_page(
        &mut self,
        rows: &[Row],
        values: &[E],
        (page, index, span): (usize, usize, usize),
        scores: &[f32],
    ) {
        let head_dim = self.call.spec.head_dim;
        let seen = |row: &Row| row.sees.start.max(page * PAGE)..row.sees.end.min((page + 1) * PAGE);
        let mut at = 0;
        while at < rows.len() {
            let part = seen(&rows[at]);
            let rest = &rows[at..];
            let alike = rest.iter().take_while(|row| seen(row) == part).count();
            if part.is_empty() {
                at += alike;
                continue;
            }
            let values = &values[part.start % PAGE * head_dim..];
            let weights = |row: usize| {
                let from = row * span + index * PAGE + part.start % PAGE;
                &scores[from..][..part.len()]
            };
            at += match alike {
                4.. => {
                    self.weigh::<4>(&rest[..4], std::array::from_fn(|r| weights(at + r)), values)
                }
                2.. => {
                    self.weigh::<2>(&rest[..2], std::array::from_fn(|r| weights(at + r)), values)
                }
                _ => self.weigh::<1>(&rest[..1], [weights(at)], values),
            };
        }
    }

    fn weigh<const R: usize>(&mut self, rows: &[Row], weights: [&[f32]; R], values: &[E]) -> usize {
        let head_dim = self.call.spec.head_dim;
        let width = self.heads.len() * head_dim;
        let (first_token, first_head) = (self.tokens.start, self.heads.start);
        let place =
            |row: &Row| (row.token - first_token) * width + (row.head - first_head) * head_dim;
        // Rows are in the order of their outputs, so each is cut off the rest.
        let (mut rest, mut passed) = (&mut *self.out, 0);
        let outs = std::array::from_fn(|r| {
            let (_, after) = std::mem::take(&mut rest).split_at_mut(place(&rows[r]) - passed);
            let (out, after) = after.split_at_mut(head_dim);
            passed = place(&rows[r]) + head_dim;
            rest = after;
            out
        });
        page::weigh(weights, values, outs);
        R
    }
}

/// Multiplies all rows' scores, or weights, for one page with its positions'
/// scales.
fn scale_page(scales: &[f32; PAGE], (at, span): (usize, usize), scores: &mut [f32]) {
    for row in scores.chunks_exact_mut(span) {
        for (score, scale) in row[at..][..PAGE].iter_mut().zip(scales) {
            *score *= scale;
        }
    }
}
