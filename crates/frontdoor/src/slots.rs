//! The bound on answers at a time. A slot belongs to its stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tiermesh_core::{ErrorClass, InferError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// What a first refusal assumes an answer takes, before any has ended.
const FIRST_GUESS: Duration = Duration::from_secs(1);
const SHORTEST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How many answers run, and how long they take.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    total: usize,
    /// A moving mean of answers' durations in microseconds.
    mean_us: AtomicU64,
}

/// The right to stream one answer; given back on drop.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    taken: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    pub(crate) fn new(total: usize) -> Arc<Self> {
        let total = total.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            free: Arc::new(Semaphore::new(total)),
            total,
            mean_us: AtomicU64::new(micros(FIRST_GUESS)),
        })
    }

    /// Takes a slot, or refuses with the mean time until one comes free.
    pub(crate) fn take(self: &Arc<Self>) -> Result<Slot, InferError> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(Slot {
                slots: Arc::clone(self),
                taken: Instant::now(),
                _permit: permit,
            });
        }
        let message = format!("all {} streams of this door are taken", self.total);
        Err(
            InferError::new(ErrorClass::Exhausted, "TOO_MANY_STREAMS", message)
                .with("limit", self.total.to_string())
                .retry_after(self.wait()),
        )
    }

    /// With `total` answers under way, one ends every `mean / total`.
    fn wait(&self) -> Duration {
        let total = u64::try_from(self.total).unwrap_or(u64::MAX);
        let wait = Duration::from_micros(self.mean_us.load(Ordering::Relaxed) / total);
        wait.clamp(SHORTEST_WAIT, LONGEST_WAIT)
    }

    pub(crate) fn active(&self) -> usize {
        self.total - self.free.available_permits()
    }

    pub(crate) const fn total(&self) -> usize {
        self.total
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let took = micros(self.taken.elapsed());
        // Two streams ending together may lose one sample: it is a mean.
        let mean = self.slots.mean_us.load(Ordering::Relaxed);
        let next = mean - mean / 8 + took / 8;
        self.slots.mean_us.store(next, Ordering::Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_names_the_mean_wait() {
        let slots = Slots::new(2);
        let first = slots.take().unwrap();
        let second = slots.take().unwrap();
        let refusal = slots.take().unwrap_err();
        assert_eq!(refusal.class, ErrorClass::Exhausted);
        assert_eq!(refusal.retry_after, Some(Duration::from_millis(500)));
        tokio::time::advance(Duration::from_secs(9)).await;
        drop(first);
        let third = slots.take().unwrap();
        let refusal = slots.take().unwrap_err();
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(1)));
        drop((second, third));
        assert_eq!(slots.active(), 0);
    }
}
