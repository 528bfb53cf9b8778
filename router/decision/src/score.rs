//! Points, 0 to 100, and their weighted mean. Each component depends on its
//! own candidate alone and never falls when the candidate gets better, so a
//! better node beside the others never makes the outcome worse.

use crate::decide::Question;
use crate::estimate::Estimate;
use crate::limits::Limits;
use crate::policy::{Policy, Weights};
use std::time::Duration;
use tiermesh_core::{CandidateState, DeviceInfo, NetworkKind, Reason, Thermal, Tier, Usd};

/// The first-token time to aim at when neither client nor policy names one.
pub(crate) const DEFAULT_TARGET: Duration = Duration::from_secs(1);
/// Below 100 nano-dollars, 10⁻⁷ dollars, a price is as good as none.
const PER_COST_FLOOR: f64 = 1.0 / 100.0;
/// Doublings of the floor that use up all points: to about a dollar.
const COST_DOUBLINGS: f64 = 23.25;

/// One candidate's points before their weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Points {
    /// Time to spare before the first token is due.
    pub latency: f64,
    /// Being cheap, energy included, and what its slot keeps from others.
    pub cost: f64,
    /// The model's quality.
    pub quality: f64,
    /// Being idle.
    pub load: f64,
    /// A charged and cool battery, or none to spare.
    pub energy: f64,
    /// What the policy gives the tier.
    pub preference: f64,
    /// The share of the prompt at hand, where the node has room.
    pub affinity: f64,
}

/// What every candidate of one request is scored against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale<'a> {
    policy: &'a Policy,
    weights: Weights,
    /// One over the milliseconds to aim at.
    per_target: f64,
    device: DeviceInfo,
}

impl<'a> Scale<'a> {
    pub(crate) fn new(question: &Question<'a>, limits: &Limits) -> Self {
        let now = question.now;
        let target = limits
            .deadline
            .first_token_remaining(now)
            .unwrap_or(DEFAULT_TARGET);
        let target_ms = (target.as_secs_f64() * 1e3).max(1.0);
        Self {
            policy: question.policy,
            weights: weights(question.policy, question.complexity),
            per_target: 1.0 / target_ms,
            device: question.meta.device,
        }
    }

    #[inline]
    pub(crate) fn points(&self, candidate: &CandidateState, estimate: &Estimate) -> Points {
        Points {
            latency: latency(coarse(estimate.first_token_ms) * self.per_target),
            cost: cost(estimate.likely_cost + estimate.energy + estimate.slot),
            quality: 100.0 * f64::from(candidate.model.quality),
            load: 100.0 * (1.0 - coarse(f64::from(candidate.load))),
            energy: energy(candidate, &self.device),
            preference: self.policy.preference.of(candidate.tier),
            affinity: match candidate.outlook.slots {
                // A hot prefix must not melt its node: with no slot free, what
                // it has at hand earns nothing but the time it really saves.
                slots if slots > 0 && candidate.outlook.open >= slots => 0.0,
                slots if slots > 0 => 100.0 * estimate.warm_share,
                // Slots are not known: the share of the node that is free is.
                _ => 100.0 * estimate.warm_share * (1.0 - coarse(f64::from(candidate.load))),
            },
        }
    }

    pub(crate) fn score(&self, points: &Points) -> f64 {
        let w = &self.weights;
        w.latency * points.latency
            + w.cost * points.cost
            + w.quality * points.quality
            + w.load * points.load
            + w.energy * points.energy
            + w.preference * points.preference
            + w.affinity * points.affinity
    }
}

impl Points {
    /// The components as reasons.
    pub(crate) fn reasons(&self, estimate: &Estimate) -> [Reason; 7] {
        [
            Reason::Latency {
                points: self.latency as f32,
                predicted_ms: estimate.first_token_ms as f32,
            },
            Reason::Cost {
                points: self.cost as f32,
                estimate_usd: estimate.cost.as_dollars(),
            },
            Reason::Quality {
                points: self.quality as f32,
            },
            Reason::Load {
                points: self.load as f32,
            },
            Reason::Energy {
                points: self.energy as f32,
            },
            Reason::Preference {
                points: self.preference as f32,
            },
            Reason::Affinity {
                points: self.affinity as f32,
            },
        ]
    }
}

/// The policy's weights for a request that is so hard: the harder, the more
/// quality counts, as far as the policy wants that. They add up to 1 again.
fn weights(policy: &Policy, complexity: Option<f64>) -> Weights {
    let mut w = policy.weights;
    let complexity = complexity.filter(|c| policy.complexity > 0.0 && (0.0..=1.0).contains(c));
    let Some(complexity) = complexity else {
        return w;
    };
    w.quality *= 1.0 + policy.complexity * (2.0 * complexity - 1.0);
    let sum = w.latency + w.cost + w.quality + w.load + w.energy + w.preference + w.affinity;
    if sum <= 0.0 {
        return policy.weights;
    }
    Weights {
        latency: w.latency / sum,
        cost: w.cost / sum,
        quality: w.quality / sum,
        load: w.load / sum,
        energy: w.energy / sum,
        preference: w.preference / sum,
        affinity: w.affinity / sum,
    }
}

/// Of the share of the target that is used up: 100 at once, 80 just in time, and after that it falls like time^-1.5, so
/// that a little late is not the end and very late is.
fn latency(share: f64) -> f64 {
    if share <= 1.0 {
        100.0 - 20.0 * share
    } else {
        80.0 / (share * share.sqrt())
    }
}

/// Each doubling of the price takes the same number of points.
fn cost(amount: Usd) -> f64 {
    if amount == Usd::ZERO {
        return 100.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "points need no nano-dollars")]
    let floors = amount.as_nanos() as f64 * PER_COST_FLOOR;
    (100.0 - 100.0 / COST_DOUBLINGS * log2(1.0 + floors)).max(0.0)
}

/// The logarithm of a number of at least 1, linear between powers of two.
/// Exact in IEEE arithmetic, so that replays agree, where `f64::log2` may
/// differ from one platform to the next.
fn log2(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = x.to_bits();
    #[expect(clippy::cast_precision_loss, reason = "an exponent is below 2048")]
    let exponent = (bits >> 52) as f64 - 1023.0;
    let fraction = f64::from_bits((bits & MANTISSA) | 1.0_f64.to_bits()) - 1.0;
    exponent + fraction
}

/// A measured value with the digits that a measurement has, to about three
/// percent: candidates that do not really differ tie, and a tie is shared out.
/// It never rises when the value falls.
fn coarse(value: f64) -> f64 {
    f64::from_bits(value.to_bits() & !((1 << 47) - 1))
}

/// A device has its charge, its own or as the client told it, less what its
/// temperature takes. Nodes on mains power have all points.
fn energy(candidate: &CandidateState, device: &DeviceInfo) -> f64 {
    let of_client = candidate.tier == Tier::Device;
    let battery = candidate
        .battery_percent
        .or(device.battery_percent.filter(|_| of_client));
    if !of_client && device.network == Some(NetworkKind::Metered) {
        // What leaves the device is paid by the byte.
        return 50.0;
    }
    let charge = battery.map_or(100.0, |percent| f64::from(percent.min(100)));
    match device.thermal.filter(|_| of_client) {
        Some(Thermal::Critical) => 0.0,
        Some(Thermal::Serious) => charge / 2.0,
        Some(Thermal::Nominal) | None => charge,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_exact_at_powers_and_never_falls() {
        assert_eq!(log2(1.0), 0.0);
        assert_eq!(log2(1024.0), 10.0);
        let mut last = 0.0;
        for step in 1..10_000 {
            let next = log2(1.0 + f64::from(step) * 0.37);
            assert!(next >= last);
            last = next;
        }
    }

    #[test]
    fn latency_is_continuous_at_the_target_and_falls() {
        assert_eq!(latency(0.0), 100.0);
        assert_eq!(latency(1.0), 80.0);
        assert!((latency(1.000_02) - 80.0).abs() < 0.01);
        assert!(latency(10.0) < 3.0);
    }

    #[test]
    fn a_dollar_has_no_points_and_nothing_has_all() {
        assert_eq!(cost(Usd::ZERO), 100.0);
        assert!(cost(Usd::from_dollars(1.0).unwrap()) < 1.0);
        assert_eq!(cost(Usd::from_nanos(u64::MAX)), 0.0);
    }
}
