//! What one request demands: its own words, and its policy's where it said
//! nothing.

use crate::decide::Question;
use crate::policy::{DeadlineRule, Policy};
use tiermesh_core::{Context, Deadline, Privacy, RequestMeta, Task, Time, Usd};

/// The limits of one request under one policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// The stricter of the request's and the policy's.
    pub privacy: Privacy,
    /// What travels with the request already, else what the client asked,
    /// else what the policy wants.
    pub deadline: Deadline,
    /// Whether missing the first token's time removes a candidate: the client
    /// asked for it, or the policy does more than steer.
    pub first_token_binds: bool,
    /// The same for the end.
    pub total_binds: bool,
    /// Whether nobody is better than somebody late.
    pub strict: bool,
    /// The most the answer may cost.
    pub max_cost: Option<Usd>,
    /// Tokens to read, an estimate: the prompt and what was said already.
    pub prompt_tokens: u32,
    /// The same as models count, where that was learnt.
    pub likely_prompt: u32,
    /// The most tokens still to write; 0 for tasks that do not write.
    pub output_tokens: u32,
    /// Tokens it will likely write, and tokens it will hardly exceed; both the
    /// most it may write when nothing was learnt.
    pub answer: (u32, u32),
}

impl Limits {
    /// The limits of a request that is decided at `now`. With the result's
    /// `deadline` written into the context, it comes out the same later.
    #[must_use]
    pub fn of(meta: &RequestMeta, context: &Context, policy: &Policy, now: Time) -> Self {
        let carried = context.deadline;
        let from_now = |rest: Option<_>| rest.map(|rest| now + rest);
        let policy_binds = policy.deadline != DeadlineRule::Steer;
        let writes = matches!(meta.task, Task::Generate | Task::Chat);
        let said = u32::try_from(context.continuation.said()).unwrap_or(u32::MAX);
        let output_tokens = if writes {
            meta.sampling.max_tokens.saturating_sub(said)
        } else {
            0
        };
        let prompt_tokens = meta.estimated_prompt_tokens().saturating_add(said);
        Self {
            privacy: meta.privacy.min(policy.privacy),
            deadline: Deadline {
                first_token: carried
                    .first_token
                    .or_else(|| from_now(meta.first_token.or(policy.first_token))),
                total: carried
                    .total
                    .or_else(|| from_now(meta.total.or(policy.total))),
            },
            first_token_binds: meta.first_token.is_some() || policy_binds,
            total_binds: meta.total.is_some() || policy_binds,
            strict: policy.deadline == DeadlineRule::Require,
            max_cost: meta.max_cost.or(policy.max_cost),
            prompt_tokens,
            likely_prompt: prompt_tokens,
            output_tokens,
            answer: (output_tokens, output_tokens),
        }
    }

    /// The limits of a question, with what was learnt of such requests.
    #[must_use]
    pub fn asked(question: &Question<'_>) -> Self {
        let (meta, context) = (question.meta, question.context);
        let mut limits = Self::of(meta, context, question.policy, question.now);
        if let Some(answer) = question.answer {
            let most = limits.output_tokens;
            limits.answer = (answer.likely.min(most), answer.high.min(most));
        }
        if let Some(prompt) = question.prompt_tokens {
            let said =
                limits.prompt_tokens - meta.estimated_prompt_tokens().min(limits.prompt_tokens);
            limits.likely_prompt = prompt.saturating_add(said);
        }
        limits
    }
}
