//! The right to one attempt.

use super::machine::Admission;
use super::{Breakers, Key, Outcome};
use std::sync::Arc;
use tiermesh_core::{Tier, Time};

/// The right to one attempt. Settle it when the attempt's stream has ended;
/// dropped before that (the client went away), it is neutral.
#[derive(Debug)]
pub struct Ticket {
    pub(super) breakers: Arc<Breakers>,
    pub(super) key: Key,
    pub(super) tier: Option<(Tier, Admission)>,
    pub(super) whole: Admission,
    pub(super) model: Admission,
    pub(super) settled: bool,
}

impl Ticket {
    /// Says how the attempt ended.
    pub fn settle(mut self, outcome: Outcome, now: Time) {
        self.settled = true;
        let breakers = Arc::clone(&self.breakers);
        breakers.lock().settle(&self, outcome, now);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let breakers = Arc::clone(&self.breakers);
        let mut inner = breakers.lock();
        if let Some(entry) = inner.machines.get_mut(&self.key) {
            entry.machine.settle_neutral(&self.model);
        }
        if let Some(entry) = inner.nodes.get_mut(self.key.node()) {
            entry.machine.settle_neutral(&self.whole);
        }
        if let Some((tier, admission)) = &self.tier
            && let Some(entry) = inner.tiers.get_mut(tier)
        {
            entry.machine.settle_neutral(admission);
        }
    }
}
