//! What a dispatcher learns while it serves: how nodes keep what was predicted
//! of them, how long answers are, and how many tokens prompts are.
//!
//! A fleet that keeps its candidates here changes them as its nodes report,
//! and a snapshot is one reference: nothing is rebuilt for a request.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tiermesh_core::{
    Calibrated, CandidateState, Context, Done, ModelId, NodeId, PREFIX_BLOCK_TOKENS, RequestMeta,
    Snapshot, Time,
};
use tiermesh_decision::analysis::{Analysis, Estimator, PromptLength};
use tiermesh_decision::state::{Lengths, Opened, Prompts, StreamId, Tracker};
use tiermesh_decision::{Wanted, Warm};

/// Models of nodes that left of which is remembered what they taught.
const REMEMBERED: usize = 4_096;

/// Everything learnt, by all of a dispatcher's requests.
pub struct Memory {
    inner: Mutex<Inner>,
    /// Drawn for this process, and part of what beginnings are known by.
    secret: RandomState,
    estimator: Arc<dyn Estimator>,
}

struct Inner {
    tracker: Tracker,
    lengths: Lengths,
    prompts: Prompts,
    next: u64,
    /// The latest time anybody told.
    now: Time,
}

impl Memory {
    /// Nothing learnt. `epoch` tells this run of the process from others.
    #[must_use]
    pub fn new(epoch: u64) -> Arc<Self> {
        Self::estimating(epoch, Arc::new(PromptLength))
    }

    /// The same, with another estimate of how hard requests are.
    #[must_use]
    pub fn estimating(epoch: u64, estimator: Arc<dyn Estimator>) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                tracker: Tracker::new(epoch).remembering(REMEMBERED),
                lengths: Lengths::default(),
                prompts: Prompts::default(),
                next: 0,
                now: Time::ZERO,
            }),
            secret: RandomState::new(),
            estimator,
        })
    }

    /// What a beginning of a request's prompt is known by: a customer's own
    /// are told apart from everybody else's, or where somebody's prompt goes
    /// and how long it is expected to take would tell others what was asked.
    fn known_by<'a>(
        &'a self,
        meta: &'a RequestMeta,
        context: &'a Context,
    ) -> impl Fn(&u64) -> u64 + 'a {
        let whose = match &context.account.tenant {
            Some(tenant) => (true, tenant.as_str()),
            None => (false, meta.user_id.as_str()),
        };
        move |digest| self.secret.hash_one((digest, whose))
    }

    fn beginnings(&self, meta: &RequestMeta, context: &Context) -> Vec<u64> {
        let known_by = self.known_by(meta, context);
        meta.prefix.iter().map(known_by).collect()
    }

    /// Every candidate as it is known now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.lock().tracker.snapshot()
    }

    /// Changes what is known of nodes: they come, report and leave.
    pub fn nodes<R>(&self, change: impl FnOnce(&mut Tracker) -> R) -> R {
        change(&mut self.lock().tracker)
    }

    /// How well a node's model was predicted; none before its first answer.
    #[must_use]
    pub fn calibrated(&self, node: &NodeId, model: &ModelId) -> Option<Calibrated> {
        let inner = self.lock();
        let learnt = inner.tracker.learnt(node, model)?;
        let calibration = learnt.calibration();
        if calibration.samples() < 1.0 {
            return None;
        }
        Some(Calibrated {
            answers: calibration.samples(),
            ratio: calibration.ratio(),
            within_p99: calibration.within_p99(),
            error_ms: calibration.error_ms(),
            first_token_p50_ms: learnt.first_token_ms(0.5).unwrap_or_default(),
            first_token_p99_ms: learnt.first_token_ms(0.99).unwrap_or_default(),
            failed_share: calibration.failed_share(),
        })
    }

    /// What is expected of a request before anybody is chosen.
    pub(crate) fn analysis(&self, meta: &RequestMeta, context: &Context) -> Analysis {
        let known_by = self.known_by(meta, context);
        let beginnings = Lengths::beginnings(&meta.prefix).map(known_by);
        let inner = self.lock();
        let learnt = (&inner.lengths, &inner.prompts);
        Analysis::of(meta, &*self.estimator, beginnings, learnt)
    }

    /// Which candidates of a snapshot have how much of a prompt at hand.
    pub(crate) fn warm(
        &self,
        meta: &RequestMeta,
        context: &Context,
        snapshot: &Snapshot,
    ) -> Vec<Warm> {
        let mut found = Vec::new();
        if meta.prefix.is_empty() {
            return found;
        }
        let beginnings = self.beginnings(meta, context);
        let inner = self.lock();
        let tracker = &inner.tracker;
        tracker.warm(&beginnings, PREFIX_BLOCK_TOKENS, &mut found);
        let now = tracker.snapshot();
        drop(inner);
        // Places are those of the tracker; the snapshot may be of another
        // moment, or a part.
        found.retain_mut(|warm| {
            let Some(wanted) = now.candidates.get(warm.index) else {
                return false;
            };
            let is_it = |c: &CandidateState| c.node == wanted.node && c.model.id == wanted.model.id;
            let there = snapshot.candidates.get(warm.index);
            match there {
                Some(candidate) if is_it(candidate) => true,
                _ => match snapshot.candidates.iter().position(is_it) {
                    Some(index) => {
                        warm.index = index;
                        true
                    }
                    None => false,
                },
            }
        });
        found
    }

    /// A whole answer came from this model: `alone` says that nobody else had
    /// a part in it.
    pub(crate) fn answered(
        &self,
        (meta, context): (&RequestMeta, &Context),
        model: &ModelId,
        alone: bool,
        done: &Done,
    ) {
        let known_by = self.known_by(meta, context);
        let beginnings = Lengths::beginnings(&meta.prefix).map(known_by);
        let mut inner = self.lock();
        let tokens = u32::try_from(done.usage.output_tokens).unwrap_or(u32::MAX);
        inner.lengths.record(meta, beginnings, tokens);
        if alone {
            inner.prompts.record(meta, model, done.usage.input_tokens);
        }
    }

    /// A request was sent to a model on a node. `opened`'s place is looked up
    /// anew: the snapshot that was decided from may be old.
    pub(crate) fn sent(
        self: &Arc<Self>,
        (node, model): (&NodeId, &ModelId),
        opened: Opened,
        (meta, context): (&RequestMeta, &Context),
        now: Time,
    ) -> Option<Sight> {
        let beginnings = self.beginnings(meta, context);
        let mut inner = self.lock();
        inner.now = inner.now.max(now);
        let index = inner.tracker.place_of(node, model)?;
        let stream = StreamId(inner.next);
        inner.next += 1;
        let opened = Opened { index, ..opened };
        let prompt = (&*beginnings, PREFIX_BLOCK_TOKENS);
        inner.tracker.opened(stream, &opened, prompt, now);
        Some(Sight {
            memory: Arc::clone(self),
            stream,
            spoke: false,
        })
    }

    /// A request would go there if slots were free. The place is looked up
    /// anew: the snapshot that was decided from may be old.
    pub(crate) fn wanted(&self, (node, model): (&NodeId, &ModelId), wanted: Wanted, now: Time) {
        let mut inner = self.lock();
        if let Some(index) = inner.tracker.place_of(node, model) {
            inner.tracker.wanted(&Wanted { index, ..wanted }, now);
        }
    }

    /// A request is held back for a slot of a pool until this is dropped, and
    /// can wait until `until`.
    pub(crate) fn hold(self: &Arc<Self>, pool: u32, until: Time, now: Time) -> HeldBack {
        let mut inner = self.lock();
        inner.now = inner.now.max(now);
        inner.tracker.hold(pool, until, now);
        HeldBack {
            memory: Arc::clone(self),
            pool,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream that is followed to its end, however it ends: dropped, it ended
/// without teaching anything.
pub(crate) struct Sight {
    memory: Arc<Memory>,
    stream: StreamId,
    spoke: bool,
}

/// A request that is held back.
pub(crate) struct HeldBack {
    memory: Arc<Memory>,
    pool: u32,
}

impl std::fmt::Debug for HeldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeldBack")
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl Drop for HeldBack {
    fn drop(&mut self) {
        let mut inner = self.memory.lock();
        let now = inner.now;
        inner.tracker.unhold(self.pool, now);
    }
}

impl Sight {
    /// Whether its first token came.
    pub(crate) const fn has_spoken(&self) -> bool {
        self.spoke
    }

    /// Its first token came; later ones say nothing new.
    pub(crate) fn spoke(&mut self, now: Time) {
        if !std::mem::replace(&mut self.spoke, true) {
            let mut inner = self.memory.lock();
            inner.now = inner.now.max(now);
            inner.tracker.first_token(self.stream, now);
        }
    }

    /// It came to its end, and wrote so many tokens.
    pub(crate) fn ended(self, tokens: u64, now: Time) {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let mut inner = self.memory.lock();
        inner.now = inner.now.max(now);
        inner.tracker.closed(self.stream, Some(tokens), now);
    }

    /// Its node is quiet where it should not be.
    pub(crate) fn quiet(&self, now: Time) {
        let mut inner = self.memory.lock();
        inner.now = inner.now.max(now);
        inner.tracker.suspect(self.stream, now);
    }

    /// Its node failed it.
    pub(crate) fn failed(self, now: Time) {
        let mut inner = self.memory.lock();
        inner.now = inner.now.max(now);
        inner.tracker.failed(self.stream, now);
    }
}

impl Drop for Sight {
    fn drop(&mut self) {
        let mut inner = self.memory.lock();
        let now = inner.now;
        inner.tracker.closed(self.stream, None, now);
    }
}
