//! Slots behind open breakers, which nobody waits for.

use std::collections::BTreeMap;
use tiermesh_core::{BreakerState, CandidateState, ModelId, Snapshot, Time};

pub(super) const fn is_open(breaker: BreakerState) -> bool {
    matches!(breaker, BreakerState::Open { .. })
}

/// Free slots behind open breakers, by pool and model.
pub(super) type Closed = BTreeMap<(u32, ModelId), u32>;

/// Slots behind an open breaker are nobody's: with those alone free, a pool is
/// full, and requests wait for one of the others.
pub(super) fn close_slots(closed: &mut Closed, candidate: &CandidateState, now: Time) {
    let outlook = &candidate.outlook;
    // As its pool counts it: who is not ready has none free there.
    let ready = outlook.ready_at.is_none_or(|at| at <= now);
    let free = outlook.slots.saturating_sub(outlook.open);
    let free = free.min(candidate.credits_free);
    if outlook.pool != 0 && ready && free > 0 {
        let of_pool = (outlook.pool, candidate.model.id.clone());
        *closed.entry(of_pool).or_default() += free;
    }
}

/// Tells nodes that have no slot free, which alone ask for those of the pool.
pub(super) fn tell_closed(snapshot: &mut Snapshot, closed: &Closed) {
    if closed.is_empty() {
        return;
    }
    let chunks = snapshot.candidates.chunks();
    let full = chunks
        .flat_map(|(first, chunk)| (first..).zip(chunk.items()))
        .filter(|(_, c)| c.outlook.pool != 0 && c.outlook.open >= c.outlook.slots)
        .filter_map(|(at, c)| {
            let of_pool = (c.outlook.pool, c.model.id.clone());
            closed.get(&of_pool).map(|free| (at, *free))
        });
    for (at, free) in full.collect::<Vec<_>>() {
        snapshot.candidates.update(at, |candidate| {
            let outlook = &mut candidate.outlook;
            outlook.pool_free = outlook.pool_free.saturating_sub(free);
        });
    }
}
