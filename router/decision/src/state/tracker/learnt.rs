//! What a model's answers on a node teach, and how it corrects predictions.

use crate::state::calibration::Calibration;
use crate::state::sketch::{Moments, Sketch};
use crate::state::tracker::Tracker;
use tiermesh_core::{Outlook, Time};

/// How long an answer is taken to last before any was seen to its end.
const UNKNOWN_ANSWER_MS: f64 = 3_000.0;
/// Answers before what was learnt counts.
pub(super) const ENOUGH: f64 = 5.0;
const HALF_LIFE: u16 = 64;
/// After so many seconds without an answer, what was learnt counts half.
const TRUST_HALVES_S: f64 = 300.0;
/// One answer that took many times as long as usual says this much at most.
pub(super) const OUTLIER: f64 = 4.0;

/// What a model's answers on a node taught.
#[derive(Debug, Clone)]
pub struct Learnt {
    /// Milliseconds a token of the answer.
    pub(super) per_token: Moments,
    /// Milliseconds from first token to end.
    pub(super) answering: Moments,
    /// Milliseconds to first tokens, as they were.
    pub(super) first_token: Sketch,
    /// Observed over predicted, where no queue was in the way.
    pub(super) ratio: Moments,
    pub(super) calibration: Calibration,
    /// When it last learnt.
    pub(super) at: Time,
}

impl Default for Learnt {
    fn default() -> Self {
        Self {
            per_token: Moments::new(0.02),
            answering: Moments::new(0.01),
            first_token: Sketch::new(HALF_LIFE),
            ratio: Moments::new(0.02),
            calibration: Calibration::default(),
            at: Time::ZERO,
        }
    }
}

impl Learnt {
    /// How well it was predicted.
    #[must_use]
    pub const fn calibration(&self) -> &Calibration {
        &self.calibration
    }

    /// The time to the first token that a share of the answers kept, lately,
    /// in milliseconds; none before the first.
    #[must_use]
    pub fn first_token_ms(&self, share: f64) -> Option<f64> {
        self.first_token.quantile(share)
    }

    /// A first token came after `observed_ms` at the node, where its report
    /// said `reported_ms`.
    pub(super) fn corrects(&mut self, observed_ms: f64, reported_ms: f64) {
        let ratio = observed_ms / reported_ms.max(0.1);
        let usual = self.ratio.mean_or(ENOUGH, ratio).max(0.01);
        let ratio = ratio.clamp(usual / OUTLIER, usual * OUTLIER);
        self.ratio.record(ratio.min(100.0));
    }

    /// What is the same for all models of the node, with what is this one's.
    pub(super) fn outlook(&self, of_node: Outlook, now: Time) -> Outlook {
        if of_node.slots == 0 {
            return self.correction(of_node, now);
        }
        let spread = self.answering.spread_or(ENOUGH, 1.0).clamp(0.05, 25.0);
        // One stream met at any moment has this much of its mean left; many
        // streams end one after another as if each moment were the first.
        let alone = 0.5 * (1.0 + spread);
        let share = 1.0 / f64::from(of_node.slots);
        let rest =
            self.answering.mean_or(ENOUGH, UNKNOWN_ANSWER_MS) * (share * alone + (1.0 - share));
        Outlook {
            running_ms: rest as f32,
            spread: spread as f32,
            ratio: self.ratio.mean_or(ENOUGH, 1.0) as f32,
            ratio_sd: if self.ratio.samples() >= ENOUGH {
                self.ratio.deviation() as f32
            } else {
                0.25
            },
            samples: self.answering.samples().min(1e6) as f32,
            ..of_node
        }
    }

    /// How the node's own predictions are to be corrected. What was learnt
    /// long ago counts less, and the doubt is wider.
    fn correction(&self, of_node: Outlook, now: Time) -> Outlook {
        let samples = self.answering.samples().min(1e6) as f32;
        if self.ratio.samples() < ENOUGH {
            return Outlook { samples, ..of_node };
        }
        let age_s = now.since(self.at).as_secs_f64();
        let trust = libm::exp2(-age_s / TRUST_HALVES_S);
        let ratio = 1.0 + trust * (self.ratio.mean_or(ENOUGH, 1.0) - 1.0);
        let doubt = 0.25 * (1.0 - trust);
        Outlook {
            samples,
            ratio: ratio as f32,
            ratio_sd: (self.ratio.deviation() + doubt * ratio) as f32,
            per_token_ms: self.per_token.mean_or(ENOUGH, 0.0) as f32,
            ..of_node
        }
    }
}

impl Tracker {
    /// Of those that left, the ones that answered last are remembered.
    pub(super) fn forget_some(&mut self) {
        while self.past.len() > self.past_most {
            let oldest = self.past.iter().min_by_key(|(_, learnt)| learnt.at);
            let Some(name) = oldest.map(|(name, _)| name.clone()) else {
                return;
            };
            self.past.remove(&name);
        }
    }
}
