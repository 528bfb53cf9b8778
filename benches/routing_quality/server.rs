//! A simulated node: slots, a queue, memory for what is under way, and a
//! cache of prefixes.

use crate::trace::BLOCK_TOKENS;
use std::collections::{BTreeMap, VecDeque};

/// A stream that waits or runs.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    pub(crate) job: usize,
    pub(crate) attempt: u32,
    pub(crate) kv: u64,
}

/// One node.
pub(crate) struct Server {
    pub(crate) kind: usize,
    pub(crate) slots: u32,
    room: usize,
    kv_tokens: u64,
    kv_used: u64,
    pub(crate) running: Vec<Held>,
    pub(crate) queue: VecDeque<Held>,
    /// Microseconds; nothing moves before.
    pub(crate) stalled_until: u64,
    pub(crate) dead: bool,
    cache: Cache,
}

impl Server {
    pub(crate) fn new(kind: usize, slots: u32, room: u32, kv_tokens: u64) -> Self {
        Self {
            kind,
            slots,
            room: room as usize,
            kv_tokens,
            kv_used: 0,
            running: Vec::new(),
            queue: VecDeque::new(),
            stalled_until: 0,
            dead: false,
            cache: Cache::new(kv_tokens / 2 / u64::from(BLOCK_TOKENS)),
        }
    }

    /// Takes a stream in, or refuses.
    pub(crate) fn admit(&mut self, held: Held) -> bool {
        let full = self.running.len() >= self.slots as usize || !self.queue.is_empty();
        if held.kv > self.kv_tokens || (full && self.queue.len() >= self.room) {
            return false;
        }
        self.queue.push_back(held);
        true
    }

    /// The next that may begin.
    pub(crate) fn next(&mut self) -> Option<Held> {
        let next = *self.queue.front()?;
        if self.running.len() >= self.slots as usize || self.kv_used + next.kv > self.kv_tokens {
            return None;
        }
        self.queue.pop_front();
        self.kv_used += next.kv;
        self.running.push(next);
        Some(next)
    }

    /// Tokens of memory that nobody uses.
    pub(crate) const fn kv_free(&self) -> u64 {
        self.kv_tokens - self.kv_used
    }

    /// A stream ended, if it was still there.
    pub(crate) fn end(&mut self, job: usize, attempt: u32) -> bool {
        let found = self
            .running
            .iter()
            .position(|h| h.job == job && h.attempt == attempt);
        if let Some(at) = found {
            let held = self.running.swap_remove(at);
            self.kv_used -= held.kv;
        }
        found.is_some()
    }

    /// Everything under way is lost, and the cache.
    pub(crate) fn lose_all(&mut self) -> Vec<Held> {
        self.kv_used = 0;
        self.cache.clear();
        let mut lost: Vec<_> = self.running.drain(..).collect();
        lost.extend(self.queue.drain(..));
        lost
    }

    /// A waiting stream goes elsewhere.
    pub(crate) fn forget_waiting(&mut self, job: usize) {
        self.queue.retain(|held| held.job != job);
    }

    /// Tokens of a prompt at hand; the whole of it is, from now on.
    pub(crate) fn read(&mut self, blocks: &[u64]) -> u32 {
        self.cache.read(blocks) * BLOCK_TOKENS
    }
}

/// Blocks by least recent use.
struct Cache {
    most: usize,
    clock: u64,
    stamps: BTreeMap<u64, u64>,
    order: VecDeque<(u64, u64)>,
}

impl Cache {
    fn new(most: u64) -> Self {
        Self {
            most: usize::try_from(most).unwrap_or(usize::MAX),
            clock: 0,
            stamps: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    fn clear(&mut self) {
        self.stamps.clear();
        self.order.clear();
    }

    fn read(&mut self, blocks: &[u64]) -> u32 {
        let known = |block: &&u64| self.stamps.contains_key(*block);
        let hit = blocks.iter().take_while(known).count();
        for block in blocks {
            self.clock += 1;
            self.stamps.insert(*block, self.clock);
            self.order.push_back((*block, self.clock));
        }
        while self.stamps.len() > self.most {
            let Some((block, stamp)) = self.order.pop_front() else {
                break;
            };
            if self.stamps.get(&block) == Some(&stamp) {
                self.stamps.remove(&block);
            }
        }
        if self.order.len() > 4 * self.most + 4_096 {
            let stamps = &self.stamps;
            self.order
                .retain(|(block, stamp)| stamps.get(block) == Some(stamp));
        }
        hit as u32
    }
}
