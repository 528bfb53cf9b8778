//! Requests that the gateway holds back until a slot comes free.

use super::{Event, Sim};
use crate::strategy::{Pick, Strategy};
use tiermesh_core::Time;
use tiermesh_decision::Hold;

/// So many of a pool's are looked at when a slot comes free.
const CALLED: usize = 4;

impl<S: Strategy> Sim<'_, S> {
    pub(super) fn hold(&mut self, job: usize, pool: u32, hold: Hold) {
        let turn = self.held.entry(pool).or_default().join(0, &hold, job);
        self.fates[job].held = Some((pool, hold, turn));
        let now = Time::from_us(self.now);
        self.strategy.held(pool, hold.start_by, now);
        let until = hold.until.as_us();
        self.at(until, Event::HoldOver { job, until });
    }

    fn let_go(&mut self, job: usize) {
        let Some((pool, _, turn)) = self.fates[job].held.take() else {
            return;
        };
        if let Some(line) = self.held.get_mut(&pool) {
            line.leave(&turn);
        }
        self.strategy.let_go(pool, Time::from_us(self.now));
    }

    fn renew(&mut self, job: usize, pool: u32, hold: &Hold) {
        if let (Some((_, _, turn)), Some(line)) = (&self.fates[job].held, self.held.get_mut(&pool))
        {
            line.renew(turn, hold);
        }
    }

    /// It has waited for as long as it can.
    pub(super) fn hold_over(&mut self, job: usize, until: u64) {
        let held = self.fates[job].held;
        if held.is_none_or(|(_, hold, _)| hold.until.as_us() != until) {
            return;
        }
        self.let_go(job);
        match self.ask(job, None) {
            Pick::Node(node) => self.send(job, node),
            Pick::Hold { .. } | Pick::Nobody => self.give_up(job),
        }
    }

    /// Slots may have come free: whoever is first in each pool's line goes first.
    pub(super) fn call_held(&mut self) {
        let pools: Vec<u32> = self.held.keys().copied().collect();
        for pool in pools {
            let Some(line) = self.held.get_mut(&pool).filter(|line| !line.is_empty()) else {
                continue;
            };
            line.told(Time::from_us(self.now));
            let first = line.order().into_iter().take(CALLED);
            let first: Vec<_> = first.map(|(_, job)| *job).collect();
            let mut before = 0;
            for job in first {
                match self.ask(job, Some(before)) {
                    Pick::Node(node) => {
                        self.let_go(job);
                        self.send(job, node);
                    }
                    Pick::Hold { pool: other, hold } if other != pool => {
                        self.let_go(job);
                        self.hold(job, other, hold);
                    }
                    // Who is behind it may need less.
                    Pick::Hold { hold, .. } => {
                        before += 1;
                        self.renew(job, pool, &hold);
                    }
                    Pick::Nobody => {
                        self.let_go(job);
                        self.give_up(job);
                    }
                }
            }
        }
    }
}
