//! What a node's streams say about the next one.

use super::{ENOUGH, Model, Node, UNKNOWN_ANSWER_MS};
use tiermesh_core::{Outlook, Time};

impl Node {
    /// Busy share: what is open where the slots are known, else as reported.
    pub(super) fn share(&self, reported: f32) -> f32 {
        if self.slots == 0 {
            return reported;
        }
        (self.open as f32 / self.slots as f32).min(1.0)
    }

    /// What is the same for all of its models.
    pub(super) fn outlook(&self) -> Outlook {
        Outlook {
            slots: self.slots,
            open: self.open,
            waiting: self.waiting.min(self.open),
            // Those that are being read are not waiting, but hold their slot
            // as long as if they just began.
            waiting_ms: self.queued_ms() as f32,
            base_ms: self.base_ms,
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

impl Model {
    pub(super) fn outlook(
        &self,
        of_node: Outlook,
        slots: u32,
        reported_at: Option<Time>,
    ) -> Outlook {
        let spread = self.answering.spread_or(ENOUGH, 1.0).clamp(0.05, 25.0);
        // One stream met at any moment has this much of its mean left; many
        // streams end one after another as if each moment were the first.
        let alone = 0.5 * (1.0 + spread);
        let share = 1.0 / f64::from(slots.max(1));
        let rest =
            self.answering.mean_or(ENOUGH, UNKNOWN_ANSWER_MS) * (share * alone + (1.0 - share));
        let waiting_each = match of_node.waiting {
            0 => 0.0,
            _ => of_node.waiting_ms,
        };
        Outlook {
            reported_at,
            waiting_ms: waiting_each,
            running_ms: rest as f32,
            spread: spread as f32,
            ratio: self.ratio.mean_or(ENOUGH, 1.0) as f32,
            ratio_sd: if self.ratio.samples() >= ENOUGH {
                self.ratio.deviation() as f32
            } else {
                0.25
            },
            samples: self.answering.samples().min(1e6) as f32,
            ..of_node
        }
    }
}
