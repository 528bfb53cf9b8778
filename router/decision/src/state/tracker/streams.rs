//! What becomes of streams.

use super::learnt::{ENOUGH, OUTLIER};
use super::{MAX_OPEN, Open, Opened, SUSPECTED, StreamId, Tracker};
use crate::estimate::reported_ms;
use tiermesh_core::{NodeId, Outlook, Time};

/// Weight of the newest stream in how long they take of a slot.
const NEWEST_HOLD: f64 = 0.05;

impl Tracker {
    /// A stream was sent off. `prompt` are the digests of its blocks, if known.
    pub fn opened(&mut self, stream: StreamId, opened: &Opened, prompt: (&[u64], u32), now: Time) {
        let Some(candidate) = self.snapshot.candidates.get(opened.index) else {
            return;
        };
        if self.streams.len() >= MAX_OPEN {
            return;
        }
        let name = candidate.node.clone();
        let (rtt_ms, state) = (f64::from(candidate.rtt_ms), candidate.state);
        let base_ms = f64::from(candidate.outlook.base_ms);
        let Some(node) = self.nodes.get_mut(&name) else {
            return;
        };
        let Some(at) = node.models.iter().position(|m| m.index == opened.index) else {
            return;
        };
        let prefill = f64::from(state.prefill_tok_s).max(1.0);
        let decode = f64::from(state.decode_tok_s).max(1.0);
        let read_ms = base_ms + f64::from(opened.cold_tokens) * 1e3 / prefill;
        let learnt = &node.models[at].learnt;
        let per_token = learnt.per_token.mean_or(ENOUGH, 1e3 / decode);
        let write_ms = f64::from(opened.likely_tokens) * per_token;
        let hold_ms = read_ms * learnt.ratio.mean_or(ENOUGH, 1.0) + write_ms;
        let queued = opened.estimate.queued;
        if node.open == node.waiting {
            // Nobody was heard because nobody was asked.
            node.heard_at = now;
        }
        node.open += 1;
        node.kv_since += i64::from(opened.estimate.kv_tokens);
        node.waiting += 1;
        node.waiting_ms += hold_ms;
        let reported = reported_ms(&state, opened.cold_tokens).0 + node.unseen_ms;
        let unseen_ms = f64::from(opened.cold_tokens) * 1e3 / prefill;
        if node.slots == 0 {
            node.unseen += 1;
            node.unseen_ms += unseen_ms;
        }
        self.prefixes.record(node.number, prompt.0, prompt.1);
        let open = Open {
            node: name.clone(),
            model: at,
            at: now,
            predicted_ms: opened.estimate.first_token_ms,
            predicted_p99_ms: opened.estimate.first_token_p99_ms,
            rtt_ms,
            read_ms,
            hold_ms,
            reported_ms: (node.slots == 0).then_some(reported),
            unseen_ms,
            kv_tokens: opened.estimate.kv_tokens,
            queued,
            first_token: None,
        };
        self.streams.insert(stream, open);
        self.count(&name, now);
        self.refresh(&name, now);
    }

    /// A stream's first token came.
    pub fn first_token(&mut self, stream: StreamId, now: Time) {
        let Some(open) = self.streams.get_mut(&stream) else {
            return;
        };
        if open.first_token.replace(now).is_some() {
            return;
        }
        let observed_ms = now.since(open.at).as_secs_f64() * 1e3;
        let name = open.node.clone();
        let Some(node) = self.nodes.get_mut(&name) else {
            return;
        };
        node.waiting = node.waiting.saturating_sub(1);
        node.waiting_ms = (node.waiting_ms - open.hold_ms).max(0.0);
        node.seen(open.at, open.unseen_ms);
        let learnt = &mut node.models[open.model].learnt;
        learnt.first_token.record(observed_ms);
        learnt.at = now;
        let served_ms = (observed_ms - open.rtt_ms).max(0.0);
        match open.reported_ms {
            Some(reported_ms) => learnt.corrects(served_ms, reported_ms),
            None if !open.queued && open.read_ms > 0.0 => {
                // A wait that nobody knew of is no slowness.
                learnt.corrects(served_ms.min(OUTLIER * open.read_ms), open.read_ms);
            }
            None => {}
        }
        learnt
            .calibration
            .record(open.predicted_ms, open.predicted_p99_ms, observed_ms);
        self.heard(&name, now);
        self.refresh(&name, now);
    }

    /// A stream's node failed it. One that was waited for in vain for longer
    /// than its 99th percentile took at least that long.
    pub fn failed(&mut self, stream: StreamId, now: Time) {
        if let Some(open) = self.streams.get(&stream)
            && let Some(node) = self.nodes.get_mut(&open.node)
        {
            let learnt = &mut node.models[open.model].learnt;
            learnt.calibration.ended(true);
            let waited_ms = now.since(open.at).as_secs_f64() * 1e3;
            if open.first_token.is_none() && waited_ms > open.predicted_p99_ms {
                let (mean, p99) = (open.predicted_ms, open.predicted_p99_ms);
                learnt.calibration.record(mean, p99, waited_ms);
                learnt.at = now;
                if let Some(reported_ms) = open.reported_ms {
                    learnt.corrects((waited_ms - open.rtt_ms).max(0.0), reported_ms);
                }
            }
        }
        self.suspect(stream, now);
        self.closed(stream, None, now);
    }

    /// A stream's node failed it, or is quiet where it should not be: it is not
    /// the next one's either, unless there is nobody else, until it reports.
    pub fn suspect(&mut self, stream: StreamId, now: Time) {
        let node = self.streams.get(&stream).map(|open| open.node.clone());
        if let Some(node) = node
            && let Some(known) = self.nodes.get_mut(&node)
        {
            known.suspect = true;
            self.ready_at(&node, Some(now + SUSPECTED), now);
        }
    }

    /// A stream ended, however it ended; `tokens` it wrote if it came to its
    /// end, and then it teaches how long answers take.
    pub fn closed(&mut self, stream: StreamId, tokens: Option<u32>, now: Time) {
        let Some(open) = self.streams.remove(&stream) else {
            return;
        };
        let name = open.node;
        let Some(node) = self.nodes.get_mut(&name) else {
            return;
        };
        node.open = node.open.saturating_sub(1);
        node.kv_since -= i64::from(open.kv_tokens);
        if open.first_token.is_none() {
            node.seen(open.at, open.unseen_ms);
            node.waiting = node.waiting.saturating_sub(1);
            node.waiting_ms = (node.waiting_ms - open.hold_ms).max(0.0);
        }
        if node.waiting == 0 {
            // Sums of what was added and taken away drift; an empty queue has
            // no length.
            node.waiting_ms = 0.0;
        }
        if let (Some(first), Some(tokens)) = (open.first_token, tokens) {
            let took_ms = now.since(first).as_secs_f64() * 1e3;
            let learnt = &mut node.models[open.model].learnt;
            learnt.calibration.ended(false);
            learnt.answering.record(took_ms);
            let hold_ms = took_ms + open.read_ms;
            node.hold_ms = match node.hold_ms {
                known if known > 0.0 => known + NEWEST_HOLD * (hold_ms - known),
                _ => hold_ms,
            };
            if tokens > 1 {
                learnt.per_token.record(took_ms / f64::from(tokens - 1));
            }
        }
        self.heard(&name, now);
        self.count(&name, now);
        self.refresh(&name, now);
    }

    /// Writes what is open on a node into its candidates.
    pub(super) fn refresh(&mut self, name: &NodeId, now: Time) {
        let Some(node) = self.nodes.get(name) else {
            return;
        };
        let outlook = self.pools.outlook(node.outlook(), node.part, now);
        for model in &node.models {
            let Some(candidate) = self.snapshot.candidates.get(model.index) else {
                continue;
            };
            let outlook = model.outlook(outlook, &candidate.state, now);
            let free = node.credits.saturating_sub(node.open);
            let load = node.share(node.load);
            self.snapshot.candidates.update(model.index, |candidate| {
                let old = candidate.outlook;
                // A model that was never reported is nobody's to be sent to.
                candidate.credits_free = match old.reported_at {
                    Some(_) => free,
                    None => 0,
                };
                candidate.load = load;
                candidate.outlook = Outlook {
                    reported_at: old.reported_at,
                    ready_at: old.ready_at,
                    base_ms: old.base_ms,
                    ..outlook
                };
            });
        }
        self.snapshot.sequence += 1;
    }
}
