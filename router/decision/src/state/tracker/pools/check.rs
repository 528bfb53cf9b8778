//! What holds of pools at any time, for tests.

use super::{Counts, Tracker};
use std::collections::BTreeMap;
use tiermesh_core::Time;

impl Tracker {
    /// Every pool is the sum of its nodes, and nothing else is in it.
    pub(crate) fn check_pools(&self, now: Time) {
        let mut sums: BTreeMap<u32, (Counts, usize)> = BTreeMap::new();
        for node in self.nodes.values().filter(|node| node.part.pool != 0) {
            let counts = node.counts(now);
            // Who became ready since is counted with its next report.
            if node.ready_at.is_none_or(|at| at > now) {
                assert_eq!(node.part.counts, counts);
            }
            assert!(counts.busy + counts.free <= counts.slots);
            let sum = sums.entry(node.part.pool).or_default();
            sum.0.add(node.part.counts);
            sum.1 += 1;
        }
        let pools = self.pools.pools.iter();
        let pools = pools.map(|(number, p)| (*number, (p.counts, p.members.len())));
        assert_eq!(sums, pools.collect::<BTreeMap<_, _>>());
        assert_eq!(self.pools.by_kind.len(), sums.len());
        for pool in self.pools.pools.values() {
            assert!(pool.price(Time::from_us(u64::MAX)).is_finite() && pool.worth.left_s >= 0.0);
        }
    }
}
