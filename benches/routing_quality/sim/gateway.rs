//! The gateway's side of a run: placing, retrying, and what it sees.

use super::{Event, LEASE_US, MOST_TRIES, REPORT_US, STALL_US, Sim};
use crate::strategy::{Pick, Strategy};
use std::time::Duration;
use tiermesh_core::{CapacityReport, ModelState, Time};

impl<S: Strategy> Sim<'_, S> {
    /// Asks the strategy for a node, and sends.
    pub(super) fn place(&mut self, job: usize) {
        if self.fates[job].attempt >= MOST_TRIES {
            return self.give_up(job);
        }
        match self.ask(job, Some(u32::MAX)) {
            Pick::Node(node) => self.send(job, node),
            Pick::Hold { pool, hold } => self.hold(job, pool, hold),
            Pick::Nobody => self.give_up(job),
        }
    }

    pub(super) fn send(&mut self, job: usize, node: usize) {
        self.known[node].open += 1;
        let fate = &mut self.fates[job];
        fate.attempt += 1;
        fate.node = Some(node);
        fate.sent = self.now;
        fate.begun = None;
        let attempt = fate.attempt;
        let there = self.half_way(node);
        self.at(self.now + there, Event::AtNode { node, job, attempt });
    }

    pub(super) fn give_up(&mut self, job: usize) {
        self.fates[job].gave_up = true;
        self.unfinished -= 1;
    }

    pub(super) fn see_first(&mut self, node: usize, job: usize, attempt: u32) {
        if !self.is_current(job, attempt) || self.fates[job].node != Some(node) {
            return;
        }
        let took_ms = (self.now - self.fates[job].sent) as f64 / 1e3;
        let now = Time::from_us(self.now);
        self.strategy.first_token(job, node, took_ms, now);
        self.fates[job].first.get_or_insert(self.now);
    }

    pub(super) fn see_end(&mut self, job: usize, attempt: u32) {
        if !self.is_current(job, attempt) {
            return;
        }
        let output = self.jobs[job].output;
        self.strategy
            .closed(job, Some(output), Time::from_us(self.now));
        if let Some(node) = self.fates[job].node {
            self.known[node].open = self.known[node].open.saturating_sub(1);
        }
        self.fates[job].done = Some(self.now);
        self.unfinished -= 1;
        self.call_held();
    }

    pub(super) fn see_refusal(&mut self, node: usize, job: usize, attempt: u32) {
        if !self.is_current(job, attempt) {
            return;
        }
        self.strategy.closed(job, None, Time::from_us(self.now));
        self.known[node].open = self.known[node].open.saturating_sub(1);
        self.fates[job].refused_by.push(node);
        self.fates[job].node = None;
        self.place(job);
    }

    /// A job's node is lost to it: what was written stays, and it goes on
    /// elsewhere.
    fn lost(&mut self, job: usize) {
        let fate = &mut self.fates[job];
        if let (Some((begun, read, write)), Some(node)) = (fate.begun, fate.node) {
            let rest = self.jobs[job].output - fate.written.min(self.jobs[job].output);
            let since = self.now.saturating_sub(begun + read) as f64;
            let share = (since / write.max(1) as f64).clamp(0.0, 1.0);
            let came = if fate.first.is_some() {
                (share * f64::from(rest)) as u32
            } else {
                0
            };
            fate.written = (fate.written + came).min(self.jobs[job].output - 1);
            self.charge(node, self.jobs[job].prompt, came);
        }
        self.strategy.closed(job, None, Time::from_us(self.now));
        if let Some(node) = self.fates[job].node.take() {
            self.known[node].open = self.known[node].open.saturating_sub(1);
            self.servers[node].forget_waiting(job);
        }
        self.place(job);
    }

    /// The gateway learns that a node is away, or back.
    pub(super) fn learn(&mut self, node: usize, there: bool) {
        if self.known[node].there == there {
            return;
        }
        self.known[node].there = there;
        if there {
            self.known[node].open = 0;
            self.strategy.joined(node, Time::from_us(self.now));
            return;
        }
        self.strategy.left(node);
        for job in self.jobs_on(node, |_| true) {
            self.lost(job);
        }
    }

    /// Unfinished jobs whose present attempt is on a node.
    fn jobs_on(&self, node: usize, which: impl Fn(&super::Fate) -> bool) -> Vec<usize> {
        let fates = self.fates.iter().enumerate();
        fates
            .filter(|(_, fate)| fate.node == Some(node) && fate.done.is_none() && !fate.gave_up)
            .filter(|(_, fate)| which(fate))
            .map(|(job, _)| job)
            .collect()
    }

    /// Reports come in, and silent nodes are noticed.
    pub(super) fn tick(&mut self) {
        self.reports += 1;
        let now = Time::from_us(self.now);
        for node in 0..self.servers.len() {
            if self.servers[node].dead {
                continue;
            }
            let stalls = self.servers[node].stalled_until > self.now;
            let runs = !self.servers[node].running.is_empty();
            if runs && !stalls {
                self.strategy.heard(node, now);
            }
            if !self.known[node].there {
                continue;
            }
            let report = self.report_of(node);
            let first_ms = f64::from(report.models[0].first_token_ms);
            self.known[node].reported_ms = first_ms;
            self.strategy.report(node, &report, now);
            self.watch(node, runs && stalls);
        }
        self.strategy.tick(now);
        self.call_held();
        self.at(self.now + REPORT_US, Event::Tick);
    }

    /// With tokens missing for long, whoever still waits there is asked for
    /// elsewhere, and once tokens come again the node is as any other.
    fn watch(&mut self, node: usize, silent: bool) {
        if !silent {
            self.silent_since[node] = None;
            return;
        }
        let since = *self.silent_since[node].get_or_insert(self.now);
        if self.now - since >= STALL_US && self.now - since < STALL_US + REPORT_US {
            for job in self.jobs_on(node, |fate| fate.first.is_none()) {
                self.fates[job].refused_by.push(node);
                self.lost(job);
            }
        }
    }

    fn report_of(&self, node: usize) -> CapacityReport {
        let server = &self.servers[node];
        let kind = &self.fleet.kinds[server.kind];
        let (active, queued) = (server.running.len() as u32, server.queue.len() as u32);
        // What a node measures: how long the last ones waited. A queue's
        // length by the mean time of those that run says as much.
        let hold_ms: f64 = server
            .running
            .iter()
            .filter_map(|held| self.fates[held.job].begun)
            .map(|(_, read, write)| (read + write) as f64 / 1e3)
            .sum();
        let mean_ms = hold_ms / f64::from(active.max(1));
        let wait_ms = if active < server.slots {
            0.0
        } else {
            mean_ms * f64::from(queued + 1) / f64::from(server.slots)
        };
        let first_token_ms = (kind.base_ms + wait_ms) as f32;
        CapacityReport {
            sequence: self.reports,
            credits: kind.slots + kind.queue,
            slots: kind.slots,
            lease: Duration::from_micros(LEASE_US),
            active,
            queued,
            load: (active as f32 / server.slots as f32).min(1.0),
            battery_percent: None,
            engine: Default::default(),
            models: vec![ModelState {
                prefill_tok_s: kind.prefill_tok_s as f32,
                decode_tok_s: kind.decode_tok_s as f32,
                first_token_ms,
                first_token_p99_ms: first_token_ms * 2.0,
                kv_tokens_free: u32::try_from(server.kv_free()).unwrap_or(u32::MAX),
                ..ModelState::default()
            }],
        }
    }
}
