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
/// Who is held back may still go elsewhere: a chance of a slot in time of one
/// in six is enough to wait for it.
const HELD_Z: f64 = -1.0;
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
    /// Milliseconds of a slot that it takes, where slots are known; of more than
    /// one, if it takes the memory of several.
    pub hold_ms: f64,
    /// What those keep from others, as money that nobody is charged.
    pub slot: Usd,
    /// Tokens of keys and values that it will likely take.
    pub kv_tokens: u32,
    /// It waits there for a slot or for memory.
    pub queued: bool,
    /// No slot is free: it would be held back until there is one, there or at
    /// one of its like.
    pub held: bool,
    /// The time to the first token with a slot free, and the same at the
    /// chance that the policy calls sure.
    pub served_ms: (f64, f64),
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
        (warm_tokens, hold): (u32, Option<u32>),
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
        let kv_tokens = prompt.saturating_add(limits.answer.0);
        let no_slot = outlook.slots > 0 && outlook.open >= outlook.slots;
        // Room for what it will likely be, beside a stream that is there.
        let no_room = outlook.kv_slot > 0
            && outlook.open > 0
            && i64::from(kv_tokens) > i64::from(outlook.kv_free);
        let is_full = no_slot || no_room;
        // With a slot free at one of its like, that one is asked, however much
        // better this one is. For memory one waits at the node: what comes
        // free there bit by bit would else be taken by others for ever.
        let before = hold.map(|most| outlook.held.min(most));
        let before = before.filter(|before| no_slot && outlook.pool_is_full(*before));
        let held = before.is_some();
        let served = if outlook.slots > 0 {
            Ahead::served(outlook, f64::from(cold) * 1e3 / prefill_tok_s)
        } else {
            Ahead::reported(reported_ms(state, cold), outlook)
        };
        let age_us = candidate.age_us(now);
        let ahead = match is_full {
            true => served.queued(outlook, before).doubted(age_us),
            false => served.doubted(age_us),
        };
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
        let slots = match outlook.kv_slot {
            0 => 1.0,
            a_slot => slots_taken(f64::from(kv_tokens) / f64::from(a_slot)),
        };
        let hold_ms = slots * (served.mean + rest(limits.answer.0) + token_ms);
        let scarcity = f64::from(outlook.scarcity.min(1.0));
        let sure_z = match held {
            true => policy.sure_z.min(HELD_Z),
            false => policy.sure_z,
        };
        let sure_ms = fixed_ms + ahead.quantile(sure_z);
        let served_ms = match is_full {
            true => {
                let served = served.doubted(age_us);
                let sure_ms = served.quantile(policy.sure_z);
                (fixed_ms + served.mean, fixed_ms + sure_ms)
            }
            false => (first_token_ms, sure_ms),
        };
        // A slot that comes free is of use only while it would surely do.
        let first_token_sure_ms = sure_ms.max(served_ms.1);
        Self {
            first_token_ms,
            first_token_p99_ms: fixed_ms + ahead.quantile(P99_Z),
            first_token_sure_ms,
            deviation_ms: ahead.deviation,
            total_ms: first_token_ms + rest(limits.answer.1),
            cost,
            likely_cost: match limits.answer.0 {
                likely if (prompt, likely) == (most_prompt, limits.output_tokens) => cost,
                likely => price(prompt, likely),
            },
            energy,
            warm_share: f64::from(warm) / (prompt.max(1) as f64),
            hold_ms,
            kv_tokens,
            // Whoever queues at one node is bound to it meanwhile.
            slot: match held {
                true => slot_usd(outlook, hold_ms, scarcity),
                false => slot_usd(outlook, hold_ms + ahead.mean - served.mean, scarcity),
            },
            held,
            queued: is_full,
            served_ms,
        }
    }

    /// The same as it were with a slot free, where they are as scarce as can
    /// be: who would be chosen then is who is wanted.
    pub(crate) fn wanted(&self, outlook: &Outlook) -> Self {
        Self {
            first_token_ms: self.served_ms.0,
            first_token_sure_ms: self.served_ms.1,
            slot: slot_usd(outlook, self.hold_ms, 1.0),
            ..*self
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

/// Slots that others cannot use meanwhile, for one that takes the memory of so
/// many. Where memory runs out first it is as many, where slots do it is one.
/// Which of them it will be depends on who else comes; it counts half.
fn slots_taken(memory_of: f64) -> f64 {
    1.0 + 0.5 * (memory_of - 1.0).max(0.0)
}

/// What so much of a slot is worth.
fn slot_usd(outlook: &Outlook, hold_ms: f64, scarcity: f64) -> Usd {
    if outlook.slot_usd_s <= 0.0 {
        return Usd::ZERO;
    }
    let nanos = f64::from(outlook.slot_usd_s) * hold_ms * 1e6 * scarcity;
    // What is no number becomes nothing.
    Usd::from_nanos(nanos as u64)
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
    /// On a free slot, as such times were.
    #[inline]
    fn served(outlook: &Outlook, read_ms: f64) -> Self {
        let ratio = match outlook.ratio {
            ratio if ratio > 0.0 => f64::from(ratio),
            _ => 1.0,
        };
        let service = (f64::from(outlook.base_ms) + read_ms) * ratio;
        Self {
            mean: service,
            deviation: service * f64::from(outlook.ratio_sd) / ratio,
            skewed: false,
        }
    }

    /// Behind whoever is there already. `m` streams leave a full node of `c`
    /// slots at `c` over the time one takes; whoever waits goes in first. Held
    /// back, it is the next but so many of the whole pool.
    #[inline]
    fn queued(self, outlook: &Outlook, before: Option<u32>) -> Self {
        let own_variance = self.deviation * self.deviation;
        let a_turn = f64::from(outlook.running_ms) / f64::from(outlook.pool_busy.max(1));
        if let Some(before) = before {
            let turns = f64::from(before) + 1.0;
            let wait = a_turn * turns;
            return Self {
                mean: wait + self.mean,
                deviation: (wait * wait / turns + own_variance).sqrt(),
                skewed: true,
            };
        }
        let busy = outlook.open.clamp(1, outlook.slots.max(1));
        let per_slot = 1.0 / f64::from(busy);
        let first_free = f64::from(outlook.running_ms) * per_slot;
        // Those that are held back go in before whoever queues there, if the
        // whole pool is full.
        let line = match outlook.pool_is_full(outlook.held) {
            true => a_turn * f64::from(outlook.held),
            false => 0.0,
        };
        let queue = f64::from(outlook.waiting_ms) * per_slot + line;
        let waiting = f64::from(outlook.waiting.max(1));
        let variance = first_free * first_free
            + f64::from(outlook.spread) * queue * queue / waiting
            + own_variance;
        Self {
            mean: first_free + queue + self.mean,
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
