//! Where requests wait for a slot: at the gateway and for all nodes that are
//! alike, rather than at one of them. Whoever comes free first is asked, and a
//! request that waited for as long as it could is asked of somebody dearer
//! that will still be in time.

use super::Shared;
use super::decided::Decided;
use crate::memory::HeldBack;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tiermesh_core::{Context, Refusal, RequestMeta, Time};
use tokio::sync::Notify;

/// A slot may come free without a stream of ours ending, so those in front
/// look this often.
const LOOK: Duration = Duration::from_millis(25);
/// So many of those in front look when a slot comes free: the first may need
/// what this one does not have.
const IN_FRONT: usize = 4;

/// Who goes first: the most urgent, then who needs a slot first, then who came
/// first.
type Turn = (Reverse<u8>, Time, u64);

/// Who is held back, by the pool they wait for.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    pools: Mutex<Pools>,
}

#[derive(Debug, Default)]
struct Pools {
    waiting: BTreeMap<u32, BTreeMap<Turn, Arc<Notify>>>,
    next: u64,
}

/// A request whose turn came: until this is dropped, the next in line is not
/// called.
#[derive(Debug)]
pub(crate) struct Turned {
    _held: HeldBack,
    _place: Place,
}

/// A place in the line; dropping it gives it up.
#[derive(Debug)]
struct Place {
    holding: Arc<Holding>,
    pool: u32,
    turn: Turn,
    called: Arc<Notify>,
}

impl Holding {
    fn pools(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot of the pool may be free.
    pub(crate) fn freed(&self, pool: u32) {
        let pools = self.pools();
        let first = pools
            .waiting
            .get(&pool)
            .and_then(|line| line.values().next());
        if let Some(first) = first {
            first.notify_one();
        }
    }

    /// A place in the line, unless that is full.
    fn join(
        self: &Arc<Self>,
        pool: u32,
        (priority, start_by): (u8, Time),
        most: usize,
    ) -> Option<Place> {
        let mut pools = self.pools();
        let number = pools.next;
        let line = pools.waiting.entry(pool).or_default();
        if line.len() >= most {
            return None;
        }
        let turn = (Reverse(priority), start_by, number);
        let called = Arc::<Notify>::default();
        line.insert(turn, Arc::clone(&called));
        pools.next += 1;
        Some(Place {
            holding: Arc::clone(self),
            pool,
            turn,
            called,
        })
    }
}

impl Place {
    /// How many are in front.
    fn ahead(&self) -> usize {
        let pools = self.holding.pools();
        let line = pools.waiting.get(&self.pool);
        line.map_or(0, |line| line.range(..self.turn).count())
    }

    /// The slot is not for this one: the next in line may take it.
    fn pass_on(&self) {
        let pools = self.holding.pools();
        let line = pools.waiting.get(&self.pool);
        let next = line.and_then(|line| {
            let mut behind = line.range(self.turn..);
            behind.nth(1)
        });
        if let Some((_, called)) = next {
            called.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut pools = self.holding.pools();
        let Some(line) = pools.waiting.get_mut(&self.pool) else {
            return;
        };
        line.remove(&self.turn);
        // There may be more slots than the one this left for.
        if let Some(first) = line.values().next() {
            first.notify_one();
        } else {
            pools.waiting.remove(&self.pool);
        }
    }
}

impl Shared {
    /// Whether a request that comes now may be held back: only what learns
    /// knows of slots, and an answer that has begun goes on at once.
    pub(crate) fn may_hold(&self, context: &Context) -> Option<u32> {
        let said = &context.continuation;
        let fresh = said.is_empty() && said.speaker.is_none();
        let may = fresh && self.keeps.memory.is_some() && self.options.hold_most > 0;
        may.then_some(u32::MAX)
    }

    /// Tells the memory whom a request would go to if slots were free, which
    /// is what their slots' price is made of.
    pub(crate) fn want(&self, decided: &Decided) {
        let (Some(memory), Some(wanted)) = (&self.keeps.memory, decided.plan.wanted) else {
            return;
        };
        let candidate = &decided.snapshot.candidates[wanted.index];
        if candidate.outlook.pool != 0 {
            let asked = (&candidate.node, &candidate.model.id);
            memory.wanted(asked, wanted, decided.at);
        }
    }

    /// Waits until somebody like the first choice has a slot free, and decides
    /// anew; at the latest when there is just time for whoever else would do.
    /// Where that names another pool, it waits in that one's line from then on.
    pub(crate) async fn hold(
        &self,
        meta: &RequestMeta,
        decided: Decided,
    ) -> Result<Decided, Refusal> {
        let (arrived, context) = (decided.at, decided.context.clone());
        let Some(mut waiting) = self.wait(&decided) else {
            return Decided::new(self, meta, context, None);
        };
        let mut decided = loop {
            let waited = waiting.look().await;
            let ahead = waiting.place.ahead();
            let before = u32::try_from(ahead).unwrap_or(u32::MAX);
            let before = (!waiting.is_over()).then_some(before);
            let decided = Decided::new(self, meta, context.clone(), before)?;
            if decided.plan.hold.is_none() {
                break decided;
            }
            let elsewhere = decided.candidate(0).outlook.pool != waiting.place.pool;
            if let Some(mut other) = elsewhere.then(|| self.wait(&decided)).flatten() {
                // Without a deadline each line would give it as long anew.
                other.over = other.over.min(waiting.over);
                waiting = other;
            } else if waited && ahead + 1 < IN_FRONT {
                waiting.place.pass_on();
            }
        };
        decided.turn = Some(waiting.turned());
        decided.held = Some(decided.at.since(arrived));
        // It came when it came.
        decided.at = arrived;
        Ok(decided)
    }

    /// Joins the line of the first choice's pool, unless that is full.
    fn wait(&self, decided: &Decided) -> Option<Waiting> {
        let hold = decided.plan.hold?;
        let pool = decided.candidate(0).outlook.pool;
        let urgency = (decided.context.priority, hold.start_by);
        let place = self.holding.join(pool, urgency, self.options.hold_most)?;
        let memory = self.keeps.memory.as_ref()?;
        let held = memory.hold(pool, hold.start_by, decided.at);
        let over = tokio::time::Instant::now() + hold.until.since(self.clock.now());
        Some(Waiting { held, place, over })
    }
}

/// A request in a line, and when it has waited for as long as it can.
struct Waiting {
    held: HeldBack,
    place: Place,
    over: tokio::time::Instant,
}

impl Waiting {
    /// Waits until it is worth deciding anew; whether it was called.
    async fn look(&self) -> bool {
        let look = match self.place.ahead() < IN_FRONT {
            true => (tokio::time::Instant::now() + LOOK).min(self.over),
            false => self.over,
        };
        let called = self.place.called.notified();
        tokio::time::timeout_at(look, called).await.is_ok()
    }

    fn is_over(&self) -> bool {
        tokio::time::Instant::now() >= self.over
    }

    fn turned(self) -> Turned {
        Turned {
            _held: self.held,
            _place: self.place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_us(ms * 1_000)
    }

    #[test]
    fn the_line_is_bounded_and_goes_by_urgency_and_then_by_time() {
        let holding = Arc::<Holding>::default();
        let late = holding.join(1, (0, at(20)), 3).unwrap();
        let soon = holding.join(1, (0, at(10)), 3).unwrap();
        let urgent = holding.join(1, (5, at(30)), 3).unwrap();
        assert!(holding.join(1, (9, at(1)), 3).is_none());
        assert!(holding.join(2, (0, at(1)), 3).is_some());
        assert_eq!((urgent.ahead(), soon.ahead(), late.ahead()), (0, 1, 2));
        drop(urgent);
        assert_eq!((soon.ahead(), late.ahead()), (0, 1));
    }

    #[tokio::test]
    async fn a_slot_goes_to_the_first_and_on_to_the_next() {
        let holding = Arc::<Holding>::default();
        let first = holding.join(1, (0, at(10)), 8).unwrap();
        let second = holding.join(1, (0, at(20)), 8).unwrap();
        holding.freed(2);
        holding.freed(1);
        first.called.notified().await;
        first.pass_on();
        second.called.notified().await;
        // Whoever leaves calls the next: there may be more.
        drop(first);
        second.called.notified().await;
        drop(second);
        assert!(holding.pools().waiting.is_empty());
    }
}
