//! The row functions between the linear layers, in a fixed order.
//!
//! Each output row depends on its input row alone, sums run over eight lanes
//! in a fixed order, and nothing calls the system's math library. Results are
//! therefore the same whatever the processor's vector width, the thread count
//! and the number of rows in a call.

mod attend;
mod functions;
mod softmax;
mod whole;

use rayon::prelude::*;

pub(crate) use attend::{AttendSpec, Rotation, Segment, attend};
pub(crate) use functions::{Activation, exp, tanh};
pub(crate) use whole::{Blocks, Heads, attend_whole};

use crate::kernel::{Work, wide};

/// Below this many values a call stays on the calling thread.
const PARALLEL_FROM: usize = 1 << 15;

/// A function from rows to rows.
trait Rows: Sync {
    fn run(&self, x: &[f32], out: &mut [f32]);
}

/// Some rows of a call, as work for wide registers.
struct Part<'a, R> {
    rows: &'a R,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl<R: Rows> Work for Part<'_, R> {
    #[inline(always)]
    fn run(self) {
        self.rows.run(self.x, self.out);
    }
}

/// Runs `rows` over rows of `width`, which become rows of `out_width`; many of
/// them on all threads.
fn over_rows(rows: &impl Rows, x: &[f32], width: usize, out_width: usize) -> Vec<f32> {
    let count = x.len() / width;
    let mut out = vec![0.0; count * out_width];
    let threads = rayon::current_thread_index().map_or(1, |_| rayon::current_num_threads());
    if threads == 1 || count == 1 || x.len() < PARALLEL_FROM {
        let whole = &mut out;
        wide(Part {
            rows,
            x,
            out: whole,
        });
        return out;
    }
    let each = count.div_ceil(threads);
    let parts = out.par_chunks_mut(each * out_width);
    parts.zip(x.par_chunks(each * width)).for_each(|(out, x)| {
        wide(Part { rows, x, out });
    });
    out
}

/// `x / rms(x) × weight` for each row of `weight.len()` values.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    over_rows(&RmsNorm { weight, eps }, x, weight.len(), weight.len())
}

struct RmsNorm<'a> {
    weight: &'a [f32],
    eps: f32,
}

impl Rows for RmsNorm<'_> {
    #[inline(always)]
    fn run(&self, x: &[f32], out: &mut [f32]) {
        let width = self.weight.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            rms_norm_row(x, self.weight, self.eps, out);
        }
    }
}

#[inline(always)]
fn rms_norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let inverse = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = weight * (x * inverse);
    }
}

/// `(x − mean) / deviation × weight + bias` for each row.
pub(crate) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    over_rows(
        &LayerNorm { weight, bias, eps },
        x,
        weight.len(),
        weight.len(),
    )
}

/// A norm by mean and deviation.
#[derive(Clone, Copy)]
pub(crate) struct LayerNorm<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) eps: f32,
}

impl Rows for LayerNorm<'_> {
    #[inline(always)]
    fn run(&self, x: &[f32], out: &mut [f32]) {
        let width = self.weight.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            out.copy_from_slice(x);
            self.row(out);
        }
    }
}

impl LayerNorm<'_> {
    #[inline(always)]
    fn row(&self, x: &mut [f32]) {
        let width = self.weight.len() as f32;
        let mean = sum(x) / width;
        x.iter_mut().for_each(|x| *x -= mean);
        let inverse = 1.0 / (dot(x, x) / width + self.eps).sqrt();
        for ((x, weight), bias) in x.iter_mut().zip(self.weight).zip(self.bias) {
            *x = *x * inverse * weight + bias;
        }
    }
}

/// `layer_norm(x + (added + bias))` in place, on the calling thread.
pub(crate) fn add_and_norm(x: &mut [f32], added: &[f32], bias: &[f32], norm: LayerNorm<'_>) {
    wide(AddAndNorm {
        x,
        added,
        bias,
        norm,
    });
}

struct AddAndNorm<'a> {
    x: &'a mut [f32],
    added: &'a [f32],
    bias: &'a [f32],
    norm: LayerNorm<'a>,
}

impl Work for AddAndNorm<'_> {
    #[inline(always)]
    fn run(self) {
        let width = self.bias.len();
        let rows = self.x.chunks_exact_mut(width);
        for (x, added) in rows.zip(self.added.chunks_exact(width)) {
            for ((x, added), bias) in x.iter_mut().zip(added).zip(self.bias) {
                *x += added + bias;
            }
            self.norm.row(x);
        }
    }
}

/// `activation(x + bias)` in place, on the calling thread.
pub(crate) fn add_and_activate(x: &mut [f32], bias: &[f32], activation: Activation) {
    wide(AddAndActivate {
        x,
        bias,
        activation,
    });
}

struct AddAndActivate<'a> {
    x: &'a mut [f32],
    bias: &'a [f32],
    activation: Activation,
}

impl Work for AddAndActivate<'_> {
    #[inline(always)]
    fn run(self) {
        let mut room = [0.0; 256];
        for row in self.x.chunks_exact_mut(self.bias.len()) {
            for (x, bias) in row.chunks_mut(256).zip(self.bias.chunks(256)) {
                let room = &mut room[..x.len()];
                for ((room, x), bias) in room.iter_mut().zip(&*x).zip(bias) {
                    *room = x + bias;
                }
                self.activation.apply(room, x);
            }
        }
    }
}

/// `activation(gate) × up` for rows that hold `width` gates, then as many ups.
pub(crate) fn gated(gate_up: &[f32], width: usize, activation: Activation) -> Vec<f32> {
    over_rows(&Gated { width, activation }, gate_up, 2 * width, width)
}

struct Gated {
    width: usize,
    activation: Activation,
}

impl Rows for Gated {
    #[inline(always)]
    fn run(&self, x: &[f32], out: &mut [f32]) {
        let rows = x.chunks_exact(2 * self.width);
        for (row, out) in rows.zip(out.chunks_exact_mut(self.width)) {
            let (gate, up) = row.split_at(self.width);
            self.activation.apply(gate, out);
            for (out, up) in out.iter_mut().zip(up) {
                *out *= up;
            }
        }
    }
}

/// `activation(x)`, value by value, for rows of `width`.
pub(crate) fn activate(x: &[f32], width: usize, activation: Activation) -> Vec<f32> {
    over_rows(&Activate(activation), x, width, width)
}

struct Activate(Activation);

impl Rows for Activate {
    #[inline(always)]
    fn run(&self, x: &[f32], out: &mut [f32]) {
        self.0.apply(x, out);
    }
}

/// Adds a bias to each row.
pub(crate) fn add_bias(x: &mut [f32], bias: &[f32]) {
    wide(AddBias { x, bias });
}

struct AddBias<'a> {
    x: &'a mut [f32],
    bias: &'a [f32],
}

impl Work for AddBias<'_> {
    #[inline(always)]
    fn run(self) {
        for row in self.x.chunks_exact_mut(self.bias.len()) {
            for (x, bias) in row.iter_mut().zip(self.bias) {
                *x += bias;
            }
        }
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    for ((a, b), lane) in rest.zip(&mut lanes) {
        *lane += a * b;
    }
    sum_lanes(lanes)
}

#[inline(always)]
fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    for chunk in x.chunks(8) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    sum_lanes(lanes)
}

#[inline(always)]
fn sum_lanes(l: [f32; 8]) -> f32 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

#[cfg(test)]
mod tests;
