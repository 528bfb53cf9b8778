//! What answers said last: a client that lost its connection gets what was in
//! flight again, and nobody computes it a second time.
//!
//! Only answers whose clients asked for resume tokens are kept, each only its
//! last events, all together within one bound, and for a short time after the
//! answer ended. Beyond that an answer goes on by continuation alone.

use crate::answer::Handle;
use futures_core::Stream;
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tiermesh_core::{
    DecisionSummary, ErrorClass, Event, EventStream, InferError, Seam, SeamKind, Token,
};
use tokio::time::Instant;

mod missed;
mod told;

pub(crate) use missed::Missed;
pub(crate) use told::after_accepted;

/// What a record weighs beside its events, in bytes.
const RECORD_BYTES: usize = 1024;
/// And an event beside its text.
const EVENT_BYTES: usize = 64;
const TOKEN_BYTES: usize = 64;

/// How much of what was said is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayBounds {
    /// Of one answer, in bytes; 0 keeps nothing.
    pub stream_bytes: usize,
    /// Of all answers, in bytes.
    pub all_bytes: usize,
    /// After the answer's end or the loss of its client.
    pub kept: Duration,
}

impl Default for ReplayBounds {
    /// 64 KiB an answer, 32 MiB in all, half a minute.
    fn default() -> Self {
        Self {
            stream_bytes: 64 * 1024,
            all_bytes: 32 * 1024 * 1024,
            kept: Duration::from_secs(30),
        }
    }
}

/// The ends of a door's answers.
pub(crate) struct Replays {
    bounds: ReplayBounds,
    shelf: Mutex<Shelf>,
    /// Of all records on the shelf, and of those being written.
    bytes: AtomicUsize,
}

#[derive(Default)]
struct Shelf {
    records: BTreeMap<u64, Arc<Record>>,
    /// Those that ended, first to go first.
    ended: VecDeque<(Instant, u64, Arc<Record>)>,
}

#[derive(Default)]
struct Record(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    accepted: Option<Box<DecisionSummary>>,
    /// Tokens, seams and the end, in order.
    events: VecDeque<Event>,
    /// The number of the first token that is kept, and of the next one.
    first: u64,
    next: u64,
    bytes: usize,
    /// The weakest seam in the answer.
    seam: Option<SeamKind>,
    /// Nothing of it can be told again.
    spoiled: bool,
    ended: bool,
    /// Its bytes were given back.
    forgotten: bool,
    writer: Option<Handle>,
}

impl Replays {
    pub(crate) fn new(bounds: ReplayBounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            shelf: Mutex::default(),
            bytes: AtomicUsize::new(0),
        })
    }

    /// What the client of the answer `id` has not, who has the tokens before
    /// `from`. None where that is not kept. Whoever still writes it stops.
    pub(crate) fn missed(&self, id: u64, from: u64) -> Option<Missed> {
        let record = self.shelf().records.get(&id).map(Arc::clone)?;
        let writer = record.kept().writer.take();
        if let Some(writer) = writer {
            // Nobody reads there any more; what was said is settled before
            // anything is asked for again.
            writer.end(InferError::new(
                ErrorClass::Cancelled,
                "RESUMED",
                "the answer goes on over another connection",
            ));
        }
        let kept = record.kept();
        (!kept.spoiled && (kept.first..=kept.next).contains(&from)).then(|| kept.since(from))
    }

    /// Keeps what `stream` says, behind what was said `before` it.
    pub(crate) fn keep(
        self: &Arc<Self>,
        id: u64,
        stream: EventStream,
        before: &Missed,
    ) -> Recorded {
        let record = Arc::<Record>::default();
        {
            let mut kept = record.kept();
            (kept.first, kept.next) = (before.first, before.first);
            kept.spoiled = self.bounds.stream_bytes == 0;
            kept.seam = before.seam;
        }
        self.bytes.fetch_add(RECORD_BYTES, Ordering::Relaxed);
        let replaced = self.shelf().records.insert(id, Arc::clone(&record));
        if let Some(replaced) = replaced {
            self.forget(&replaced);
        }
        self.make_room(id, &record);
        for event in &before.kept {
            self.note(id, &record, event);
        }
        Recorded {
            stream,
            record,
            id,
            replays: Arc::clone(self),
        }
    }

    /// Forgets what ended long enough ago.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        let mut shelf = self.shelf();
        while let Some((at, ..)) = shelf.ended.front()
            && now.duration_since(*at) >= self.bounds.kept
        {
            self.drop_first(&mut shelf);
        }
    }

    fn drop_first(&self, shelf: &mut Shelf) -> bool {
        let Some((_, id, record)) = shelf.ended.pop_front() else {
            return false;
        };
        shelf.remove(id, &record);
        self.forget(&record);
        true
    }

    /// Gives a record's bytes back, once.
    fn forget(&self, record: &Record) {
        let mut kept = record.kept();
        let bytes = kept.spoil();
        if !std::mem::replace(&mut kept.forgotten, true) {
            self.bytes
                .fetch_sub(bytes + RECORD_BYTES, Ordering::Relaxed);
        }
    }

    fn note(&self, id: u64, record: &Arc<Record>, event: &Event) {
        let mut kept = record.kept();
        if kept.spoiled {
            return;
        }
        // Counted under the record's lock: what is given back was counted.
        let (added, dropped) = kept.add(event, self.bounds.stream_bytes);
        self.bytes.fetch_add(added, Ordering::Relaxed);
        self.bytes.fetch_sub(dropped, Ordering::Relaxed);
        drop(kept);
        self.make_room(id, record);
    }

    /// Those that ended first go first; where nobody has, the one that writes.
    fn make_room(&self, id: u64, writes: &Arc<Record>) {
        while self.bytes.load(Ordering::Relaxed) > self.bounds.all_bytes {
            let mut shelf = self.shelf();
            if !self.drop_first(&mut shelf) {
                shelf.remove(id, writes);
                return self.forget(writes);
            }
        }
    }

    fn ended(&self, id: u64, record: &Arc<Record>) {
        if std::mem::replace(&mut record.kept().ended, true) {
            return;
        }
        let mut shelf = self.shelf();
        // Whoever was replaced is forgotten already.
        if shelf
            .records
            .get(&id)
            .is_some_and(|r| Arc::ptr_eq(r, record))
        {
            shelf
                .ended
                .push_back((Instant::now(), id, Arc::clone(record)));
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn held(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Shelf {
    /// Takes a record away, if it was not replaced.
    fn remove(&mut self, id: u64, record: &Arc<Record>) {
        let is_it = |kept: &Arc<Record>| Arc::ptr_eq(kept, record);
        if self.records.get(&id).is_some_and(is_it) {
            self.records.remove(&id);
        }
    }
}

impl Record {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Adds what was said: the bytes that came, and those that had to go.
    fn add(&mut self, event: &Event, most: usize) -> (usize, usize) {
        match event {
            Event::Accepted(decision) => {
                self.accepted = Some(decision.clone());
                return (0, 0);
            }
            Event::Tokens { first_seq, items } => {
                if *first_seq != self.next {
                    return (0, self.spoil());
                }
                self.next += items.len() as u64;
            }
            Event::Seam(seam) => match seam.kind {
                // What was said before does not count any more.
                SeamKind::Restart => return (0, self.spoil()),
                kind if self.seam.is_none_or(|worst| (worst as u8) < kind as u8) => {
                    self.seam = Some(kind);
                }
                _ => {}
            },
            Event::Done(_) => {}
            Event::Result(_) => return (0, self.spoil()),
        }
        let added = weight(event);
        self.events.push_back(event.clone());
        self.bytes += added;
        let mut dropped = 0;
        while self.bytes > most
            && let Some(oldest) = self.events.pop_front()
        {
            if let Event::Tokens { first_seq, items } = &oldest {
                self.first = first_seq + items.len() as u64;
            }
            self.bytes -= weight(&oldest);
            dropped += weight(&oldest);
        }
        (added, dropped)
    }

    fn spoil(&mut self) -> usize {
        self.spoiled = true;
        self.events = VecDeque::new();
        std::mem::take(&mut self.bytes)
    }

    fn since(&self, from: u64) -> Missed {
        let mut events = Vec::new();
        for event in &self.events {
            match event {
                Event::Tokens { first_seq, items } => {
                    let known = usize::try_from(from.saturating_sub(*first_seq));
                    let known = known.unwrap_or(usize::MAX).min(items.len());
                    if known < items.len() {
                        events.push(Event::Tokens {
                            first_seq: first_seq + known as u64,
                            items: items[known..].to_vec(),
                        });
                    }
                }
                Event::Seam(Seam { seq, .. }) if *seq < from => {}
                event => events.push(event.clone()),
            }
        }
        let goes_on = |event: &&Event| !matches!(event, Event::Done(_));
        Missed {
            accepted: self.accepted.clone(),
            is_whole: matches!(events.last(), Some(Event::Done(_))),
            events,
            next: self.next,
            seam: self.seam,
            kept: self.events.iter().filter(goes_on).cloned().collect(),
            first: self.first,
        }
    }
}

fn weight(event: &Event) -> usize {
    let token = |token: &Token| {
        let detail = token.detail.as_ref().map_or(0, |detail| {
            let top = detail.top.iter().map(|one| TOKEN_BYTES + one.bytes.len());
            TOKEN_BYTES + detail.bytes.len() + top.sum::<usize>()
        });
        TOKEN_BYTES + token.text.len() + detail
    };
    match event {
        Event::Tokens { items, .. } => EVENT_BYTES + items.iter().map(token).sum::<usize>(),
        _ => EVENT_BYTES,
    }
}

/// A stream whose end is kept.
pub(crate) struct Recorded {
    stream: EventStream,
    record: Arc<Record>,
    id: u64,
    replays: Arc<Replays>,
}

impl Recorded {
    /// Lets whoever resumes it end the one that is served now.
    pub(crate) fn writer(&self) -> Writer {
        Writer(Arc::clone(&self.record))
    }
}

impl Stream for Recorded {
    type Item = Result<Event, InferError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = ready!(self.stream.as_mut().poll_next(cx));
        if let Some(Ok(event)) = &event {
            self.replays.note(self.id, &self.record, event);
        }
        Poll::Ready(event)
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.replays.ended(self.id, &self.record);
    }
}

/// Where the handle of a kept answer goes.
pub(crate) struct Writer(Arc<Record>);

impl Writer {
    pub(crate) fn is(self, answer: Handle) {
        self.0.kept().writer = Some(answer);
    }
}

#[cfg(test)]
mod tests;
