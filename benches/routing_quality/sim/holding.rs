//! Requests that the gateway holds back until a slot comes free.

use super::{Event, Sim};
use crate::strategy::{Pick, Strategy};
use tiermesh_core::Time;

/// So many of a pool's are looked at when a slot comes free.
const CALLED: usize = 4;

impl<S: Strategy> Sim<'_, S> {
    pub(super) fn hold(&mut self, job: usize, pool: u32, until: u64) {
        self.fates[job].held = Some((pool, until));
        let due = self.jobs[job].due_first;
        self.held.entry(pool).or_default().insert((due, job));
        self.strategy.held(pool, Time::from_us(self.now));
        self.at(until, Event::HoldOver { job, until });
    }

    fn let_go(&mut self, job: usize) {
        let Some((pool, _)) = self.fates[job].held.take() else {
            return;
        };
        let due = self.jobs[job].due_first;
        if let Some(held) = self.held.get_mut(&pool) {
            held.remove(&(due, job));
        }
        self.strategy.let_go(pool, Time::from_us(self.now));
    }

    /// It has waited for as long as it can.
    pub(super) fn hold_over(&mut self, job: usize, until: u64) {
        if self.fates[job].held.is_none_or(|(_, held)| held != until) {
            return;
        }
        self.let_go(job);
        match self.ask(job, None) {
            Pick::Node(node) => self.send(job, node),
            Pick::Hold { .. } | Pick::Nobody => self.give_up(job),
        }
    }

    /// Slots may have come free: the most urgent of each pool goes first.
    pub(super) fn call_held(&mut self) {
        let pools: Vec<u32> = self.held.keys().copied().collect();
        for pool in pools {
            let first = self.held.get(&pool).into_iter().flatten();
            let first: Vec<_> = first.take(CALLED).map(|(_, job)| *job).collect();
            let mut before = 0;
            for job in first {
                match self.ask(job, Some(before)) {
                    Pick::Node(node) => {
                        self.let_go(job);
                        self.send(job, node);
                    }
                    Pick::Hold { pool: other, until } if other != pool => {
                        self.let_go(job);
                        self.hold(job, other, until.as_us());
                    }
                    // Who is behind it may need less.
                    Pick::Hold { .. } => before += 1,
                    Pick::Nobody => {
                        self.let_go(job);
                        self.give_up(job);
                    }
                }
            }
        }
    }
}
