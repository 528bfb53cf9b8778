//! What a request asks for, before anybody is chosen: how hard it is, how long
//! it is, and how long its answer will likely be.

use crate::decide::Answer;
use crate::state::{Lengths, Prompts};
use tiermesh_core::RequestMeta;

/// What was estimated of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Analysis {
    /// How hard it is, 0 to 1.
    pub complexity: f64,
    /// Tokens of its prompt as models count, where that was learnt.
    pub prompt_tokens: Option<u32>,
    /// How long its answer will be, where that was learnt.
    pub answer: Option<Answer>,
}

/// Estimates how hard a request is. An estimate only ever moves scores; no
/// estimator can loosen a limit.
pub trait Estimator: Send + Sync {
    /// How hard it is; what is not within 0 to 1 is brought there.
    fn complexity(&self, meta: &RequestMeta) -> f64;
}

/// The longer the harder. On GSM8K this wins back more of the gap between a
/// weak and a strong model (APGR 0.601) than a classifier trained on other
/// prompts does (0.536): `benches/complexity/measure.py` measures both.
#[derive(Debug, Clone, Copy, Default)]
pub struct PromptLength;

/// Half way: a prompt of so many bytes, about 500 tokens.
const MIDDLING_BYTES: f64 = 2_000.0;

impl Estimator for PromptLength {
    fn complexity(&self, meta: &RequestMeta) -> f64 {
        let bytes = meta.content_bytes as f64;
        bytes / (bytes + MIDDLING_BYTES)
    }
}

impl Analysis {
    /// The analysis of a request with what was learnt of such answers, and of
    /// those to prompts with such [`beginnings`](Lengths::beginnings).
    #[must_use]
    pub fn of(
        meta: &RequestMeta,
        estimator: &dyn Estimator,
        beginnings: impl Iterator<Item = u64>,
        (lengths, prompts): (&Lengths, &Prompts),
    ) -> Self {
        let complexity = estimator.complexity(meta);
        Self {
            complexity: if complexity.is_nan() {
                0.5
            } else {
                complexity.clamp(0.0, 1.0)
            },
            prompt_tokens: prompts.expect(meta),
            answer: lengths.expect(meta, beginnings),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::world::meta;

    struct Odd(f64);

    impl Estimator for Odd {
        fn complexity(&self, _meta: &RequestMeta) -> f64 {
            self.0
        }
    }

    #[test]
    fn longer_is_harder_and_nonsense_is_brought_into_range() {
        let (lengths, prompts) = (Lengths::default(), Prompts::default());
        let learnt = (&lengths, &prompts);
        let of = |bytes: usize| {
            let mut meta = meta(|_| {});
            meta.content_bytes = bytes;
            Analysis::of(&meta, &PromptLength, std::iter::empty(), learnt).complexity
        };
        assert!(of(0) == 0.0 && of(100) < of(2_000) && of(2_000) < of(usize::MAX / 4));
        assert!(of(usize::MAX / 4) <= 1.0);
        for (odd, kept) in [(f64::NAN, 0.5), (f64::INFINITY, 1.0), (-3.0, 0.0)] {
            let analysis = Analysis::of(&meta(|_| {}), &Odd(odd), std::iter::empty(), learnt);
            assert_eq!((analysis.complexity, analysis.answer), (kept, None));
        }
    }
}
