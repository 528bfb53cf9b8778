//! The row functions between the linear layers, in a fixed order.
//!
//! Each output row depends on its input row alone, sums run over eight lanes
//! in a fixed order, and nothing calls the system's math library. Results are
//! therefore the same whatever the processor's vector width, the thread count
//! and the number of rows in a call.

use rayon::prelude::*;

use crate::kernel::{Work, wide};

/// Below this many multiplications attention stays on the calling thread.
const PARALLEL_FROM: usize = 1 << 18;

/// Shapes of one attention call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttendSpec {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Position of the first query row: it sees the keys up to its own.
    pub(crate) start: usize,
}

/// Causal grouped-query attention. `q` is `[tokens, heads × head_dim]`, `keys`
/// and `values` are `[positions, kv_heads × head_dim]` with every position up
/// to the last query's filled in. Returns the shape of `q`.
pub(crate) fn attend(q: &[f32], keys: &[f32], values: &[f32], spec: AttendSpec) -> Vec<f32> {
    let row = spec.heads * spec.head_dim;
    let mut out = vec![0.0; q.len()];
    let heads = |first, out| Heads {
        first,
        out,
        q,
        keys,
        values,
        spec,
    };
    let work = q.len() * (spec.start + q.len() / row);
    let threads = rayon::current_thread_index().map_or(1, |_| rayon::current_num_threads());
    if threads > 1 && work > PARALLEL_FROM {
        let each = out.par_chunks_mut(spec.head_dim).enumerate();
        each.for_each(|(index, out)| wide(heads(index, out)));
    } else {
        wide(heads(0, &mut out));
    }
    out
}

/// Attention for the heads from `first` on, counted in the order of `q`: as
/// many as `out` has room for.
struct Heads<'a> {
    first: usize,
    out: &'a mut [f32],
    q: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    spec: AttendSpec,
}

impl Work for Heads<'_> {
    #[inline(always)]
    fn run(self) {
        let AttendSpec {
            heads,
            kv_heads,
            head_dim,
            start,
        } = self.spec;
        let stride = kv_heads * head_dim;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let mut weights = Vec::new();
        for (offset, out) in self.out.chunks_exact_mut(head_dim).enumerate() {
            let index = self.first + offset;
            let (token, head) = (index / heads, index % heads);
            let q = &self.q[index * head_dim..][..head_dim];
            let column = head / (heads / kv_heads) * head_dim;
            weights.resize(start + token + 1, 0.0);
            for (weight, key) in weights.iter_mut().zip(self.keys.chunks_exact(stride)) {
                *weight = dot(q, &key[column..][..head_dim]) * scale;
            }
            let total = exponentials(&mut weights);
            for (weight, value) in weights.iter().zip(self.values.chunks_exact(stride)) {
                for (out, value) in out.iter_mut().zip(&value[column..][..head_dim]) {
                    *out += weight * value;
                }
            }
            for out in out.iter_mut() {
                *out /= total;
            }
        }
    }
}

/// Replaces scores by `exp(score − max)` and returns their sum.
#[inline(always)]
fn exponentials(scores: &mut [f32]) -> f32 {
    let largest = scores.iter().fold(f32::NEG_INFINITY, |m, s| m.max(*s));
    let mut lanes = [0.0f32; 8];
    for chunk in scores.chunks_mut(8) {
        for (score, lane) in chunk.iter_mut().zip(&mut lanes) {
            *score = exp(*score - largest);
            *lane += *score;
        }
    }
    sum_lanes(lanes)
}

/// `x / rms(x) × weight` for each row of `weight.len()` values.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(width) {
        let inverse = 1.0 / (dot(row, row) / width as f32 + eps).sqrt();
        out.extend(row.iter().zip(weight).map(|(x, w)| w * (x * inverse)));
    }
    out
}

/// `silu(gate) × up` for rows that hold `width` gates and then `width` ups.
pub(crate) fn swiglu(gate_up: &[f32], width: usize) -> Vec<f32> {
    let mut out = vec![0.0; gate_up.len() / 2];
    wide(Swiglu {
        gate_up,
        width,
        out: &mut out,
    });
    out
}

struct Swiglu<'a> {
    gate_up: &'a [f32],
    width: usize,
    out: &'a mut [f32],
}

impl Work for Swiglu<'_> {
    #[inline(always)]
    fn run(self) {
        let rows = self.gate_up.chunks_exact(2 * self.width);
        for (row, out) in rows.zip(self.out.chunks_exact_mut(self.width)) {
            let (gate, up) = row.split_at(self.width);
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate / (1.0 + exp(-gate)) * up;
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
fn sum_lanes(l: [f32; 8]) -> f32 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

/// `eˣ` within two units in the last place, the same bits everywhere. Below
/// −87.3 it is not quite zero and above 88 not quite infinite, which neither a
/// softmax nor a sigmoid can tell. Method and coefficients as in Cephes'
/// `expf`: `x = n ln 2 + r`, a polynomial in `r`, and `n` into the exponent.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 88.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = p * r + c;
    }
    let p = p * r * r + r + 1.0;
    // n is within −126..=127 by the clamp, or 0 for a NaN, which p carries on.
    let power = f32::from_bits(((n as i32 + 127) as u32) << 23);
    p * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_over_its_whole_range() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "exp({x}) is off by {error:e}");
            x += 0.0137;
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn wide_registers_do_not_change_bits() {
        let noise = |len: u32, seed: u32| -> Vec<f32> {
            let value = |i: u32| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8) as f32;
            (0..len).map(|i| value(i) / 4_194_304.0 - 2.0).collect()
        };
        let spec = AttendSpec {
            heads: 4,
            kv_heads: 2,
            head_dim: 20,
            start: 30,
        };
        let (q, k, v) = (noise(3 * 80, 1), noise(40 * 40, 2), noise(40 * 40, 3));
        let mut narrow = vec![0.0; q.len()];
        let heads = Heads {
            first: 0,
            out: &mut narrow,
            q: &q,
            keys: &k,
            values: &v,
            spec,
        };
        heads.run();
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&attend(&q, &k, &v, spec)), bits(&narrow));
    }

    #[test]
    fn attention_of_equal_keys_is_the_mean_of_values() {
        let spec = AttendSpec {
            heads: 2,
            kv_heads: 1,
            head_dim: 2,
            start: 1,
        };
        let out = attend(
            &[1.0, 2.0, 3.0, 4.0],
            &[1.0; 4],
            &[2.0, 4.0, 6.0, 8.0],
            spec,
        );
        assert_eq!(out, [4.0, 6.0, 4.0, 6.0]);
    }

    #[test]
    fn a_query_does_not_see_later_keys() {
        let spec = AttendSpec {
            heads: 1,
            kv_heads: 1,
            head_dim: 2,
            start: 0,
        };
        let out = attend(&[0.0; 4], &[0.0; 4], &[1.0, 1.0, 3.0, 5.0], spec);
        assert_eq!(out, [1.0, 1.0, 2.0, 3.0]);
    }
}
