//! Where requests wait for a place when all that could take them are full: one
//! bounded queue in front of each tier, the most urgent first. Who cannot get
//! a place before its deadline, by how fast places have come free, is refused
//! at once and told when to come back; so what is let in keeps its latency.

use super::Shared;
use super::decided::Decided;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tiermesh_core::{Context, ErrorClass, InferError, Refusal, RequestMeta, Tier, Time};
use tokio::sync::Notify;

/// A place may come free without a stream of ours ending: a node's report
/// brings credits. So the first in the queue looks this often.
const LOOK: Duration = Duration::from_millis(25);
/// The time between two places until it was measured, and at most.
const UNMEASURED: Duration = Duration::from_millis(50);
const SLOWEST: Duration = Duration::from_secs(30);

/// Who waits: the most urgent first, and of those the first to come.
type Place = (Reverse<u8>, u64);

/// The queues.
#[derive(Debug, Default)]
pub(crate) struct Lobby {
    tiers: [Mutex<Queue>; 3],
}

#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<Place, Arc<Waiter>>,
    next: u64,
    /// When a place came free last, and the mean time between two.
    freed: Option<Time>,
    between_us: Option<f64>,
}

#[derive(Debug, Default)]
struct Waiter {
    turn: Notify,
    shed: Mutex<Option<Duration>>,
}

/// A place in a queue; dropping it gives it up.
struct Ticket<'a> {
    lobby: &'a Lobby,
    tier: Tier,
    place: Place,
    waiter: Arc<Waiter>,
}

impl Lobby {
    fn queue(&self, tier: Tier) -> MutexGuard<'_, Queue> {
        let queue = &self.tiers[tier as usize];
        queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody at least as urgent waits for this tier already.
    pub(crate) fn is_before(&self, tier: Tier, priority: u8) -> bool {
        let queue = self.queue(tier);
        let first = queue.waiting.first_key_value();
        first.is_some_and(|((Reverse(urgency), _), _)| *urgency >= priority)
    }

    /// A stream on this tier ended.
    pub(crate) fn freed(&self, tier: Tier, now: Time) {
        let mut queue = self.queue(tier);
        // Only where somebody waits do gaps tell how soon places come free:
        // otherwise they tell how seldom anybody asks.
        let busy = !queue.waiting.is_empty();
        let last = std::mem::replace(&mut queue.freed, busy.then_some(now));
        if let Some(last) = last.filter(|_| busy) {
            let us = now.since(last).min(SLOWEST).as_micros() as f64;
            let mean = queue.between_us.get_or_insert(us);
            *mean += (us - *mean) / 16.0;
        }
        queue.call_the_first();
    }

    /// Queues up, or is refused at once.
    fn join(
        &self,
        tier: Tier,
        priority: u8,
        patience: Duration,
        most: usize,
    ) -> Result<Ticket<'_>, InferError> {
        let mut queue = self.queue(tier);
        let place = (Reverse(priority), queue.next);
        let before = queue.waiting.range(..place).count();
        let expected = queue.wait_for(before + 1);
        // The first in line may always try: it finds out what holds now.
        if before > 0 && expected > patience {
            return Err(shed(
                tier,
                "would not get a place in its time",
                expected - patience,
            ));
        }
        if queue.waiting.len() >= most {
            let last = queue.waiting.last_key_value();
            let less_urgent = last.is_some_and(|(last, _)| *last > place && last.0 != place.0);
            if !less_urgent {
                let wait = queue.wait_for(1);
                return Err(shed(tier, "finds the queue full", wait));
            }
            let retry = queue.wait_for(queue.waiting.len());
            if let Some((_, gives_way)) = queue.waiting.pop_last() {
                *gives_way
                    .shed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(retry);
                gives_way.turn.notify_one();
            }
        }
        queue.next += 1;
        let waiter = Arc::<Waiter>::default();
        queue.waiting.insert(place, Arc::clone(&waiter));
        Ok(Ticket {
            lobby: self,
            tier,
            place,
            waiter,
        })
    }
}

impl Queue {
    fn wait_for(&self, places: usize) -> Duration {
        let between = self
            .between_us
            .map_or(UNMEASURED, |us| Duration::from_micros(us as u64));
        between.saturating_mul(u32::try_from(places).unwrap_or(u32::MAX))
    }

    fn call_the_first(&self) {
        if let Some((_, first)) = self.waiting.first_key_value() {
            first.turn.notify_one();
        }
    }
}

impl Ticket<'_> {
    fn is_first(&self) -> bool {
        let queue = self.lobby.queue(self.tier);
        queue
            .waiting
            .first_key_value()
            .is_some_and(|(place, _)| *place == self.place)
    }

    /// Whether it had to give way to somebody more urgent.
    fn gave_way(&self) -> Option<Duration> {
        *self
            .waiter
            .shed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut queue = self.lobby.queue(self.tier);
        queue.waiting.remove(&self.place);
        // There may be more places than the one this left for.
        queue.call_the_first();
    }
}

impl Shared {
    /// A decision, now or once there is a place.
    pub(crate) async fn decide(
        &self,
        meta: &RequestMeta,
        context: Context,
    ) -> Result<Decided, Refusal> {
        let decided = match Decided::new(self, meta, context.clone(), self.may_hold(&context)) {
            Ok(decided) if decided.plan.hold.is_some() => self.hold(meta, decided).await,
            decided => decided,
        };
        let none = match decided {
            Ok(decided) => {
                let tier = decided.candidate(0).tier;
                if !self.lobby.is_before(tier, decided.context.priority) {
                    return Ok(decided);
                }
                None
            }
            Err(refusal) if !is_full(&refusal) => return Err(refusal),
            Err(refusal) => Some(refusal),
        };
        // Where it would go if there were room.
        let wanted = Decided::unhindered(self, meta, context.clone());
        let Ok(wanted) = wanted else {
            return Err(none.unwrap_or_else(|| shed(Tier::Cloud, "finds no place", LOOK)));
        };
        let tier = wanted.candidate(0).tier;
        let arrived = wanted.at;
        // The wait is part of its time: whoever takes it has what is left.
        let deadline = wanted.context.deadline;
        let priority = wanted.context.priority;
        let context = Context {
            deadline,
            ..context
        };
        let patience = deadline
            .first_token_remaining(arrived)
            .unwrap_or(Duration::MAX);
        let needs = Duration::from_secs_f64(wanted.plan.choices[0].estimate.first_token_ms / 1e3);
        let patience = patience
            .saturating_sub(needs)
            .min(self.options.queue_within);
        let most = self.options.queue_most;
        let ticket = self.lobby.join(tier, priority, patience, most)?;
        let over = tokio::time::Instant::now() + patience;
        loop {
            if let Some(wait) = ticket.gave_way() {
                return Err(shed(tier, "gave way to somebody more urgent", wait));
            }
            if ticket.is_first() {
                match Decided::new(self, meta, context.clone(), None) {
                    Ok(mut decided) => {
                        // It came when it came.
                        decided.at = arrived;
                        return Ok(decided);
                    }
                    Err(refusal) if !is_full(&refusal) => return Err(refusal),
                    Err(_) => {}
                }
            }
            let look = (tokio::time::Instant::now() + LOOK).min(over);
            if tokio::time::timeout_at(look, ticket.waiter.turn.notified())
                .await
                .is_err()
                && look == over
            {
                let wait = self.lobby.queue(tier).wait_for(1);
                return Err(shed(tier, "got no place in its time", wait));
            }
        }
    }
}

/// Whether a refusal is for want of credit alone.
fn is_full(refusal: &InferError) -> bool {
    refusal.reason == "NO_CANDIDATE"
        && refusal
            .metadata
            .iter()
            .any(|(key, value)| *key == "removed_by" && value == "no_credit")
}

fn shed(tier: Tier, what: &str, wait: Duration) -> InferError {
    let message = format!("the {tier} tier is full, and the request {what}: try again later");
    InferError::new(ErrorClass::Exhausted, "SHED", message)
        .with("removed_by", "no_credit")
        .retry_after(wait.clamp(Duration::from_millis(1), SLOWEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_queue_is_bounded_and_the_least_urgent_gives_way() {
        let lobby = Lobby::default();
        let join = |priority| lobby.join(Tier::Mec, priority, SECOND, 3);
        let (low, _high, _middle) = (join(0).unwrap(), join(9).unwrap(), join(5).unwrap());
        let refused = join(0).err().unwrap();
        assert_eq!(
            (refused.class, refused.reason),
            (ErrorClass::Exhausted, "SHED")
        );
        assert!(refused.retry_after.is_some());
        let urgent = join(7).unwrap();
        assert!(low.gave_way().is_some());
        assert!(!urgent.is_first() && lobby.is_before(Tier::Mec, 9));
        assert!(!lobby.is_before(Tier::Mec, 10) && !lobby.is_before(Tier::Cloud, 0));
    }

    #[test]
    fn who_would_not_get_a_place_in_time_is_refused_at_once() {
        let lobby = Lobby::default();
        // Gaps count only while somebody waits.
        let waits = lobby.join(Tier::Mec, 0, SECOND, 1_000).unwrap();
        for n in 0..20_u64 {
            lobby.freed(Tier::Mec, Time::from_us(n * 100_000));
        }
        drop(waits);
        let mut held = Vec::new();
        let refused = loop {
            match lobby.join(Tier::Mec, 0, SECOND, 1_000) {
                Ok(ticket) => held.push(ticket),
                Err(refused) => break refused,
            }
        };
        // Ten places a second, and a second's patience.
        assert_eq!(held.len(), 10);
        assert_eq!(refused.retry_after, Some(Duration::from_millis(100)));
        // Somebody more urgent goes first, and is not refused for the others.
        assert!(lobby.join(Tier::Mec, 1, SECOND, 1_000).unwrap().is_first());
    }
}
