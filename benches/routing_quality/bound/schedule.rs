//! A real schedule made with all knowledge, to see how tight the bound is.

use super::Problem;
use crate::load::Job;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// When slots of a pool are free again, and how many it has.
struct Slots {
    free: BinaryHeap<Reverse<u64>>,
    there: usize,
    /// The bin that it has so many in.
    bin: usize,
}

impl Slots {
    /// Slots come and go with their nodes; those that are free first go first.
    fn at(&mut self, now: u64, bin: u64, slots: &[f64]) {
        let last = ((now / bin) as usize).min(slots.len() - 1);
        for (slots, at) in slots.iter().zip(0..).take(last + 1).skip(self.bin) {
            let there = slots.max(0.0) as usize;
            while self.there > there && self.free.pop().is_some() {
                self.there -= 1;
            }
            while self.there < there {
                self.free.push(Reverse(at * bin));
                self.there += 1;
            }
        }
        self.bin = last;
    }
}

impl Problem {
    /// Jobs in the order they come take the way that costs least at the
    /// bound's prices and still begins in time on a slot that is really free;
    /// how many there are, and what they cost.
    pub(super) fn schedule(&self, jobs: &[Job], prices: &[Vec<f64>]) -> (f64, f64) {
        let mut pools: Vec<_> = self
            .slots
            .iter()
            .map(|_| Slots {
                free: BinaryHeap::new(),
                there: 0,
                bin: 0,
            })
            .collect();
        let (mut served, mut usd) = (0.0, 0.0);
        for (ways, job) in self.ways.iter().zip(jobs) {
            for (pool, slots) in pools.iter_mut().zip(&self.slots) {
                pool.at(job.at, self.bin, slots);
            }
            let begin = |way: &super::Way| {
                let Reverse(at) = pools[way.pool].free.peek()?;
                let start = (*at).max(way.earliest);
                (start <= way.latest).then_some(start)
            };
            let price = |way: &super::Way, start: u64| {
                let sums = &prices[way.pool];
                way.usd + self.value(sums, start + way.took) - self.value(sums, start)
            };
            let best = ways
                .iter()
                .filter_map(|way| begin(way).map(|start| (price(way, start), way, start)))
                .min_by(|a, b| a.0.total_cmp(&b.0));
            if let Some((_, way, start)) = best {
                let free = &mut pools[way.pool].free;
                free.pop();
                free.push(Reverse(start + way.took));
                served += 1.0;
                usd += way.usd;
            }
        }
        (served, usd)
    }
}
