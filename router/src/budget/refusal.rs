//! Windows, and what a payer is told whose money is not there.

use super::{Name, Window};
use std::time::Duration;
use tiermesh_core::{ErrorClass, InferError, Time, Usd};

impl Name {
    pub(super) const fn kind(&self) -> usize {
        match self {
            Self::User(_) => 0,
            Self::Key(_) => 1,
            Self::Tenant(_) => 2,
        }
    }

    pub(super) const fn what(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Key(_) => "API key",
            Self::Tenant(_) => "tenant",
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

pub(super) fn over_the_window(name: &Name, window: Window, now: Time) -> InferError {
    let per = u64::try_from(window.per.as_micros())
        .unwrap_or(u64::MAX)
        .max(1);
    let left = Duration::from_micros(per - now.as_us() % per);
    let what = name.what();
    InferError::new(
        ErrorClass::Exhausted,
        "BUDGET_EXHAUSTED",
        format!(
            "the {what}'s budget of {} in {} s is used up or reserved",
            window.most,
            window.per.as_secs()
        ),
    )
    .with("removed_by", "over_budget")
    .retry_after(left)
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
