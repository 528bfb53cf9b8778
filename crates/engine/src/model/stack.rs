//! The layers of an encoder as one operation.
//!
//! The rows of all texts are cut into blocks, and a thread takes a block from
//! attention to the queries, keys and values of the next layer: threads meet
//! once a layer, and a layer's weights stay in the cache they share. A row's
//! bits depend neither on the blocks nor on the threads.

use std::ops::Range;

use burn::module::Module;
use rayon::prelude::*;

use super::layers::PackedLinear;
use super::math::{self, Activation, Blocks, Heads};
use crate::kernel;

/// The most rows of a block: the widest activations of so many stay in a
/// core's own cache.
const MOST_ROWS: usize = 64;
/// The fewest rows of a block: with fewer, reading weights costs more than
/// another thread saves.
const LEAST_ROWS: usize = 4;

/// A norm's weights as the stack reads them.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) eps: f32,
}

/// One layer. Every projection has a bias.
#[derive(Module, Debug)]
pub(super) struct StackLayer {
    pub(super) qkv: PackedLinear,
    pub(super) output: PackedLinear,
    #[module(skip)]
    pub(super) attention_norm: Norm,
    pub(super) up: PackedLinear,
    pub(super) down: PackedLinear,
    #[module(skip)]
    pub(super) norm: Norm,
}

/// What all layers have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct StackRules {
    pub(super) heads: usize,
    pub(super) hidden: usize,
    pub(super) activation: Activation,
}

/// Takes `x`, `[tokens, hidden]`, through all layers; `lengths` are the tokens
/// of its texts, one after the other.
pub(super) fn run(
    mut x: Vec<f32>,
    layers: &[StackLayer],
    lengths: &[usize],
    rules: StackRules,
) -> Vec<f32> {
    let (rows, Some(first)) = (x.len() / rules.hidden, layers.first()) else {
        return x;
    };
    if rows == 0 {
        return x;
    }
    let mut end = 0;
    let texts = lengths.iter().map(|length| {
        end += length;
        end - length..end
    });
    let call = Call {
        texts: texts.collect(),
        block: block_rows(rows, threads()),
        rules,
    };
    let mut qkv = call.each(&mut x, |_, x| linear(x, &first.qkv));
    for (index, layer) in layers.iter().enumerate() {
        let next = layers.get(index + 1).map(|next| &next.qkv);
        qkv = call.each(&mut x, |rows, x| call.pass(layer, next, &qkv, rows, x));
    }
    x
}

fn threads() -> usize {
    rayon::current_thread_index().map_or(1, |_| rayon::current_num_threads())
}

/// Rows of a block, so that every thread has as many blocks as any other where
/// there are rows for it.
fn block_rows(rows: usize, threads: usize) -> usize {
    let blocks = rows.div_ceil(MOST_ROWS).next_multiple_of(threads);
    rows.div_ceil(blocks).max(LEAST_ROWS)
}

struct Call {
    texts: Vec<Range<usize>>,
    block: usize,
    rules: StackRules,
}

impl Call {
    /// Does `work` for every block of rows, on all threads if there are
    /// several blocks.
    fn each(
        &self,
        x: &mut [f32],
        work: impl Fn(Range<usize>, &mut [f32]) -> Vec<f32> + Sync,
    ) -> Vec<Vec<f32>> {
        let hidden = self.rules.hidden;
        let one = |(index, x): (usize, &mut [f32])| {
            let first = index * self.block;
            work(first..first + x.len() / hidden, x)
        };
        let (count, width) = (x.len() / hidden, self.block * hidden);
        if count <= self.block || threads() == 1 {
            return x.chunks_mut(width).enumerate().map(one).collect();
        }
        let blocks = x.par_chunks_mut(width).with_max_len(1).enumerate();
        blocks.map(one).collect()
    }

    /// One layer for one block of rows: what `qkv` is to the layer after it.
    fn pass(
        &self,
        layer: &StackLayer,
        next: Option<&PackedLinear>,
        qkv: &[Vec<f32>],
        rows: Range<usize>,
        x: &mut [f32],
    ) -> Vec<f32> {
        let dim = self.rules.hidden / self.rules.heads;
        let heads = Heads {
            count: self.rules.heads,
            dim,
            scale: 1.0 / (dim as f32).sqrt(),
        };
        let qkv = Blocks {
            blocks: qkv,
            rows: self.block,
        };
        let attended = math::attend_whole(qkv, &self.texts, rows, heads);
        let out = products(&attended, &layer.output);
        math::add_and_norm(x, &out, bias(&layer.output), layer.attention_norm.rule());
        let mut up = products(x, &layer.up);
        math::add_and_activate(&mut up, bias(&layer.up), self.rules.activation);
        let down = products(&up, &layer.down);
        math::add_and_norm(x, &down, bias(&layer.down), layer.norm.rule());
        next.map_or_else(Vec::new, |next| linear(x, next))
    }
}

fn products(x: &[f32], layer: &PackedLinear) -> Vec<f32> {
    kernel::linear_here(x, &layer.parts, layer.path)
}

fn linear(x: &[f32], layer: &PackedLinear) -> Vec<f32> {
    let mut out = products(x, layer);
    math::add_bias(&mut out, bias(layer));
    out
}

fn bias(layer: &PackedLinear) -> &[f32] {
    let bias = layer.bias.as_deref();
    bias.expect("every projection of an encoder is built with a bias")
}

impl Norm {
    fn rule(&self) -> math::LayerNorm<'_> {
        math::LayerNorm {
            weight: &self.weight,
            bias: &self.bias,
            eps: self.eps,
        }
    }
}
