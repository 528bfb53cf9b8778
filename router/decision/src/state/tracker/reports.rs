//! What nodes say of themselves.

use super::Tracker;
use std::sync::Arc;
use tiermesh_core::{CapacityReport, ModelOffer, NodeId, Outlook, Time};

impl Tracker {
    /// A node's report. One older than the last is dropped.
    pub fn report(&mut self, node: &NodeId, report: &CapacityReport, rtt_ms: f32, now: Time) {
        let Some(known) = self.nodes.get_mut(node) else {
            return;
        };
        if known.sequence.is_some_and(|last| last >= report.sequence) {
            return;
        }
        known.sequence = Some(report.sequence);
        known.credits = report.credits;
        known.rtt_ms = rtt_ms;
        let slots = known.slots;
        known.reported(report, now);
        // Whoever reports is there, whatever one stream of it came to.
        let cleared = std::mem::take(&mut known.suspect) && !known.silent;
        if cleared {
            known.ready_at = None;
        }
        for (model, state) in known.models.iter_mut().zip(&report.models) {
            model.kv_most = model.kv_most.max(state.kv_tokens_free);
        }
        let (changed, pooled) = (known.slots != slots, known.part.pool != 0);
        if changed {
            self.pool(node, now);
        } else if pooled {
            self.count(node, now);
        }
        let Some(known) = self.nodes.get(node) else {
            return;
        };
        let outlook = self.pools.outlook(known.outlook(), known.part, now);
        let idle = !known.fixed && report.active < known.slots;
        for (model, state) in known.models.iter().zip(&report.models) {
            let outlook = Outlook {
                reported_at: Some(now),
                ..model.outlook(outlook, state, now)
            };
            // With a slot free, what it says of a short prompt has no queue in
            // it, and is what any prompt begins with.
            let base_ms = idle.then_some(state.first_token_ms);
            let (open, credits) = (known.open, known.credits);
            let load = known.share(report.load);
            self.snapshot.candidates.update(model.index, |candidate| {
                let ready_at = candidate.outlook.ready_at;
                let base_ms = base_ms.unwrap_or(candidate.outlook.base_ms);
                candidate.state = *state;
                candidate.rtt_ms = rtt_ms;
                candidate.credits_free = credits.saturating_sub(open);
                candidate.load = load;
                candidate.battery_percent = report.battery_percent;
                candidate.outlook = Outlook { base_ms, ..outlook };
                candidate.outlook.ready_at = ready_at.filter(|_| !cleared);
            });
        }
        self.snapshot.sequence += 1;
    }

    /// A node lets so many streams be open, whatever its last report said.
    pub fn credits(&mut self, node: &NodeId, credits: u32, now: Time) {
        if let Some(known) = self.nodes.get_mut(node)
            && known.credits != credits
        {
            known.credits = credits;
            self.count(node, now);
            self.refresh(node, now);
        }
    }

    /// A model's price or quality is another now.
    pub fn offer(&mut self, node: &NodeId, offer: &Arc<ModelOffer>, now: Time) {
        let Some(known) = self.nodes.get(node) else {
            return;
        };
        for model in known.models.iter().filter(|model| model.id == offer.id) {
            self.snapshot
                .candidates
                .update(model.index, |candidate| candidate.model = offer.clone());
        }
        self.pool(node, now);
        self.snapshot.sequence += 1;
    }
}
