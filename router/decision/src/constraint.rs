//! Hard limits: each removes a candidate or lets it pass, and none is ever
//! weighed against a score.

use crate::decide::Question;
use crate::estimate::Estimate;
use crate::limits::Limits;
use crate::policy::Metered;
use std::time::Duration;
use tiermesh_core::privacy::{self, Forbidden, Place};
use tiermesh_core::traits::MAX_HOPS;
use tiermesh_core::{BreakerState, CandidateState, NetworkKind, Outlook, Reason, Tier, Time};

/// A report older than this is not trusted. Leases end before; this is the
/// guard behind them.
pub const MAX_REPORT_AGE: Duration = Duration::from_secs(35);
/// Above these, a reported number is not a measurement.
const MAX_LATENCY_MS: f32 = 600_000.0;
const MAX_TOK_S: f32 = 1e7;

/// What removed a candidate, in the order it is checked: what a candidate is,
/// then what it may see, then how it is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Constraint {
    /// It does not have the model.
    Model,
    /// The model cannot do the task.
    Task,
    /// Prompt and answer are too long for the model.
    Context,
    /// Privacy forbids its tier or its transit's.
    Privacy,
    /// It, or its transit, is in another region.
    Residency,
    /// It is somebody else's device.
    Owner,
    /// The sender's scope leaves it out, or it is a hop too far.
    Scope,
    /// The request came through it.
    Visited,
    /// It reported nonsense.
    Report,
    /// It has not reported for long.
    Stale,
    /// The model is not good enough.
    Quality,
    /// It is a device on a metered network.
    Metered,
    /// It is too expensive.
    Budget,
    /// Its breaker is open.
    Breaker,
    /// It has no credit.
    Credit,
    /// It would be late.
    Deadline,
}

impl Constraint {
    /// How many there are.
    pub const COUNT: usize = 16;

    /// Every constraint, in the order it is checked.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Model,
        Self::Task,
        Self::Context,
        Self::Privacy,
        Self::Residency,
        Self::Owner,
        Self::Scope,
        Self::Visited,
        Self::Report,
        Self::Stale,
        Self::Quality,
        Self::Metered,
        Self::Budget,
        Self::Breaker,
        Self::Credit,
        Self::Deadline,
    ];

    /// The constraint behind a reason; none for a reason that removes nobody.
    #[must_use]
    pub const fn of(reason: &Reason) -> Option<Self> {
        Some(match reason {
            Reason::ModelMismatch => Self::Model,
            Reason::TaskUnsupported => Self::Task,
            Reason::ContextTooShort { .. } => Self::Context,
            Reason::PrivacyForbids { .. } => Self::Privacy,
            Reason::ResidencyForbids => Self::Residency,
            Reason::NotOwner => Self::Owner,
            Reason::ScopeForbids { .. } => Self::Scope,
            Reason::AlreadyVisited => Self::Visited,
            Reason::UnusableReport => Self::Report,
            Reason::StaleReport { .. } => Self::Stale,
            Reason::QualityBelow { .. } => Self::Quality,
            Reason::MeteredNetwork => Self::Metered,
            Reason::OverBudget { .. } => Self::Budget,
            Reason::BreakerOpen { .. } => Self::Breaker,
            Reason::NoCredit => Self::Credit,
            Reason::DeadlineInfeasible { .. } => Self::Deadline,
            _ => return None,
        })
    }

    /// The code of the reason it gives.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Model => "model_mismatch",
            Self::Task => "task_unsupported",
            Self::Context => "context_too_short",
            Self::Privacy => "privacy_forbids",
            Self::Residency => "residency_forbids",
            Self::Owner => "not_owner",
            Self::Scope => "scope_forbids",
            Self::Visited => "already_visited",
            Self::Report => "unusable_report",
            Self::Stale => "stale_report",
            Self::Quality => "quality_below",
            Self::Metered => "metered_network",
            Self::Budget => "over_budget",
            Self::Breaker => "breaker_open",
            Self::Credit => "no_credit",
            Self::Deadline => "deadline_infeasible",
        }
    }
}

type Verdict = Result<(), Reason>;

/// Every limit but the deadline, which needs to know about the others.
/// On success, what to expect of the candidate.
#[inline]
pub(crate) fn check(
    question: &Question<'_>,
    limits: &Limits,
    candidate: &CandidateState,
    index: usize,
) -> Result<Estimate, Reason> {
    model(question, candidate)?;
    task(question, candidate)?;
    context(limits, candidate)?;
    may_see(question, limits, candidate)?;
    scope(question, candidate)?;
    visited(question, candidate)?;
    report(candidate)?;
    stale(question, candidate)?;
    quality(question, candidate)?;
    metered(question, candidate)?;
    let warm = question.warm_tokens(index);
    let estimate = Estimate::of(
        limits,
        question.policy,
        candidate,
        question.now,
        (warm, question.hold),
    );
    budget(limits, &estimate)?;
    breaker(candidate)?;
    credit(candidate)?;
    Ok(estimate)
}

fn model(question: &Question<'_>, candidate: &CandidateState) -> Verdict {
    let offer = &candidate.model;
    let chosen = question.context.model.as_ref();
    if chosen.is_none_or(|model| model == &offer.id)
        && question.meta.model.matches(&offer.id, &offer.family)
    {
        return Ok(());
    }
    Err(Reason::ModelMismatch)
}

fn task(question: &Question<'_>, candidate: &CandidateState) -> Verdict {
    if candidate.model.tasks.contains(&question.meta.task) {
        return Ok(());
    }
    Err(Reason::TaskUnsupported)
}

fn context(limits: &Limits, candidate: &CandidateState) -> Verdict {
    let needed = limits.prompt_tokens.saturating_add(limits.output_tokens);
    let limit = candidate.model.context_tokens;
    if needed <= limit {
        return Ok(());
    }
    Err(Reason::ContextTooShort { needed, limit })
}

/// Privacy, residency and ownership, of the candidate and of its transit.
fn may_see(question: &Question<'_>, limits: &Limits, candidate: &CandidateState) -> Verdict {
    let rules = privacy::Limits {
        privacy: limits.privacy,
        residency: question.meta.residency.as_ref(),
        user: &question.meta.user_id,
    };
    let place = Place {
        tier: candidate.tier,
        region: candidate.region.as_ref(),
        owner: candidate.owner.as_ref(),
    };
    forbidden(&rules, &place)?;
    match &candidate.transit {
        Some(transit) => forbidden(&rules, &Place::of(transit)),
        None => Ok(()),
    }
}

fn forbidden(rules: &privacy::Limits<'_>, place: &Place<'_>) -> Verdict {
    match rules.forbids(place) {
        None => Ok(()),
        Some(Forbidden::Privacy) => Err(Reason::PrivacyForbids {
            privacy: rules.privacy,
            tier: place.tier,
        }),
        Some(Forbidden::Residency(_) | Forbidden::NoRegion) => Err(Reason::ResidencyForbids),
        Some(Forbidden::NotOwner) => Err(Reason::NotOwner),
    }
}

/// The sender's scope and the hops left. The deciding node's own engine is
/// always in scope: the scope is about passing on.
fn scope(question: &Question<'_>, candidate: &CandidateState) -> Verdict {
    let scope = question.context.scope;
    let tiers = |tier| scope.contains(tier);
    let transit = candidate.transit.as_ref();
    let in_scope = tiers(candidate.tier) && transit.is_none_or(|hop| tiers(hop.tier));
    let hops = question.context.via.hops().len() + 1 + usize::from(transit.is_some());
    if (in_scope && hops <= MAX_HOPS) || &candidate.node == question.own {
        return Ok(());
    }
    Err(Reason::ScopeForbids {
        tier: match transit {
            Some(hop) if !tiers(hop.tier) => hop.tier,
            _ => candidate.tier,
        },
    })
}

fn visited(question: &Question<'_>, candidate: &CandidateState) -> Verdict {
    let via = &question.context.via;
    let passed = |hop| via.contains(hop);
    if via.hops().is_empty()
        || !(passed(&candidate.node)
            || candidate
                .transit
                .as_ref()
                .is_some_and(|hop| passed(&hop.node)))
    {
        return Ok(());
    }
    Err(Reason::AlreadyVisited)
}

/// A number that is negative, infinite, absurd or none at all.
#[inline]
fn report(candidate: &CandidateState) -> Verdict {
    let state = &candidate.state;
    let share = |value: f32| (0.0..=1.0).contains(&value);
    let latency = |value: f32| (0.0..=MAX_LATENCY_MS).contains(&value);
    let speed = |value: f32| (0.0..=MAX_TOK_S).contains(&value);
    if share(candidate.load)
        && share(candidate.model.quality)
        && latency(candidate.rtt_ms)
        && latency(state.first_token_ms)
        && latency(state.first_token_p99_ms)
        && speed(state.prefill_tok_s)
        && speed(state.decode_tok_s)
        && outlook(&candidate.outlook)
    {
        return Ok(());
    }
    Err(Reason::UnusableReport)
}

/// What was learnt comes from what nodes did and said; neither may decide
/// anything with a number that is none.
#[inline]
fn outlook(outlook: &Outlook) -> bool {
    let latency = |value: f32| (0.0..=MAX_LATENCY_MS * 1e3).contains(&value);
    let factor = |value: f32| (0.0..=1e4).contains(&value);
    latency(outlook.waiting_ms)
        && latency(outlook.running_ms)
        && latency(outlook.base_ms)
        && latency(outlook.per_token_ms)
        && factor(outlook.spread)
        && factor(outlook.ratio)
        && factor(outlook.ratio_sd)
        && factor(outlook.slot_usd_s)
        && factor(outlook.scarcity)
}

fn stale(question: &Question<'_>, candidate: &CandidateState) -> Verdict {
    let age_us = candidate.age_us(question.now);
    if age_us <= MAX_REPORT_AGE.as_secs() * 1_000_000 {
        return Ok(());
    }
    Err(Reason::StaleReport {
        age_ms: age_us / 1_000,
    })
}

fn quality(question: &Question<'_>, candidate: &CandidateState) -> Verdict {
    let (quality, least) = (candidate.model.quality, question.policy.least_quality);
    if quality >= least {
        return Ok(());
    }
    Err(Reason::QualityBelow { quality, least })
}

/// Content that goes to a device over its metered network is paid by the byte.
/// What the device answers itself costs none.
fn metered(question: &Question<'_>, candidate: &CandidateState) -> Verdict {
    let pays = candidate.tier == Tier::Device && &candidate.node != question.own;
    let spared = question.policy.metered == Metered::Avoid;
    if spared && pays && question.meta.device.network == Some(NetworkKind::Metered) {
        return Err(Reason::MeteredNetwork);
    }
    Ok(())
}

fn budget(limits: &Limits, estimate: &Estimate) -> Verdict {
    match limits.max_cost {
        Some(limit) if estimate.cost > limit => Err(Reason::OverBudget {
            estimate_usd: estimate.cost.as_dollars(),
            limit_usd: limit.as_dollars(),
        }),
        _ => Ok(()),
    }
}

fn breaker(candidate: &CandidateState) -> Verdict {
    match candidate.breaker {
        BreakerState::Closed | BreakerState::HalfOpen => Ok(()),
        BreakerState::Open { retry_in } => Err(Reason::BreakerOpen {
            retry_in_ms: u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX),
        }),
    }
}

fn credit(candidate: &CandidateState) -> Verdict {
    if candidate.credits_free > 0 {
        return Ok(());
    }
    Err(Reason::NoCredit)
}

/// Whether a candidate would be in time, where a deadline binds: for the first
/// token with the chance that the policy calls sure, for the end with an
/// answer that is hardly exceeded.
pub(crate) fn deadline(limits: &Limits, now: Time, estimate: &Estimate) -> Verdict {
    let late = |left: Option<Duration>, predicted_ms: f64| {
        let deadline_ms = left?.as_secs_f64() * 1e3;
        (predicted_ms > deadline_ms).then_some(Reason::DeadlineInfeasible {
            predicted_ms: predicted_ms as f32,
            deadline_ms: deadline_ms as f32,
        })
    };
    if limits.first_token_binds
        && let Some(reason) = late(
            limits.deadline.first_token.map(|at| at.since(now)),
            estimate.first_token_sure_ms,
        )
    {
        return Err(reason);
    }
    if limits.total_binds
        && let Some(reason) = late(limits.deadline.remaining(now), estimate.total_ms)
    {
        return Err(reason);
    }
    Ok(())
}
