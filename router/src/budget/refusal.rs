//! Windows, and what a payer is told whose money is not there.

use super::{Name, Window};
use std::time::Duration;
use tiermesh_core::{ErrorClass, InferError, Time, Usd};

impl Name {
    /// Whose budget it is, for people.
    fn whose(&self) -> String {
        match self {
            Self::User { user, .. } => format!("the user `{user}`'s"),
            Self::Key(key) => format!("the API key `{key}`'s"),
            Self::Tenant(tenant) => format!("the tenant `{tenant}`'s"),
        }
    }

    /// And for programs.
    fn code(&self) -> String {
        match self {
            Self::User { user, .. } => format!("user:{user}"),
            Self::Key(key) => format!("key:{key}"),
            Self::Tenant(tenant) => format!("tenant:{tenant}"),
        }
    }
}

/// Which window it is, counted from the clock's origin.
pub(super) fn number(window: Window, now: Time) -> u64 {
    let per = u64::try_from(window.per.as_micros())
        .unwrap_or(u64::MAX)
        .max(1);
    now.as_us() / per
}

/// The time until the next window.
pub(super) fn left(window: Window, now: Time) -> Duration {
    let per = u64::try_from(window.per.as_micros())
        .unwrap_or(u64::MAX)
        .max(1);
    Duration::from_micros(per - now.as_us() % per)
}

pub(super) fn over_the_window(name: &Name, window: Window, now: Time) -> InferError {
    let whose = name.whose();
    InferError::new(
        ErrorClass::Exhausted,
        "BUDGET_EXHAUSTED",
        format!(
            "{whose} budget of {} in {} s is used up or reserved",
            window.most,
            window.per.as_secs()
        ),
    )
    .with("removed_by", "over_budget")
    .with("budget", name.code())
    .retry_after(left(window, now))
}

pub(super) fn over_the_request(next: Usd, most: Usd) -> InferError {
    InferError::new(
        ErrorClass::Exhausted,
        "BUDGET_EXHAUSTED",
        format!("the answer would cost {next}, and `max_cost_usd` is {most}: raise it, or lower `max_tokens`"),
    )
    .with("field", "max_cost_usd")
    .with("removed_by", "over_budget")
}
