//! The routing decision: context → constraints → scores → plan.
//!
//! It is a function. The nodes come as a [`Snapshot`], the time and the seed
//! as arguments, and the same arguments give the same plan, bit for bit: no
//! clock, no randomness, no map whose order varies, and of floating point
//! only the operations IEEE 754 defines exactly. A decision therefore replays
//! from the point of the report log it names.
//!
//! Hard limits are not scores. [`constraint`] removes candidates, each with a
//! [`Reason`](tiermesh_core::Reason); only what remains is scored. What a
//! policy weighs, and which tiers it likes, is data ([`Policies`]): no code
//! here names a policy.
//!
//! [`Snapshot`]: tiermesh_core::Snapshot

pub mod analysis;
mod chances;
pub mod constraint;
mod decide;
mod estimate;
mod few;
mod limits;
mod line;
mod plan;
mod policy;
mod ranking;
pub mod record;
mod refusal;
mod score;
pub mod state;

pub use chances::{MAX_CHANCES, chances};
pub use decide::{Answer, Question, Warm, decide};
pub use estimate::Estimate;
pub use few::Few;
pub use limits::Limits;
pub use line::{Line, Turn};
pub use plan::{Choice, Hold, MAX_FALLBACKS, MAX_REMOVED, Plan, Removed, Wanted};
pub use policy::{
    DeadlineRule, Hedge, Metered, Policies, Policy, PolicyError, Preference, Tenant, Weights,
};
pub use refusal::NoCandidate;
pub use score::Points;

#[cfg(test)]
mod tests;
