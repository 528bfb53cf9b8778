//! The next token from logits: a function of logits, parameters, seed and
//! position, and of nothing else.
//!
//! Random numbers come from Philox4x32-10 (Salmon et al., "Parallel random
//! numbers: as easy as 1, 2, 3", SC 2011): a block cipher over a counter, so
//! the number for position 1000 needs none of those before it. The key is the
//! seed, the counter is the position of the drawn token in the answer, and 53
//! bits of the first two words make a number in [0, 1). Changing any of this
//! changes every seeded answer: it is part of the numerics id through the
//! engine's version.

use crate::model::math::exp;

/// How a token is chosen. Ranges are the caller's to check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Keep this many likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the likeliest tokens until their probabilities sum to this.
    pub top_p: f32,
}

impl SamplingParams {
    /// The likeliest token, always.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
    };
}

/// A model's logits were not numbers: it, or its input, is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model computed logits that are not numbers at position {position}")]
pub struct NotANumber {
    /// The position in the answer.
    pub position: u64,
}

/// Chooses the token at `position` of the answer, counted from 0.
///
/// Of equally likely tokens the one with the lower id comes first.
pub(crate) fn sample(
    logits: &[f32],
    params: SamplingParams,
    seed: u64,
    position: u64,
) -> Result<u32, NotANumber> {
    let top = greedy(logits).ok_or(NotANumber { position })?;
    if params.temperature <= 0.0 {
        return Ok(top);
    }
    let candidates = candidates(logits, logits[top as usize], params);
    let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    let mut left = uniform(seed, position) * total;
    for (id, weight) in &candidates {
        if left < *weight {
            return Ok(*id);
        }
        left -= weight;
    }
    // Rounding may leave a crumb after the last one.
    Ok(candidates.last().map_or(top, |(id, _)| *id))
}

/// The likeliest token; `None` when a logit is NaN or none is finite.
fn greedy(logits: &[f32]) -> Option<u32> {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, logit) in logits.iter().enumerate() {
        if logit.is_nan() || *logit == f32::INFINITY {
            return None;
        }
        if *logit > best.1 {
            best = (id, *logit);
        }
    }
    best.1.is_finite().then_some(best.0 as u32)
}

/// What may be drawn, with unnormalised probabilities, likeliest first.
fn candidates(logits: &[f32], largest: f32, params: SamplingParams) -> Vec<(u32, f64)> {
    let weight = |logit: &f32| f64::from(exp((logit - largest) / params.temperature));
    let mut all: Vec<(u32, f64)> = logits
        .iter()
        .enumerate()
        .map(|(id, logit)| (id as u32, weight(logit)))
        .collect();
    // Whole sums are taken in order of ids, before anything is moved.
    let total: f64 = all.iter().map(|(_, weight)| weight).sum();
    let likelier = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if params.top_k == 0 && params.top_p >= 1.0 {
        return all;
    }
    let keep = match params.top_k as usize {
        0 => all.len(),
        k => k.min(all.len()),
    };
    if keep < all.len() {
        all.select_nth_unstable_by(keep - 1, likelier);
        all.truncate(keep);
    }
    all.sort_unstable_by(likelier);
    if params.top_p < 1.0 {
        let kept: f64 = if keep < logits.len() {
            all.iter().map(|(_, w)| w).sum()
        } else {
            total
        };
        let enough = f64::from(params.top_p) * kept;
        let mut mass = 0.0;
        let nucleus = all.iter().position(|(_, weight)| {
            mass += weight;
            mass >= enough
        });
        all.truncate(nucleus.map_or(all.len(), |last| last + 1));
    }
    all
}

/// A number in [0, 1) for this seed and position.
fn uniform(seed: u64, position: u64) -> f64 {
    let words = philox4x32_10(
        [position as u32, (position >> 32) as u32, 0, 0],
        [seed as u32, (seed >> 32) as u32],
    );
    let bits = (u64::from(words[1]) << 32 | u64::from(words[0])) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [
            key[0].wrapping_add(0x9E37_79B9),
            key[1].wrapping_add(0xBB67_AE85),
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WARM: SamplingParams = SamplingParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
    };

    #[test]
    fn philox_gives_the_published_vectors() {
        // Known answers of the authors' Random123 distribution.
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_tie_goes_to_the_lower_id() {
        assert_eq!(
            sample(&[1.0, 3.0, 3.0, 2.0], SamplingParams::GREEDY, 9, 9),
            Ok(1)
        );
    }

    #[test]
    fn logits_that_are_not_numbers_are_an_error_at_any_temperature() {
        for bad in [
            &[1.0, f32::NAN][..],
            &[f32::INFINITY, 0.0],
            &[f32::NEG_INFINITY],
            &[],
        ] {
            for params in [SamplingParams::GREEDY, WARM] {
                assert_eq!(sample(bad, params, 0, 5), Err(NotANumber { position: 5 }));
            }
        }
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let logits = [0.0f32, 1.0, 2.0, f32::NEG_INFINITY];
        let draws = 20_000;
        let mut counts = [0u32; 4];
        for position in 0..draws {
            counts[sample(&logits, WARM, 42, position).unwrap() as usize] += 1;
        }
        let total: f32 = logits.iter().map(|l| l.exp()).sum();
        for (count, logit) in counts.iter().zip(logits) {
            let (got, want) = (*count as f32 / draws as f32, logit.exp() / total);
            assert!((got - want).abs() < 0.015, "{got} for {want}");
        }
    }

    #[test]
    fn top_k_and_top_p_keep_the_likeliest() {
        let logits = [0.0, 3.0, 1.0, 2.0];
        let drawn = |top_k, top_p| {
            let params = SamplingParams {
                temperature: 5.0,
                top_k,
                top_p,
            };
            let mut ids: Vec<u32> = (0..500)
                .map(|p| sample(&logits, params, 1, p).unwrap())
                .collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        assert_eq!(drawn(0, 1.0), [0, 1, 2, 3]);
        assert_eq!(drawn(2, 1.0), [1, 3]);
        assert_eq!(drawn(0, 0.01), [1]);
        assert_eq!(
            drawn(3, 0.75),
            [1, 3, 2]
                .into_iter()
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
        );
    }

    proptest! {
        #[test]
        fn a_draw_depends_on_its_arguments_alone_and_is_in_range(
            logits in prop::collection::vec(-50.0f32..50.0, 1..200),
            temperature in 0.0f32..2.0, top_k in 0u32..300, top_p in 0.001f32..=1.0,
            seed: u64, position: u64,
        ) {
            let params = SamplingParams { temperature, top_k, top_p };
            let first = sample(&logits, params, seed, position).unwrap();
            prop_assert!((first as usize) < logits.len());
            prop_assert_eq!(sample(&logits, params, seed, position).unwrap(), first);
        }
    }
}
