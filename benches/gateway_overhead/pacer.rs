//! Tokens on a schedule finer than the runtime's timers: one thread with a
//! heap of what is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Answers that may wait to be taken up.
const INBOX: usize = 1024;
/// The golden ratio's fraction: consecutive answers' phases lie apart.
const APART: f64 = 0.618_033_988_75;

/// Says when each answer's tokens are due.
pub(crate) struct Pacer {
    inbox: SyncSender<Paced>,
    interval: Duration,
    count: AtomicU32,
}

/// An answer under way.
struct Paced {
    due: Instant,
    left: u32,
    sink: mpsc::Sender<u32>,
}

impl Pacer {
    /// A pacer of one token an interval and answer.
    pub(crate) fn start(interval: Duration) -> std::io::Result<Self> {
        let (inbox, taken) = sync_channel(INBOX);
        std::thread::Builder::new()
            .name("pacer".into())
            .spawn(move || pace(&taken, interval))?;
        Ok(Self {
            inbox,
            interval,
            count: AtomicU32::new(0),
        })
    }

    /// The moments at which an answer's tokens were due, as they come. The
    /// first is due now; the others follow an interval apart from a phase of
    /// the answer's own on, so that no two answers march in step.
    pub(crate) fn answer(&self, tokens: u32) -> mpsc::Receiver<u32> {
        let (sink, stamps) = mpsc::channel(tokens.max(1) as usize);
        let now = Instant::now();
        let _ = sink.try_send(stamp(now, now));
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let phase = (f64::from(number) * APART).fract();
        let due = now + self.interval + self.interval.mul_f64(phase);
        if let Some(left) = tokens.checked_sub(1).filter(|left| *left > 0) {
            // A full inbox shortens the answer; the client notices.
            let _ = self.inbox.try_send(Paced { due, left, sink });
        }
        stamps
    }
}

fn pace(inbox: &Receiver<Paced>, interval: Duration) {
    let mut heap = BinaryHeap::new();
    loop {
        let now = Instant::now();
        fire(&mut heap, now, interval);
        let next = match heap.peek() {
            None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(Reverse(first)) => {
                let first: &Paced = first;
                inbox.recv_timeout(first.due.saturating_duration_since(now))
            }
        };
        match next {
            Ok(paced) => heap.push(Reverse(paced)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Hands out every token that is due.
fn fire(heap: &mut BinaryHeap<Reverse<Paced>>, now: Instant, interval: Duration) {
    while heap.peek().is_some_and(|Reverse(first)| first.due <= now) {
        let Some(Reverse(mut paced)) = heap.pop() else {
            return;
        };
        if paced.sink.try_send(stamp(paced.due, now)).is_ok() && paced.left > 1 {
            paced.due += interval;
            paced.left -= 1;
            heap.push(Reverse(paced));
        }
    }
}

/// A moment before `now` in microseconds of the machine's clock, modulo 2³²:
/// it fits a token id, and both processes read the same clock.
fn stamp(moment: Instant, now: Instant) -> u32 {
    let since = now.saturating_duration_since(moment);
    wall_us().wrapping_sub(since.as_micros() as u32)
}

/// The machine's clock in microseconds, modulo 2³².
pub(crate) fn wall_us() -> u32 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_micros() as u32
}

impl PartialEq for Paced {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Paced {}

impl PartialOrd for Paced {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Paced {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}
