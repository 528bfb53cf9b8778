//! What waits and what runs, as changed under the queue's lock.

use std::time::{Duration, Instant};

use super::{Room, State};
use crate::serve::entry::{Entry, Need};
use crate::stream::StreamError;

impl State {
    pub(super) fn live(&self) -> usize {
        self.waiting.len() + self.reserved + self.running.len()
    }

    /// Ends the streams whose deadline passed while they waited: nobody may
    /// be refused for their sake.
    pub(super) fn drop_late(&mut self) {
        let now = Instant::now();
        self.waiting.retain(|entry| {
            let late = entry.deadline.is_some_and(|deadline| deadline <= now);
            if late {
                entry.mailbox.end(Err(StreamError::Deadline));
            }
            !late && !entry.mailbox.is_abandoned()
        });
    }

    pub(super) fn settle(
        &mut self,
        running: &mut Vec<Entry>,
        streams: usize,
        now: Instant,
        room: &mut impl FnMut(&Entry, &[Entry]) -> Room,
    ) {
        let began = running.len();
        let mut all: Vec<Entry> = running.drain(..).chain(self.waiting.drain(..)).collect();
        for (index, entry) in all.iter_mut().enumerate() {
            entry.age(now, index < began);
        }
        let standings: Vec<_> = all.iter().map(|entry| entry.standing.clone()).collect();
        let order = self.accounts.order(&standings);
        let mut all: Vec<Option<Entry>> = all.into_iter().map(Some).collect();
        let mut blocked = None;
        for index in order {
            let Some(mut entry) = all[index].take() else {
                continue;
            };
            let has_place = running.len() < streams;
            let goes = match (index < began, has_place, blocked.is_some()) {
                (_, false, _) => false,
                // What runs under somebody more urgent, who has no room, may
                // hold what that one needs.
                (true, true, true) => blocked <= Some(entry.standing.class),
                (true, true, false) => true,
                (false, true, true) => false,
                (false, true, false) => match room(&entry, running) {
                    Room::Yes => true,
                    Room::NotReady => false,
                    Room::No => {
                        blocked = Some(entry.standing.class);
                        false
                    }
                },
            };
            if goes {
                if index >= began {
                    entry.since = now;
                }
                running.push(entry);
                continue;
            }
            if index < began {
                entry.since = now;
                if blocked.is_some() {
                    entry.forget();
                }
            }
            self.waiting.push(entry);
        }
    }

    /// When the first of the running streams is expected to end.
    pub(super) fn first_end(&self) -> Duration {
        let ends = self.running.iter().map(|need| self.service(need));
        ends.min().unwrap_or_default()
    }

    pub(super) fn mean_service(&self) -> Duration {
        let needs = self.running.iter().copied();
        let needs = needs.chain(self.waiting.iter().map(Entry::need));
        let (count, all) = needs.fold((0u32, Duration::ZERO), |(count, all), need| {
            (count + 1, all.saturating_add(self.service(&need)))
        });
        all / count.max(1)
    }

    /// How long a running stream will take from here on.
    pub(super) fn service(&self, need: &Need) -> Duration {
        let Some(speed) = &self.speeds[need.model] else {
            return Duration::ZERO;
        };
        let step = speed.step_secs(self.running.len().max(1));
        let reading = need.unread as f64 / speed.prefill_tok_s();
        Duration::from_secs_f64(reading + speed.answer(need.left) * step)
    }
}
