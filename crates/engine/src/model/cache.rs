//! Keys and values of the positions read so far, in pages of sixteen.
//!
//! A page holds sixteen positions of every layer. For each layer and each
//! key-value head it has the keys as `[head_dim, 16]`, so that sixteen scores
//! come out of one pass without a horizontal sum, then the values as
//! `[16, head_dim]`. Pages are shared by reference count: only the last one of
//! a cache is ever written to, and it is copied first when somebody else holds
//! it. A page counts against the [`PagePool`] it came from until its last
//! holder drops it.

use std::sync::Arc;

use half::f16;

use crate::kernel::page::Cell;
pub(crate) use crate::kernel::page::PAGE;

mod pool;

pub(crate) use pool::PagePool;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KvType {
    F16,
    F32,
}

impl KvType {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::F16 => "kv-f16",
            Self::F32 => "kv-f32",
        }
    }
}

/// What a model's caches look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvLayout {
    pub(crate) layers: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) kind: KvType,
}

impl KvLayout {
    /// Numbers of one head's keys, or values, in a page.
    fn half(self) -> usize {
        self.head_dim * PAGE
    }

    fn page_len(self) -> usize {
        2 * self.half() * self.layers * self.kv_heads
    }

    /// Bytes of a page.
    pub(crate) fn page_bytes(self) -> usize {
        self.page_len()
            * match self.kind {
                KvType::F16 => size_of::<u16>(),
                KvType::F32 => size_of::<f32>(),
            }
    }

    /// Pages that so many positions take.
    pub(crate) fn pages(positions: usize) -> usize {
        positions.div_ceil(PAGE)
    }

    fn at(self, layer: usize, head: usize) -> usize {
        2 * self.half() * (layer * self.kv_heads + head)
    }
}

/// A number of a page.
pub(crate) trait Element: Cell {
    fn narrow(value: f32) -> Self;
    fn of(page: &Page) -> &[Self];
    fn of_mut(page: &mut Page) -> &mut [Self];
}

/// f16 as its bits.
impl Element for u16 {
    fn narrow(value: f32) -> Self {
        f16::from_f32(value).to_bits()
    }

    fn of(page: &Page) -> &[Self] {
        match &page.cells {
            Cells::F16(values) => values,
            Cells::F32(_) => &[],
        }
    }

    fn of_mut(page: &mut Page) -> &mut [Self] {
        match &mut page.cells {
            Cells::F16(values) => values,
            Cells::F32(_) => &mut [],
        }
    }
}

impl Element for f32 {
    fn narrow(value: f32) -> Self {
        value
    }

    fn of(page: &Page) -> &[Self] {
        match &page.cells {
            Cells::F32(values) => values,
            Cells::F16(_) => &[],
        }
    }

    fn of_mut(page: &mut Page) -> &mut [Self] {
        match &mut page.cells {
            Cells::F32(values) => values,
            Cells::F16(_) => &mut [],
        }
    }
}

/// Sixteen positions of every layer.
pub(crate) struct Page {
    cells: Cells,
    pool: Arc<PagePool>,
}

#[derive(Clone)]
enum Cells {
    F16(Vec<u16>),
    F32(Vec<f32>),
}

impl Page {
    fn copied(&self) -> Self {
        self.pool.hold(self.bytes());
        Self {
            cells: self.cells.clone(),
            pool: Arc::clone(&self.pool),
        }
    }

    fn bytes(&self) -> usize {
        match &self.cells {
            Cells::F16(values) => size_of_val(&**values),
            Cells::F32(values) => size_of_val(&**values),
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let bytes = self.bytes();
        self.pool.release(bytes, &mut self.cells);
    }
}

/// One stream's cache.
pub(crate) struct KvCache {
    layout: KvLayout,
    pages: Vec<Arc<Page>>,
    len: usize,
    pool: Arc<PagePool>,
}

impl KvCache {
    /// An empty cache by itself.
    pub(crate) fn new(layout: KvLayout) -> Self {
        Self::within(layout, PagePool::unlimited())
    }

    /// An empty cache whose pages come from `pool`.
    pub(crate) fn within(layout: KvLayout, pool: Arc<PagePool>) -> Self {
        Self {
            layout,
            pages: Vec::new(),
            len: 0,
            pool,
        }
    }

    /// Starts with pages that another stream filled with the same tokens.
    ///
    /// # Panics
    ///
    /// When the cache is not empty: a bug of the caller.
    pub(crate) fn adopt(&mut self, pages: Vec<Arc<Page>>) {
        assert!(self.pages.is_empty(), "only an empty cache adopts pages");
        self.len = pages.len() * PAGE;
        self.pages = pages;
    }

    /// A page, full or not.
    pub(crate) fn page(&self, index: usize) -> &Arc<Page> {
        &self.pages[index]
    }

    /// Holds an equal page instead of its own, which then can go.
    pub(crate) fn share(&mut self, index: usize, page: Arc<Page>) {
        self.pages[index] = page;
    }

    /// Forgets everything it read.
    pub(crate) fn clear(&mut self) {
        self.pages.clear();
        self.len = 0;
    }

    /// Bytes of the new pages that reading so many tokens takes.
    pub(crate) fn growth(&self, tokens: usize) -> usize {
        let pages = KvLayout::pages(self.len + tokens).saturating_sub(self.pages.len());
        pages * self.layout.page_bytes()
    }

    /// Positions read so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn layout(&self) -> KvLayout {
        self.layout
    }

    /// Makes room for `tokens` more and returns the position of the first.
    pub(crate) fn reserve(&mut self, tokens: usize) -> usize {
        let pages = (self.len + tokens).div_ceil(PAGE);
        if tokens > 0 && !self.len.is_multiple_of(PAGE) {
            // The last page is written to: it must be ours alone.
            let last = &mut self.pages[self.len / PAGE];
            if Arc::get_mut(last).is_none() {
                *last = Arc::new(last.copied());
            }
        }
        while self.pages.len() < pages {
            self.pages.push(Arc::new(self.pool.page(self.layout)));
        }
        self.len
    }

    /// Counts positions that every layer has written.
    pub(crate) fn commit(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Writes one position's keys and values of a layer, `[kv_heads, head_dim]`
    /// each, into room that [`KvCache::reserve`] made.
    pub(crate) fn write<E: Element>(
        &mut self,
        layer: usize,
        position: usize,
        k: &[f32],
        v: &[f32],
    ) {
        let layout = self.layout;
        let page = Arc::get_mut(&mut self.pages[position / PAGE]);
        let page = page.expect("reserve makes the pages that are written ours");
        let cells = E::of_mut(page);
        let (width, slot) = (layout.head_dim, position % PAGE);
        let heads = k.chunks_exact(width).zip(v.chunks_exact(width));
        for (head, (k, v)) in heads.enumerate() {
            let at = layout.at(layer, head);
            let (keys, values) = cells[at..at + 2 * layout.half()].split_at_mut(layout.half());
            for (column, k) in keys.chunks_exact_mut(PAGE).zip(k) {
                column[slot] = E::narrow(*k);
            }
            for (cell, v) in values[slot * width..][..width].iter_mut().zip(v) {
                *cell = E::narrow(*v);
            }
        }
    }

    /// A page's keys of one layer and head, `[head_dim, 16]`.
    #[inline(always)]
    pub(crate) fn keys<E: Element>(&self, page: usize, layer: usize, head: usize) -> &[E] {
        let cells = E::of(&self.pages[page]);
        &cells[self.layout.at(layer, head)..][..self.layout.half()]
    }

    /// A page's values of one layer and head, `[16, head_dim]`.
    #[inline(always)]
    pub(crate) fn values<E: Element>(&self, page: usize, layer: usize, head: usize) -> &[E] {
        let cells = E::of(&self.pages[page]);
        let at = self.layout.at(layer, head) + self.layout.half();
        &cells[at..][..self.layout.half()]
    }
}
