//! Dispatch: turns a decision into an answer.
//!
//! [`Dispatcher`] is an [`Infer`](tiermesh_core::Infer) over a
//! [`Fleet`](tiermesh_core::Fleet) of others. It decides
//! (`tiermesh_decision`), asks the first choice, and goes on to the next when
//! one refuses, fails or stalls before its first token; the client sees
//! another `Accepted` and nothing else. After the first token another node goes
//! on with the answer behind one `Seam`: the same tokens where it computes the
//! same, else what the client accepts. [`breaker`] keeps requests away from
//! nodes that fail.
//!
//! It never reads content. It hands the sealed request on, and whoever sends
//! or reads it opens it with a permit of its own.

pub mod breaker;
pub mod budget;
mod dispatch;
mod memory;

pub use breaker::{BreakerConfig, Breakers, Outcome};
pub use budget::{BudgetLimits, Ledger, Window};
pub use dispatch::{Advise, Allowance, Dispatcher, HedgeRule, Keeps, LookFuture, Options, Setup};
pub use memory::Memory;
pub use tiermesh_decision::analysis::{Estimator, PromptLength};
pub use tiermesh_decision::record::Journal;
pub use tiermesh_decision::state::{Joined, Tracker};
