//! Keys and values of the positions read so far, in pages of sixteen.
//!
//! A page holds sixteen positions of every layer. For each layer and each
//! key-value head it has the keys as `[head_dim, 16]`, so that sixteen scores
//! come out of one pass without a horizontal sum, then the values as
//! `[16, head_dim]`. Pages are shared by reference count: only the last one of
//! a cache is ever written to, and it is copied first when somebody else holds
//! it. Numbers of eight bits have a scale for each position of a head, beside
//! its page's numbers. A page counts against the [`PagePool`] it came from until its last
//! holder drops it.

use std::sync::Arc;

pub(crate) use crate::kernel::page::PAGE;

mod page;
mod pool;

use page::Cells;
pub(crate) use page::{Element, Page};
pub(crate) use pool::PagePool;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KvType {
    F16,
    F32,
    /// Eight bits and, for each position and head, a scale.
    Q8,
}

impl KvType {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::F16 => "kv-f16",
            Self::F32 => "kv-f32",
            Self::Q8 => "kv-q8",
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

    /// Scales of a page: for each layer and head those of its keys, then those
    /// of its values.
    fn scales_len(self) -> usize {
        match self.kind {
            KvType::F16 | KvType::F32 => 0,
            KvType::Q8 => 2 * PAGE * self.layers * self.kv_heads,
        }
    }

    /// Bytes of a page.
    pub(crate) fn page_bytes(self) -> usize {
        let cell = match self.kind {
            KvType::F16 => size_of::<u16>(),
            KvType::F32 => size_of::<f32>(),
            KvType::Q8 => size_of::<i8>(),
        };
        self.page_len() * cell + self.scales_len() * size_of::<f32>()
    }

    /// Pages that so many positions take.
    pub(crate) fn pages(positions: usize) -> usize {
        positions.div_ceil(PAGE)
    }

    fn at(self, layer: usize, head: usize) -> usize {
        2 * self.half() * (layer * self.kv_heads + head)
    }

    fn scales_at(self, layer: usize, head: usize) -> usize {
        2 * PAGE * (layer * self.kv_heads + head)
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
        let (cells, scales) = E::of_mut(page);
        let (width, slot) = (layout.head_dim, position % PAGE);
        let mut narrow = vec![E::default(); width];
        let heads = k.chunks_exact(width).zip(v.chunks_exact(width));
        for (head, (k, v)) in heads.enumerate() {
            let at = layout.at(layer, head);
            let (keys, values) = cells[at..at + 2 * layout.half()].split_at_mut(layout.half());
            let key_scale = E::narrow(k, &mut narrow);
            for (column, k) in keys.chunks_exact_mut(PAGE).zip(&narrow) {
                column[slot] = *k;
            }
            let value_scale = E::narrow(v, &mut values[slot * width..][..width]);
            if let (Some(key), Some(value)) = (key_scale, value_scale) {
                let at = layout.scales_at(layer, head) + slot;
                (scales[at], scales[at + PAGE]) = (key, value);
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

    /// What a page's keys of one layer and head are multiplied with, position
    /// by position, and what its values are; none where they are as they were.
    #[inline(always)]
    pub(crate) fn scales(
        &self,
        page: usize,
        layer: usize,
        head: usize,
    ) -> Option<(&[f32; PAGE], &[f32; PAGE])> {
        let scales = self.pages[page].scales()?;
        let at = self.layout.scales_at(layer, head);
        let (keys, values) = scales[at..][..2 * PAGE].split_at(PAGE);
        Some((keys.try_into().ok()?, values.try_into().ok()?))
    }
}
