//! What to expect of a candidate, from its last report.

use crate::limits::Limits;
use crate::policy::Policy;
use tiermesh_core::{CandidateState, Tier, Usd};

/// Prompt tokens that a node's reported first-token time already covers.
const SHORT_PROMPT_TOKENS: u32 = 32;
/// Speeds assumed of a node that has not measured its own yet: slow enough
/// not to win over one that has.
const UNMEASURED_PREFILL_TOK_S: f64 = 500.0;
const UNMEASURED_DECODE_TOK_S: f64 = 20.0;

/// What to expect of one candidate for one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Milliseconds to the first token, the way there and back included.
    pub first_token_ms: f64,
    /// The same, at its 99th percentile.
    pub first_token_p99_ms: f64,
    /// Milliseconds to the end of the longest answer asked for.
    pub total_ms: f64,
    /// Price of the prompt and the longest answer asked for.
    pub cost: Usd,
    /// What it takes from a device's battery, as money that nobody is charged.
    pub energy: Usd,
}

impl Estimate {
    /// The estimate for a candidate whose report is usable.
    #[must_use]
    #[inline]
    pub fn of(limits: &Limits, policy: &Policy, candidate: &CandidateState) -> Self {
        let state = &candidate.state;
        let measured = |speed: f32, otherwise: f64| match speed {
            speed if speed > 0.0 => f64::from(speed),
            _ => otherwise,
        };
        let prefill_tok_s = measured(state.prefill_tok_s, UNMEASURED_PREFILL_TOK_S);
        let decode_tok_s = measured(state.decode_tok_s, UNMEASURED_DECODE_TOK_S);
        let long = limits.prompt_tokens.saturating_sub(SHORT_PROMPT_TOKENS);
        let on_top = f64::from(candidate.rtt_ms) + f64::from(long) * 1e3 / prefill_tok_s;
        let first_token_ms = f64::from(state.first_token_ms) + on_top;
        let p99_ms = f64::from(state.first_token_p99_ms.max(state.first_token_ms)) + on_top;
        let rest = limits.output_tokens.saturating_sub(1);
        let tokens = (
            u64::from(limits.prompt_tokens),
            u64::from(limits.output_tokens),
        );
        let energy = match candidate.tier {
            Tier::Device if policy.device_energy_per_million > Usd::ZERO => policy
                .device_energy_per_million
                .per_million(tokens.0 + tokens.1),
            _ => Usd::ZERO,
        };
        Self {
            first_token_ms,
            first_token_p99_ms: p99_ms,
            total_ms: first_token_ms + f64::from(rest) * 1e3 / decode_tok_s,
            cost: candidate.model.cost(tokens.0, tokens.1),
            energy,
        }
    }
}
