//! The nodes a gateway knows, and the way to each.

use crate::session::NodeHello;
use crate::stream;
use crate::transport::code;
use quinn::Connection;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tiermesh_core::{
    CapacityReport, Clock, Context, Destination, ErrorClass, Infer, InferError, InferFuture,
    ModelId, NodeId, Request, Sealed, Time,
};
use tokio::sync::Notify;

/// A linked node, as it was when asked.
#[derive(Debug, Clone)]
pub struct LinkedNode {
    /// Who it is and what it offers.
    pub hello: Arc<NodeHello>,
    /// Its last report.
    pub report: Option<Arc<CapacityReport>>,
    /// When that came.
    pub reported_at: Time,
    /// Streams it lets us have open at once.
    pub credits: u32,
    /// Streams we have open.
    pub streams: u32,
    /// It takes nothing new.
    pub draining: bool,
    /// Round trip as QUIC measures it.
    pub rtt: Duration,
    /// Where it dialled from.
    pub address: SocketAddr,
}

impl LinkedNode {
    /// Streams that may still be opened.
    #[must_use]
    pub const fn credits_free(&self) -> u32 {
        if self.draining {
            0
        } else {
            self.credits.saturating_sub(self.streams)
        }
    }
}

/// Hears what changes of linked nodes, in its order. It is called under the
/// table's lock and must neither wait nor ask the table.
pub trait NodeWatch: Send + Sync + 'static {
    /// A node reported, or lets another number of streams be open.
    fn changed(&self, node: &LinkedNode);

    /// A node is gone.
    fn left(&self, node: &NodeId);
}

/// Every node linked to this gateway, and the report log's present point.
pub struct NodeTable {
    nodes: Mutex<BTreeMap<NodeId, Arc<Entry>>>,
    watch: Option<Arc<dyn NodeWatch>>,
    epoch: u64,
    sequence: AtomicU64,
}

impl NodeTable {
    /// An empty table. `epoch` tells this run of the process from others.
    #[must_use]
    pub fn new(epoch: u64) -> Arc<Self> {
        Self::with(epoch, None)
    }

    /// An empty table whose changes `watch` hears.
    #[must_use]
    pub fn watched(epoch: u64, watch: Arc<dyn NodeWatch>) -> Arc<Self> {
        Self::with(epoch, Some(watch))
    }

    fn with(epoch: u64, watch: Option<Arc<dyn NodeWatch>>) -> Arc<Self> {
        Arc::new(Self {
            nodes: Mutex::default(),
            watch,
            epoch,
            sequence: AtomicU64::new(0),
        })
    }

    /// The run of the process, and the last report applied.
    #[must_use]
    pub fn point(&self) -> (u64, u64) {
        (self.epoch, self.sequence.load(Ordering::Acquire))
    }

    /// Every node, by id.
    #[must_use]
    pub fn list(&self) -> Vec<LinkedNode> {
        self.lock().values().map(|entry| entry.view()).collect()
    }

    /// Tells a node that requests for a model are expected. Whether it obeys
    /// shows in its reports.
    ///
    /// # Errors
    /// When there is no such node, it does not have the model, or its software
    /// is older than this.
    pub fn preload(&self, node: &NodeId, model: &ModelId) -> Result<(), InferError> {
        let entry = self.lock().get(node).cloned();
        let refused = |reason, message| InferError::new(ErrorClass::NotFound, reason, message);
        let Some(entry) = entry else {
            let message = format!("no node `{node}` is linked to this gateway");
            return Err(refused("NODE_NOT_FOUND", message));
        };
        if !entry.hello.models.iter().any(|offer| offer.id == *model) {
            let models = entry.hello.models.iter().map(|offer| offer.id.as_str());
            let allowed = models.collect::<Vec<_>>().join(", ");
            let message = format!("node `{node}` has no model `{model}`; it has: {allowed}");
            return Err(refused("MODEL_NOT_FOUND", message).with("allowed", allowed));
        }
        if !entry.hello.preloads {
            let software = &entry.hello.software;
            let message = format!("node `{node}` runs {software}, which takes no such hint");
            return Err(InferError::new(
                ErrorClass::InvalidArgument,
                "NOT_SUPPORTED",
                message,
            ));
        }
        entry.hint(model);
        Ok(())
    }

    /// The way to a node; `None` once it is gone.
    #[must_use]
    pub fn infer(&self, node: &NodeId) -> Option<Arc<dyn Infer>> {
        let entry = self.lock().get(node)?.clone();
        Some(entry)
    }

    /// A node is in. One of the same name is taken over: its old connection
    /// is a path that no longer is.
    pub(super) fn join(&self, entry: Arc<Entry>) {
        let node = entry.hello.node.clone();
        let mut nodes = self.lock();
        let old = nodes.insert(node.clone(), entry);
        if let Some(old) = old {
            self.tell(|watch| watch.left(&node));
            old.connection.close(code::DONE, b"the node came back");
        }
        drop(nodes);
        self.applied();
    }

    /// A node reported, or its credits are other now.
    pub(super) fn changed(&self, entry: &Arc<Entry>) {
        let nodes = self.lock();
        let present = nodes.get(&entry.hello.node);
        if present.is_some_and(|present| Arc::ptr_eq(present, entry)) {
            self.tell(|watch| watch.changed(&entry.view()));
        }
    }

    fn tell(&self, what: impl FnOnce(&dyn NodeWatch)) {
        if let Some(watch) = &self.watch {
            what(&**watch);
        }
    }

    pub(super) fn leave(&self, entry: &Arc<Entry>) {
        let mut nodes = self.lock();
        let same = nodes
            .get(&entry.hello.node)
            .is_some_and(|present| Arc::ptr_eq(present, entry));
        if same {
            nodes.remove(&entry.hello.node);
            self.tell(|watch| watch.left(&entry.hello.node));
        }
        drop(nodes);
        self.applied();
    }

    /// One more report is in.
    pub(super) fn applied(&self) {
        self.sequence.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn streams(&self) -> u32 {
        self.lock().values().map(|entry| entry.streams()).sum()
    }

    pub(super) fn drain_all(&self) {
        for entry in self.lock().values() {
            entry.drain();
            self.tell(|watch| watch.changed(&entry.view()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Entry>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Reported {
    report: Option<Arc<CapacityReport>>,
    at: Time,
}

/// One linked node: what is known of it, and the way to it.
pub(super) struct Entry {
    hello: Arc<NodeHello>,
    connection: Connection,
    clock: Arc<dyn Clock>,
    reported: Mutex<Reported>,
    credits: AtomicU32,
    streams: Arc<AtomicU32>,
    draining: AtomicBool,
    goodbye: AtomicBool,
    /// Models it is to be told of. Each is there once, so they are as few as
    /// it has.
    hints: Mutex<Vec<ModelId>>,
    notify: Arc<Notify>,
}

impl Entry {
    pub(super) fn new(
        hello: NodeHello,
        connection: Connection,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Self {
            hello: Arc::new(hello),
            connection,
            clock,
            reported: Mutex::default(),
            credits: AtomicU32::new(0),
            streams: Arc::default(),
            draining: AtomicBool::new(false),
            goodbye: AtomicBool::new(false),
            hints: Mutex::default(),
            notify: Arc::default(),
        })
    }

    pub(super) fn hello(&self) -> &NodeHello {
        &self.hello
    }

    pub(super) fn streams(&self) -> u32 {
        self.streams.load(Ordering::Acquire)
    }

    /// Whether that is another number than before.
    pub(super) fn set_credits(&self, credits: u32) -> bool {
        self.credits.swap(credits, Ordering::AcqRel) != credits
    }

    pub(super) fn report(&self, report: CapacityReport, now: Time) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        reported.report = Some(Arc::new(report));
        reported.at = now;
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// True once: the caller is the one to say goodbye.
    pub(super) fn said_goodbye(&self) -> bool {
        !self.goodbye.swap(true, Ordering::AcqRel)
    }

    fn hint(&self, model: &ModelId) {
        let mut hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        if !hints.contains(model) {
            hints.push(model.clone());
        }
        drop(hints);
        self.notify.notify_one();
    }

    pub(super) fn take_hints(&self) -> Vec<ModelId> {
        let mut hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *hints)
    }

    pub(super) async fn changed(&self) {
        self.notify.notified().await;
    }

    fn view(&self) -> LinkedNode {
        let reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        LinkedNode {
            hello: self.hello.clone(),
            report: reported.report.clone(),
            reported_at: reported.at,
            credits: self.credits.load(Ordering::Acquire),
            streams: self.streams(),
            draining: self.is_draining(),
            rtt: self.connection.rtt(),
            address: self.connection.remote_address(),
        }
    }

    fn destination(&self) -> Destination {
        Destination {
            tier: self.hello.tier,
            region: self.hello.region.clone(),
            node: self.hello.node.clone(),
            owner: self.hello.owner.clone(),
        }
    }

    /// Takes one credit, to be held as long as the stream lives.
    fn take_credit(&self) -> Result<Held, InferError> {
        let credits = if self.is_draining() {
            0
        } else {
            self.credits.load(Ordering::Acquire)
        };
        let taken = self
            .streams
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| {
                (open < credits).then_some(open + 1)
            });
        if taken.is_err() {
            let message = format!(
                "`{}` has no credit left: {credits} streams",
                self.hello.node
            );
            return Err(
                InferError::new(ErrorClass::Exhausted, "QUEUE_FULL", message)
                    .retry_after(self.next_free()),
            );
        }
        self.notify.notify_one();
        Ok(Held {
            streams: self.streams.clone(),
            notify: self.notify.clone(),
        })
    }

    /// When a stream is likely to end: one first-token time from now, as the
    /// node last measured it.
    fn next_free(&self) -> Duration {
        let reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let first_token_ms = reported
            .report
            .as_ref()
            .and_then(|report| report.models.first())
            .map_or(100.0, |model| model.first_token_ms);
        // A report may hold anything, and a number that is none stays none
        // when it is clamped.
        let seconds = first_token_ms / 1e3;
        let seconds = if seconds.is_finite() { seconds } else { 0.1 };
        Duration::from_secs_f32(seconds.clamp(0.005, 30.0))
    }
}

/// A credit in use.
struct Held {
    streams: Arc<AtomicU32>,
    notify: Arc<Notify>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Ordering::AcqRel);
        self.notify.notify_one();
    }
}

impl Infer for Entry {
    fn infer(&self, request: Arc<Sealed<Request>>, context: Context) -> InferFuture<'_> {
        Box::pin(async move {
            let held = self.take_credit()?;
            stream::open(
                &self.connection,
                &self.destination(),
                &request,
                &context,
                &*self.clock,
                held,
            )
            .await
        })
    }
}
