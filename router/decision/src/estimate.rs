//! What to expect of a candidate, from its last report and from what its
//! answers taught.

use crate::limits::Limits;
use crate::policy::Policy;
use tiermesh_core::{CandidateState, ModelState, Outlook, Tier, Time, Usd};

/// Prompt tokens that a node's reported first-token time already covers.
const SHORT_PROMPT_TOKENS: u32 = 32;
/// Speeds assumed of a node that has not measured its own yet: slow enough
/// not to win over one that has.
const UNMEASURED_PREFILL_TOK_S: f64 = 500.0;
const UNMEASURED_DECODE_TOK_S: f64 = 20.0;
/// The 99th percentile of the normal distribution.
const P99_Z: f64 = 2.326_347_874_040_841;
/// A report this old is half a standard deviation of doubt.
const PER_DOUBT_US: f64 = 1.0 / 35e6;
/// Shares of a prompt are clamped to at most all but a token.
const LEAST_PROMPT: u32 = 1;

/// What to expect of one candidate for one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Milliseconds to the first token, the way there and back included.
    pub first_token_ms: f64,
    /// The same, at its 99th percentile.
    pub first_token_p99_ms: f64,
    /// The same, at the chance that the policy calls sure.
    pub first_token_sure_ms: f64,
    /// The standard deviation of the first token's time.
    pub deviation_ms: f64,
    /// Milliseconds to the end of an answer that is hardly exceeded: the
    /// longest asked for where nothing was learnt.
    pub total_ms: f64,
    /// Price of the prompt and the longest answer asked for.
    pub cost: Usd,
    /// Price of the prompt and the likely answer.
    pub likely_cost: Usd,
    /// What it takes from a device's battery, as money that nobody is charged.
    pub energy: Usd,
    /// Share of the prompt that need not be read again, 0 to 1.
    pub warm_share: f64,
}

impl Estimate {
    /// The estimate for a candidate whose report is usable; `warm_tokens` of
    /// the prompt are at hand there.
    #[must_use]
    #[inline]
    pub fn of(
        limits: &Limits,
        policy: &Policy,
        candidate: &CandidateState,
        now: Time,
        warm_tokens: u32,
    ) -> Self {
        let state = &candidate.state;
        let measured = |speed: f32, otherwise: f64| match speed {
            speed if speed > 0.0 => f64::from(speed),
            _ => otherwise,
        };
        let prefill_tok_s = measured(state.prefill_tok_s, UNMEASURED_PREFILL_TOK_S);
        let decode_tok_s = measured(state.decode_tok_s, UNMEASURED_DECODE_TOK_S);
        let token_ms = measured(candidate.outlook.per_token_ms, 1e3 / decode_tok_s);
        let prompt = limits.likely_prompt;
        let warm = warm_tokens.min(prompt.saturating_sub(LEAST_PROMPT));
        let cold = prompt - warm;
        let outlook = &candidate.outlook;
        let loading = outlook.ready_at.map_or(0.0, |at| {
            at.as_us().saturating_sub(now.as_us()) as f64 / 1e3
        });
        let fixed_ms = f64::from(candidate.rtt_ms) + loading;
        let ahead = if outlook.slots > 0 {
            Ahead::learnt(outlook, f64::from(cold) * 1e3 / prefill_tok_s)
        } else {
            Ahead::reported(reported_ms(state, cold), outlook)
        };
        let ahead = ahead.doubted(candidate.age_us(now));
        let first_token_ms = fixed_ms + ahead.mean;
        let rest = |tokens: u32| f64::from(tokens.saturating_sub(1)) * token_ms;
        let prompt = u64::from(prompt);
        let price = |prompt, tokens: u32| candidate.model.cost(prompt, u64::from(tokens));
        let most_prompt = u64::from(limits.prompt_tokens);
        let cost = price(most_prompt, limits.output_tokens);
        let energy = match candidate.tier {
            Tier::Device if policy.device_energy_per_million > Usd::ZERO => policy
                .device_energy_per_million
                .per_million(prompt + u64::from(limits.answer.0)),
            _ => Usd::ZERO,
        };
        Self {
            first_token_ms,
            first_token_p99_ms: fixed_ms + ahead.quantile(P99_Z),
            first_token_sure_ms: fixed_ms + ahead.quantile(policy.sure_z),
            deviation_ms: ahead.deviation,
            total_ms: first_token_ms + rest(limits.answer.1),
            cost,
            likely_cost: match limits.answer.0 {
                likely if (prompt, likely) == (most_prompt, limits.output_tokens) => cost,
                likely => price(prompt, likely),
            },
            energy,
            warm_share: f64::from(warm) / (prompt.max(1) as f64),
        }
    }

    /// The chance that the first token comes within `slack_ms`, 0 to 1, of the
    /// normal distribution with this mean and deviation.
    #[must_use]
    pub fn chance(&self, slack_ms: f64) -> f64 {
        let z = self.z(slack_ms);
        0.5 * libm::erfc(-z * std::f64::consts::FRAC_1_SQRT_2)
    }

    /// How many deviations of room there are within `slack_ms`.
    #[must_use]
    #[inline]
    pub(crate) fn z(&self, slack_ms: f64) -> f64 {
        ((slack_ms - self.first_token_ms) / self.deviation_ms.max(1e-3)).clamp(-1e6, 1e6)
    }
}

/// Milliseconds to the first token by a node's own report, its queue included,
/// for so many tokens to read; and from there to the 99th percentile.
#[inline]
pub(crate) fn reported_ms(state: &ModelState, cold: u32) -> (f64, f64) {
    let prefill_tok_s = match state.prefill_tok_s {
        speed if speed > 0.0 => f64::from(speed),
        _ => UNMEASURED_PREFILL_TOK_S,
    };
    let long = cold.saturating_sub(SHORT_PROMPT_TOKENS);
    let short_ms = f64::from(state.first_token_ms);
    let p99_ms = f64::from(state.first_token_p99_ms).max(short_ms);
    let long_ms = f64::from(long) * 1e3 / prefill_tok_s;
    (short_ms + long_ms, p99_ms - short_ms)
}

/// The time between a request's arrival at a node and its first token there.
#[derive(Debug, Clone, Copy)]
struct Ahead {
    mean: f64,
    deviation: f64,
    /// Waiting times pile up on one side: their quantiles are a gamma's.
    skewed: bool,
}

impl Ahead {
    /// From what is open there. `m` streams leave a full node of `c` slots at
    /// `c` over the time one takes; whoever waits goes in first.
    #[inline]
    fn learnt(outlook: &Outlook, read_ms: f64) -> Self {
        let ratio = match outlook.ratio {
            ratio if ratio > 0.0 => f64::from(ratio),
            _ => 1.0,
        };
        let service = (f64::from(outlook.base_ms) + read_ms) * ratio;
        let service_sd = service * f64::from(outlook.ratio_sd) / ratio;
        if outlook.open < outlook.slots {
            return Self {
                mean: service,
                deviation: service_sd,
                skewed: false,
            };
        }
        let per_slot = 1.0 / f64::from(outlook.slots);
        let first_free = f64::from(outlook.running_ms) * per_slot;
        let queue = f64::from(outlook.waiting_ms) * per_slot;
        let waiting = f64::from(outlook.waiting.max(1));
        let variance = first_free * first_free
            + f64::from(outlook.spread) * queue * queue / waiting
            + service_sd * service_sd;
        Self {
            mean: first_free + queue + service,
            deviation: variance.sqrt(),
            skewed: true,
        }
    }

    /// As the node's report says, corrected by how such reports turned out,
    /// and behind the prompts that were sent there since.
    #[inline]
    fn reported((told, to_p99): (f64, f64), outlook: &Outlook) -> Self {
        let waiting = f64::from(outlook.waiting_ms);
        if outlook.ratio > 0.0 {
            let told = told + waiting;
            return Self {
                mean: told * f64::from(outlook.ratio),
                deviation: told * f64::from(outlook.ratio_sd),
                skewed: false,
            };
        }
        Self {
            mean: told + waiting,
            deviation: to_p99 / P99_Z,
            skewed: false,
        }
    }

    /// The older the report, the wider the guess.
    #[inline]
    fn doubted(mut self, age_us: u64) -> Self {
        if age_us > 0 {
            let doubt = (age_us as f64 * PER_DOUBT_US).min(1.0);
            self.deviation += 0.5 * doubt * self.mean;
        }
        self
    }

    /// The time not exceeded with a chance that lies `z` deviations out: a
    /// gamma's by Wilson and Hilferty, in exact arithmetic.
    #[inline]
    fn quantile(&self, z: f64) -> f64 {
        if !self.skewed || self.mean <= 0.0 {
            return self.mean + z * self.deviation;
        }
        let relative = self.deviation / self.mean;
        let ninth = relative * relative * (1.0 / 9.0);
        let root = (1.0 - ninth + z * relative * (1.0 / 3.0)).max(0.0);
        self.mean * root * root * root
    }
}

/// The point below which a share of the standard normal distribution lies, by
/// Acklam's approximation: 1e-9 off at most.
#[must_use]
pub(crate) fn normal_quantile(share: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 5] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
    ];
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 4] = [
        7.784_695_709_041_462e-3,
        3.224_671_290_700_398e-1,
        2.445_134_137_142_996,
        3.754_408_661_907_416,
    ];
    const TAIL: f64 = 0.024_25;
    let poly = |terms: &[f64], x: f64| terms.iter().fold(0.0, |sum, term| sum * x + term);
    let share = share.clamp(1e-9, 1.0 - 1e-9);
    if !(TAIL..=1.0 - TAIL).contains(&share) {
        let tail = share.min(1.0 - share);
        let q = (-2.0 * libm::log(tail)).sqrt();
        let z = poly(&C, q) / (poly(&D, q) * q + 1.0);
        return if share < TAIL { z } else { -z };
    }
    let q = share - 0.5;
    let r = q * q;
    poly(&A, r) * q / (poly(&B, r) * r + 1.0)
}

#[cfg(test)]
mod tests;
