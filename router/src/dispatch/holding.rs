//! Where requests wait for a slot: at the gateway and for all nodes that are
//! alike, rather than at one of them. Whoever comes free first is asked, and a
//! request that waited for as long as it could is asked of somebody dearer
//! that will still be in time.

use super::Shared;
use super::decided::Decided;
use crate::memory::HeldBack;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tiermesh_core::{Context, Refusal, RequestMeta, Time};
use tiermesh_decision::{Hold, Line, Turn};
use tokio::sync::Notify;

/// A slot may come free without a stream of ours ending, so those in front
/// look this often.
const LOOK: Duration = Duration::from_millis(25);
/// So many of those in front look when a slot comes free: the first may need
/// what this one does not have.
const IN_FRONT: usize = 4;

/// A line, and who of it was called last for being the first.
#[derive(Debug, Default)]
struct Queue {
    line: Line<Arc<Notify>>,
    first: Option<Turn>,
}

type Lines = BTreeMap<u32, Queue>;

/// Who is held back, by the pool they wait for.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    lines: Mutex<Lines>,
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
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot of the pool may be free.
    pub(crate) fn freed(&self, pool: u32, now: Time) {
        if let Some(queue) = self.lines().get_mut(&pool) {
            queue.line.told(now);
            queue.call_first();
        }
    }

    /// A place in the line, unless that is full.
    fn join(
        self: &Arc<Self>,
        pool: u32,
        (priority, hold): (u8, &Hold),
        most: usize,
    ) -> Option<Place> {
        let mut lines = self.lines();
        let queue = lines.entry(pool).or_default();
        if queue.line.len() >= most {
            return None;
        }
        let called = Arc::<Notify>::default();
        let turn = queue.line.join(priority, hold, Arc::clone(&called));
        queue.call_if_new();
        Some(Place {
            holding: Arc::clone(self),
            pool,
            turn,
            called,
        })
    }
}

impl Queue {
    fn call_first(&mut self) {
        self.first = self.line.first().map(|(turn, called)| {
            called.notify_one();
            turn
        });
    }

    /// Time passes, others come, and so somebody else may be the first.
    fn call_if_new(&mut self) {
        if self.line.first().map(|(turn, _)| turn) != self.first {
            self.call_first();
        }
    }
}

impl Place {
    /// How many are in front.
    fn ahead(&self, now: Time) -> usize {
        let mut lines = self.holding.lines();
        let Some(queue) = lines.get_mut(&self.pool) else {
            return 0;
        };
        queue.line.told(now);
        queue.call_if_new();
        queue.line.ahead(&self.turn)
    }

    /// It was decided anew, and still waits here.
    fn renew(&self, hold: &Hold) {
        if let Some(queue) = self.holding.lines().get_mut(&self.pool) {
            queue.line.renew(&self.turn, hold);
        }
    }

    /// The slot is not for this one: the next in line may take it.
    fn pass_on(&self) {
        let lines = self.holding.lines();
        let queue = lines.get(&self.pool);
        if let Some(called) = queue.and_then(|queue| queue.line.behind(&self.turn)) {
            called.notify_one();
        }
    }

    /// It was called, and is not in front any more: whoever is may take it.
    fn hand_over(&self) {
        if let Some(queue) = self.holding.lines().get_mut(&self.pool) {
            queue.call_first();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.holding.lines();
        let Some(queue) = lines.get_mut(&self.pool) else {
            return;
        };
        queue.line.leave(&self.turn);
        if queue.line.is_empty() {
            lines.remove(&self.pool);
        } else {
            // There may be more slots than the one this left for.
            queue.call_first();
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
            let waited = waiting.look(self.clock.now()).await;
            let ahead = waiting.place.ahead(self.clock.now());
            if ahead >= IN_FRONT && !waiting.is_over() {
                if waited {
                    waiting.place.hand_over();
                }
                continue;
            }
            let before = u32::try_from(ahead).unwrap_or(u32::MAX);
            let before = (!waiting.is_over()).then_some(before);
            let decided = Decided::new(self, meta, context.clone(), before)?;
            let Some(hold) = decided.plan.hold else {
                break decided;
            };
            let elsewhere = decided.candidate(0).outlook.pool != waiting.place.pool;
            if let Some(mut other) = elsewhere.then(|| self.wait(&decided)).flatten() {
                // Without a deadline each line would give it as long anew.
                other.over = other.over.min(waiting.over);
                waiting = other;
            } else {
                waiting.place.renew(&hold);
                if waited && ahead + 1 < IN_FRONT {
                    waiting.place.pass_on();
                }
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
        let urgency = (decided.context.priority, &hold);
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
    async fn look(&self, now: Time) -> bool {
        let look = match self.place.ahead(now) < IN_FRONT {
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

    fn hold(ms: u64) -> Hold {
        let by = Time::from_us(ms * 1_000);
        Hold {
            start_by: by,
            until: by,
            turn: Duration::from_millis(1),
            worth: 1,
        }
    }

    #[test]
    fn the_line_is_bounded_and_each_pool_has_its_own() {
        let holding = Arc::<Holding>::default();
        let late = holding.join(1, (0, &hold(20)), 3).unwrap();
        let soon = holding.join(1, (0, &hold(10)), 3).unwrap();
        let urgent = holding.join(1, (5, &hold(30)), 3).unwrap();
        assert!(holding.join(1, (9, &hold(1)), 3).is_none());
        assert!(holding.join(2, (0, &hold(1)), 3).is_some());
        let now = Time::ZERO;
        assert_eq!((urgent.ahead(now), late.ahead(now)), (0, 2));
        drop(urgent);
        assert_eq!((soon.ahead(now), late.ahead(now)), (0, 1));
    }

    #[tokio::test]
    async fn a_slot_goes_to_the_first_and_on_to_the_next() {
        let holding = Arc::<Holding>::default();
        let first = holding.join(1, (0, &hold(10)), 8).unwrap();
        let second = holding.join(1, (0, &hold(20)), 8).unwrap();
        holding.freed(2, Time::ZERO);
        holding.freed(1, Time::ZERO);
        first.called.notified().await;
        first.pass_on();
        second.called.notified().await;
        // Whoever leaves calls the next: there may be more.
        drop(first);
        second.called.notified().await;
        drop(second);
        assert!(holding.lines().is_empty());
    }
}
