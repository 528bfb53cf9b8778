//! The thread that computes: turns, memory, endings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};
use tiermesh_core::{FinishReason, UserId};

use super::entry::{Entry, Work};
use super::models::{Loaded, Models};
use super::prefix::PrefixIndex;
use super::queue::{Queue, Room};
use super::sequence::Sequence;
use super::watchdog::Pulse;
use crate::engine::{EngineOptions, PrefixSharing};
use crate::model::{KvLayout, PagePool};
use crate::stream::StreamError;

/// Tokens an answer is assumed to grow by before it ends, when memory is
/// looked at: enough that few are put off, few enough that most get in.
const EXPECTED_GROWTH: u64 = 64;
/// Scopes of shared prefixes that are remembered.
const MAX_ROOTS: usize = 1 << 16;

pub(crate) struct Scheduler {
    pub(super) queue: Arc<Queue>,
    pub(super) models: Arc<Models>,
    pub(super) pages: Arc<PagePool>,
    pub(super) index: PrefixIndex,
    roots: BTreeMap<(usize, Option<UserId>), u64>,
    next_root: u64,
    pub(super) threads: ThreadPool,
    pub(super) options: EngineOptions,
    pub(super) running: Vec<Entry>,
    /// The model stepped last, so that the next one is another's turn.
    last: usize,
    pub(super) pulse: Arc<Pulse>,
}

impl Scheduler {
    /// For the thread it is called on, which becomes the pool's first.
    pub(crate) fn new(
        queue: Arc<Queue>,
        models: Arc<Models>,
        pages: Arc<PagePool>,
        options: EngineOptions,
        pulse: Arc<Pulse>,
    ) -> Result<Self, rayon::ThreadPoolBuildError> {
        Ok(Self {
            threads: pool(options.threads)?,
            queue,
            models,
            pages,
            index: PrefixIndex::default(),
            roots: BTreeMap::new(),
            next_root: 0,
            options,
            running: Vec::new(),
            last: 0,
            pulse,
        })
    }

    /// Serves until the queue closes.
    pub(crate) fn run(mut self) {
        loop {
            let (models, pages, index) = (&self.models, &self.pages, &self.index);
            let room =
                |entry: &Entry, running: &[Entry]| room(entry, running, models, pages, index);
            if !self.queue.turn(&mut self.running, room) {
                break;
            }
            self.retire();
            if let Some(model) = self.whose_turn() {
                self.step(model);
            }
            self.pulse.publish(self.index.stats());
        }
        for entry in std::mem::take(&mut self.running) {
            self.end(entry, Err(StreamError::Stopped));
        }
    }

    /// Ends what nobody waits for and what is late.
    fn retire(&mut self) {
        let now = Instant::now();
        let over = |entry: &mut Entry| {
            entry.mailbox.is_abandoned() || entry.deadline.is_some_and(|at| at <= now)
        };
        let over: Vec<Entry> = self.running.extract_if(.., over).collect();
        for entry in over {
            self.end(entry, Err(StreamError::Deadline));
        }
    }

    /// The next model in turn that has something to compute.
    fn whose_turn(&mut self) -> Option<usize> {
        let after = |entry: &Entry| {
            let count = self.models.slots().len();
            (entry.model + count - self.last - 1) % count
        };
        let model = self.running.iter().min_by_key(|entry| after(entry))?.model;
        self.last = model;
        Some(model)
    }

    fn step(&mut self, model: usize) {
        match self.models.hot(model) {
            Some(Loaded::Decoder(decoder)) => {
                self.begin(model, &decoder);
                self.write(model, &decoder);
            }
            Some(Loaded::Encoder(embedder)) => self.encode(model, &embedder),
            // It went although somebody runs: they are told and not left.
            None => self.fail(model, StreamError::NotLoaded),
        }
    }

    /// Ends every running stream of a model.
    pub(super) fn fail(&mut self, model: usize, error: StreamError) {
        let of_model = |entry: &mut Entry| entry.model == model;
        let failed: Vec<Entry> = self.running.extract_if(.., of_model).collect();
        for entry in failed {
            self.end(entry, Err(error));
        }
    }

    /// Makes plans into sequences, which look for what others read already.
    fn begin(&mut self, model: usize, decoder: &Arc<crate::loaded::Model>) {
        let sharing = self.options.prefix_sharing;
        for entry in self.running.iter_mut().filter(|entry| entry.model == model) {
            if let Work::Plan(_) = &entry.work {
                let Work::Plan(plan) = std::mem::replace(&mut entry.work, Work::Over) else {
                    continue;
                };
                let sequence = Sequence::new(Arc::clone(decoder), *plan, Arc::clone(&self.pages));
                entry.work = Work::Sequence(Box::new(sequence));
            }
            let Work::Sequence(sequence) = &mut entry.work else {
                continue;
            };
            let scope = match sharing {
                PrefixSharing::All => None,
                PrefixSharing::User => Some(entry.standing.user.clone()),
                PrefixSharing::Off => continue,
            };
            let next = self.next_root;
            let root = *self.roots.entry((model, scope)).or_insert(next);
            self.next_root = self.next_root.max(root + 1);
            sequence.look_up(&mut self.index, root);
        }
        // A root is only a name, never used twice; those of users who are gone
        // would add up. Their pages go as they get old.
        if self.roots.len() > MAX_ROOTS {
            self.roots.clear();
        }
    }

    /// Makes memory for a stream that comes before all that may give theirs:
    /// unused prefixes first, then streams that wait, then those that run
    /// behind it. Tells whether there is enough.
    pub(super) fn make_room(&mut self, place: usize, bytes: usize) -> bool {
        let pages = Arc::clone(&self.pages);
        let enough = || pages.free() >= bytes;
        if enough() || self.index.evict_until(enough) {
            return true;
        }
        let mut freed = self.queue.reclaim(enough);
        for behind in (place + 1..self.running.len()).rev() {
            if freed {
                break;
            }
            if self.running[behind].holds_memory() {
                self.running[behind].forget();
            }
            freed = self.index.evict_until(enough);
        }
        freed || self.index.evict_until(enough)
    }

    /// Frees an entry's place, then tells its reader.
    pub(super) fn end(
        &self,
        mut entry: Entry,
        ending: Result<(FinishReason, Option<u32>), StreamError>,
    ) {
        // Its pages are free before anybody can know of the end.
        entry.work = Work::Over;
        let tokens = ending.is_ok().then(|| entry.watch.output_tokens());
        self.queue
            .finish(entry.standing.ticket, entry.model, tokens);
        let ending = ending.map(|(reason, end_token)| entry.watch.finished(reason, end_token));
        entry.mailbox.end(ending);
    }
}

/// A pool in which the calling thread itself is the first: a step of one
/// thread never leaves it.
pub(crate) fn pool(
    threads: std::num::NonZeroUsize,
) -> Result<ThreadPool, rayon::ThreadPoolBuildError> {
    ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .thread_name(|index| format!("infer-part-{index}"))
        .use_current_thread()
        .build()
}

/// Whether a stream can be computed beside those that are.
fn room(
    entry: &Entry,
    running: &[Entry],
    models: &Models,
    pages: &PagePool,
    index: &PrefixIndex,
) -> Room {
    if entry.is_raw() || !(models.takes(entry.model) || entry.holds_memory()) {
        return Room::NotReady;
    }
    let layout = |entry: &Entry| match models.hot(entry.model) {
        Some(Loaded::Decoder(model)) => Some(model.decoder.kv_layout()),
        _ => None,
    };
    let grows = |entry: &Entry| layout(entry).map_or(0, |layout| growth(entry, layout));
    let own = grows(entry);
    let committed: usize = running.iter().map(grows).sum();
    let Some(layout) = layout(entry) else {
        return Room::Yes;
    };
    let mut free = pages.free();
    if committed + own > free {
        free += index.idle_pages() * layout.page_bytes();
    }
    match running.is_empty() || committed + own <= free {
        true => Room::Yes,
        false => Room::No,
    }
}

/// Bytes a stream will take on top of what it holds.
fn growth(entry: &Entry, layout: KvLayout) -> usize {
    let need = entry.need();
    let tokens = need.unread + need.left.min(EXPECTED_GROWTH) as usize;
    KvLayout::pages(tokens) * layout.page_bytes()
}

/// Time a step may take while others are written to.
pub(super) fn reading_time(step: Duration, writing: f64) -> f64 {
    // At least a quarter of a step is for reading, however slow writing is:
    // prompts are never starved by answers.
    (step.as_secs_f64() - writing).max(step.as_secs_f64() / 4.0)
}
