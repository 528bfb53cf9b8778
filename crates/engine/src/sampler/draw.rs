//! Which tokens may come, and which one does.
//!
//! A vocabulary has up to a quarter of a million tokens and a nucleus some
//! dozens, so nothing sorts more than about what it keeps.

use std::cmp::Ordering;

use super::SamplingOptions;
use super::softmax::{largest, weigh, weight_of};

/// How many tokens a nucleus is looked for in at first.
const NUCLEUS_FROM: usize = 32;

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    id: u32,
    /// Its probability over the likeliest token's.
    weight: f32,
}

/// Room to work in, kept from token to token.
#[derive(Default)]
pub(super) struct Room {
    pub(super) weights: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// The likeliest token at temperature 0, a draw otherwise; `None` when a logit
/// is NaN or infinite, or all are minus infinity. `uniform` gives a number in
/// [0, 1) and is called at most once.
pub(super) fn draw(
    logits: &[f32],
    options: &SamplingOptions,
    uniform: impl FnOnce() -> f64,
    room: &mut Room,
) -> Option<u32> {
    let likeliest = largest(logits)?;
    if options.temperature <= 0.0 {
        return Some(likeliest as u32);
    }
    let all = options.top_k == 0 && options.top_p >= 1.0 && options.min_p <= 0.0;
    if all {
        let (largest, temperature) = (logits[likeliest], options.temperature);
        let total = weigh(logits, largest, temperature, &mut room.weights);
        let weights = (0u32..).zip(room.weights.iter().copied());
        return among(weights, uniform() * total);
    }
    filter(logits, likeliest, options, room);
    let total = mass(&room.candidates);
    let candidates = room.candidates.iter();
    among(candidates.map(|c| (c.id, c.weight)), uniform() * total)
}

/// The token at this place of the mass. Rounding may leave a crumb after the
/// last one that can come, which is its.
fn among(weights: impl Iterator<Item = (u32, f32)>, mut left: f64) -> Option<u32> {
    let mut last = None;
    for (id, weight) in weights.filter(|(_, weight)| *weight > 0.0) {
        last = Some(id);
        if left < f64::from(weight) {
            break;
        }
        left -= f64::from(weight);
    }
    last
}

/// Leaves the candidates that top-k, top-p and min-p keep.
fn filter(logits: &[f32], likeliest: usize, options: &SamplingOptions, room: &mut Room) {
    let Room {
        weights,
        candidates,
    } = room;
    let (largest, temperature) = (logits[likeliest], options.temperature);
    candidates.clear();
    let total = match options.top_k as usize {
        k @ 1.. if k < logits.len() => {
            candidates.extend(top(logits, k).into_iter().map(|(id, logit)| Candidate {
                id,
                weight: weight_of(logit, largest, temperature),
            }));
            mass(candidates)
        }
        _ => {
            let total = weigh(logits, largest, temperature, weights);
            // All the tokens below this weight together have less than half of
            // the mass that a nucleus may leave out, so none of them is in it.
            let missing = 1.0 - f64::from(options.top_p);
            let least = missing * total / logits.len() as f64 / 2.0;
            let least = (least as f32).max(options.min_p);
            for (weight, id) in weights.iter().zip(0u32..) {
                if *weight >= least && *weight > 0.0 {
                    let weight = *weight;
                    candidates.push(Candidate { id, weight });
                }
            }
            total
        }
    };
    if options.top_p < 1.0 {
        nucleus(candidates, f64::from(options.top_p) * total);
    }
    if options.min_p > 0.0 {
        candidates.retain(|candidate| candidate.weight >= options.min_p);
    }
}

/// The `k` largest of these numbers with their places, the largest first and
/// of equals the one with the lower place; those that are minus infinity are
/// left out. One pass over all, with room for `2 k`.
pub(super) fn top(logits: &[f32], k: usize) -> Vec<(u32, f32)> {
    let larger = |a: &(u32, f32), b: &(u32, f32)| {
        let by_value = b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal);
        by_value.then(a.0.cmp(&b.0))
    };
    if k == 0 {
        return Vec::new();
    }
    let most = k.saturating_mul(2).min(logits.len());
    let mut kept = Vec::with_capacity(most);
    // What is not over the floor cannot be among the k largest: k that are at
    // least as large came before it.
    let mut floor = f32::NEG_INFINITY;
    for (logit, id) in logits.iter().zip(0u32..) {
        if *logit > floor {
            kept.push((id, *logit));
            if kept.len() == most && most > k {
                kept.select_nth_unstable_by(k - 1, larger);
                kept.truncate(k);
                floor = kept[k - 1].1;
            }
        }
    }
    kept.sort_unstable_by(larger);
    kept.truncate(k);
    kept
}

/// Keeps the likeliest candidates until they have `enough` mass, likeliest
/// first.
fn nucleus(candidates: &mut Vec<Candidate>, enough: f64) {
    let likelier = |a: &Candidate, b: &Candidate| {
        let by_weight = b.weight.total_cmp(&a.weight);
        by_weight.then(a.id.cmp(&b.id))
    };
    let (mut sorted, mut gathered) = (0, 0.0);
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let next = sorted.max(NUCLEUS_FROM).min(rest.len());
        if next < rest.len() {
            rest.select_nth_unstable_by(next - 1, likelier);
        }
        rest[..next].sort_unstable_by(likelier);
        let last = rest[..next].iter().position(|candidate| {
            gathered += f64::from(candidate.weight);
            gathered >= enough
        });
        if let Some(last) = last {
            candidates.truncate(sorted + last + 1);
            return;
        }
        sorted += next;
    }
}

/// Summed in the order they are in.
fn mass(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|c| f64::from(c.weight)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By sorting everything, as a textbook has it.
    fn by_sorting(logits: &[f32], options: &SamplingOptions) -> Vec<u32> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| weight_of(logit, largest, options.temperature);
        let mut all: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
        all.retain(|(_, logit)| *logit > f32::NEG_INFINITY);
        all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
        if options.top_k > 0 {
            all.truncate(options.top_k as usize);
        }
        let total: f64 = all.iter().map(|(_, l)| f64::from(weight(*l))).sum();
        let mut before = 0.0;
        all.retain(|(_, logit)| {
            let keep = options.top_p == 1.0 || before < f64::from(options.top_p) * total;
            before += f64::from(weight(*logit));
            keep
        });
        all.retain(|(_, logit)| weight(*logit) >= options.min_p);
        let mut ids: Vec<u32> = all.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    fn kept(logits: &[f32], options: &SamplingOptions) -> Vec<u32> {
        let likeliest = largest(logits).unwrap();
        let mut room = Room::default();
        filter(logits, likeliest, options, &mut room);
        let mut ids: Vec<u32> = room.candidates.iter().map(|c| c.id).collect();
        ids.sort_unstable();
        ids
    }

    proptest! {
        #[test]
        fn filters_keep_what_sorting_everything_would(
            logits in prop::collection::vec(-9.0f32..9.0, 1..400), temperature in 0.2f32..2.0,
            top_k in prop_oneof![Just(0u32), 1u32..500], min_p in prop_oneof![Just(0.0f32), 0.0f32..0.6],
            top_p in prop_oneof![Just(1.0f32), 0.01f32..0.999],
        ) {
            let options = SamplingOptions { temperature, top_k, top_p, min_p, ..SamplingOptions::default() };
            prop_assert_eq!(kept(&logits, &options), by_sorting(&logits, &options));
        }

        #[test]
        fn the_largest_come_in_order_and_ties_by_place(
            values in prop::collection::vec((0i8..6).prop_map(f32::from), 0..200), k in 0usize..220,
        ) {
            let mut expected: Vec<(u32, f32)> = (0u32..).zip(values.iter().copied()).collect();
            expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            expected.truncate(k);
            prop_assert_eq!(top(&values, k), expected);
        }
    }

    #[test]
    fn the_ends_of_the_unit_interval_are_tokens_that_can_come() {
        let logits = [f32::NEG_INFINITY, 1.0, 1.0, f32::NEG_INFINITY];
        let options = SamplingOptions {
            temperature: 1.0,
            ..SamplingOptions::default()
        };
        let at = |u: f64| draw(&logits, &options, || u, &mut Room::default());
        assert_eq!((at(0.0), at(1.0 - f64::EPSILON)), (Some(1), Some(2)));
        assert_eq!(at(1.0), Some(2), "a crumb goes to the last that can come");
    }
}
