//! A real schedule made with all knowledge, to see how tight the bound is.

use super::Problem;
use crate::load::Job;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

impl Problem {
    /// Jobs in the order they come take the way that costs least at the
    /// bound's prices and still begins in time on a slot that is really free;
    /// how many there are, and what they cost.
    pub(super) fn schedule(&self, jobs: &[Job], prices: &[Vec<f64>]) -> (f64, f64) {
        let mut free: Vec<BinaryHeap<Reverse<u64>>> = self
            .slots
            .iter()
            .map(|slots| {
                let least = slots.iter().copied().fold(f64::INFINITY, f64::min);
                (0..least.max(0.0) as usize).map(|_| Reverse(0)).collect()
            })
            .collect();
        let (mut served, mut usd) = (0.0, 0.0);
        for (ways, _) in self.ways.iter().zip(jobs) {
            let begin = |way: &super::Way| {
                let Reverse(at) = free[way.pool].peek()?;
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
                free[way.pool].pop();
                free[way.pool].push(Reverse(start + way.took));
                served += 1.0;
                usd += way.usd;
            }
        }
        (served, usd)
    }
}
