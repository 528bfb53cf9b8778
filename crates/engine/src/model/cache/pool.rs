//! Memory for pages: counted against a budget, and used again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Cells, KvLayout, Page};

/// The most pages whose memory is kept for the next ones, so that a stream's
/// growth does not go to the system for memory every sixteen tokens.
const SPARE_PAGES: usize = 64;

/// Where pages come from and go back to. It counts; whoever takes pages looks
/// at the count first, for a step that has begun is not refused memory.
pub(crate) struct PagePool {
    budget: usize,
    used: AtomicUsize,
    spare: Mutex<Vec<Cells>>,
}

impl PagePool {
    /// A pool of so many bytes.
    pub(crate) fn new(budget: usize) -> Arc<Self> {
        Arc::new(Self {
            budget,
            used: AtomicUsize::new(0),
            spare: Mutex::new(Vec::new()),
        })
    }

    /// A pool for one stream by itself.
    pub(crate) fn unlimited() -> Arc<Self> {
        Self::new(usize::MAX)
    }

    /// Bytes it may hold.
    pub(crate) fn budget(&self) -> usize {
        self.budget
    }

    /// Bytes in pages that somebody holds.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes left.
    pub(crate) fn free(&self) -> usize {
        self.budget.saturating_sub(self.used())
    }

    /// A page of zeros.
    pub(super) fn page(self: &Arc<Self>, layout: KvLayout) -> Page {
        self.hold(layout.page_bytes());
        let cells = self.reused(layout).unwrap_or_else(|| Cells::new(layout));
        Page {
            cells,
            pool: Arc::clone(self),
        }
    }

    /// Memory of a page that is gone, zeroed: nothing of one stream is ever
    /// within another's reach.
    fn reused(&self, layout: KvLayout) -> Option<Cells> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = spare.iter().rposition(|cells| cells.fit(layout))?;
        let mut cells = spare.swap_remove(fits);
        drop(spare);
        cells.clear();
        Some(cells)
    }

    pub(super) fn hold(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn release(&self, bytes: usize, cells: &mut Cells) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if self.budget == usize::MAX {
            return;
        }
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_PAGES {
            spare.push(std::mem::replace(cells, Cells::F16(Vec::new())));
        }
    }
}
