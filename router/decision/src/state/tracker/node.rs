//! What a node's streams say about the next one.

use super::{Model, Node};
use tiermesh_core::{CapacityReport, ModelState, Outlook, Time};

/// More tokens than any memory holds.
const KV_MOST: i64 = 1 << 30;

impl Model {
    /// What to expect of it on a node of which this is known.
    pub(super) fn outlook(&self, of_node: Outlook, state: &ModelState, now: Time) -> Outlook {
        let per_slot = self.kv_most.checked_div(of_node.slots).unwrap_or(0);
        let told = i64::from(state.kv_tokens_free);
        let free = told - i64::from(of_node.kv_free);
        Outlook {
            kv_slot: per_slot,
            kv_free: free.clamp(0, KV_MOST) as i32,
            ..self.learnt.outlook(of_node, now)
        }
    }
}

impl Node {
    /// Busy share: what is open where the slots are known, else as reported.
    pub(super) fn share(&self, reported: f32) -> f32 {
        if self.slots == 0 {
            let since = self.unseen as f32 / self.capacity.max(1.0);
            // What is no share is the constraints' to remove.
            return if since > 0.0 && reported < 1.0 {
                (reported + since).min(1.0)
            } else {
                reported
            };
        }
        (self.streams() as f32 / self.slots as f32).min(1.0)
    }

    /// Its report: from here on, what is sent there it has not told of.
    pub(super) fn reported(&mut self, report: &CapacityReport, now: Time) {
        self.load = report.load;
        if !self.fixed {
            self.slots = report.slots;
        }
        let streams = (report.active.saturating_add(report.queued)) as f32;
        self.capacity = match report.load {
            load if load > 0.0 && streams > 0.0 => streams / load,
            _ => self.credits as f32,
        };
        let streams = report.active.saturating_add(report.queued);
        self.others = match self.slots {
            0 => 0,
            _ => streams.saturating_sub(self.open),
        };
        self.reported_at = now;
        self.kv_since = 0;
        (self.unseen, self.unseen_ms) = (0, 0.0);
    }

    /// A stream that was sent since the last report is being read no more.
    pub(super) fn seen(&mut self, at: Time, read_ms: f64) {
        if at >= self.reported_at {
            self.unseen = self.unseen.saturating_sub(1);
            self.unseen_ms = (self.unseen_ms - read_ms).max(0.0);
        }
        if self.unseen == 0 {
            self.unseen_ms = 0.0;
        }
    }

    /// What is the same for all of its models.
    pub(super) fn outlook(&self) -> Outlook {
        Outlook {
            slots: self.takes(),
            open: self.streams(),
            // Models make of it what is free for them.
            kv_free: self.kv_since.clamp(-KV_MOST, KV_MOST) as i32,
            waiting: self.waiting.min(self.open),
            // Those that are being read are not waiting, but hold their slot
            // as long as if they just began.
            waiting_ms: match self.slots {
                0 => self.unseen_ms as f32,
                _ => self.queued_ms() as f32,
            },
            ..Outlook::default()
        }
    }

    /// Slot time of those that wait for a slot. Streams without a first token
    /// are waiting or being read; as many as there are slots without a running
    /// stream are being read.
    fn queued_ms(&self) -> f64 {
        let running = self.open.saturating_sub(self.waiting);
        let reading = self.slots.saturating_sub(running).min(self.waiting);
        let queued = self.waiting - reading;
        if self.waiting == 0 {
            return 0.0;
        }
        self.waiting_ms * f64::from(queued) / f64::from(self.waiting)
    }
}
