//! What is known of nodes and their models, as reports and answers teach it.
//!
//! [`Tracker`] takes reports and what happens to streams, each with the time
//! it happened, and keeps the candidates of the next [`Snapshot`] up to date;
//! taking a snapshot copies one reference. Nothing here reads a clock, and
//! the same calls in the same order leave the same state, bit for bit.
//!
//! [`Snapshot`]: tiermesh_core::Snapshot

mod calibration;
mod lengths;
mod prefix;
mod prompts;
mod sketch;
mod tracker;

pub use calibration::Calibration;
pub use lengths::Lengths;
pub use prefix::{MAX_BLOCKS, PrefixIndex};
pub use prompts::Prompts;
pub use sketch::{Moments, Sketch};
pub use tracker::{Joined, Learnt, Opened, StreamId, Tracker};

#[cfg(test)]
mod holding_tests;
#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod tests;
