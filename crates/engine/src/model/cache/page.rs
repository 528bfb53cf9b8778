//! Sixteen positions of every layer, and the kinds of numbers they are.

use std::sync::Arc;

use half::f16;

use super::{KvLayout, KvType, PagePool};
use crate::kernel::{page::Cell, quantize_row};

/// A number of a page.
pub(crate) trait Element: Cell + Default {
    /// Writes one head's row as numbers of this kind, and returns what they
    /// are multiplied with to be the row again; none if they are the row.
    fn narrow(row: &[f32], out: &mut [Self]) -> Option<f32>;

    fn of(page: &Page) -> &[Self];

    /// The numbers and their scales.
    fn of_mut(page: &mut Page) -> (&mut [Self], &mut [f32]);
}

/// f16 as its bits.
impl Element for u16 {
    fn narrow(row: &[f32], out: &mut [Self]) -> Option<f32> {
        for (out, value) in out.iter_mut().zip(row) {
            *out = f16::from_f32(*value).to_bits();
        }
        None
    }

    fn of(page: &Page) -> &[Self] {
        match &page.cells {
            Cells::F16(values) => values,
            Cells::F32(_) | Cells::Q8(..) => &[],
        }
    }

    fn of_mut(page: &mut Page) -> (&mut [Self], &mut [f32]) {
        match &mut page.cells {
            Cells::F16(values) => (values, &mut []),
            Cells::F32(_) | Cells::Q8(..) => (&mut [], &mut []),
        }
    }
}

impl Element for f32 {
    fn narrow(row: &[f32], out: &mut [Self]) -> Option<f32> {
        out.copy_from_slice(row);
        None
    }

    fn of(page: &Page) -> &[Self] {
        match &page.cells {
            Cells::F32(values) => values,
            Cells::F16(_) | Cells::Q8(..) => &[],
        }
    }

    fn of_mut(page: &mut Page) -> (&mut [Self], &mut [f32]) {
        match &mut page.cells {
            Cells::F32(values) => (values, &mut []),
            Cells::F16(_) | Cells::Q8(..) => (&mut [], &mut []),
        }
    }
}

impl Element for i8 {
    fn narrow(row: &[f32], out: &mut [Self]) -> Option<f32> {
        Some(quantize_row(row, out))
    }

    fn of(page: &Page) -> &[Self] {
        match &page.cells {
            Cells::Q8(values, _) => values,
            Cells::F16(_) | Cells::F32(_) => &[],
        }
    }

    fn of_mut(page: &mut Page) -> (&mut [Self], &mut [f32]) {
        match &mut page.cells {
            Cells::Q8(values, scales) => (values, scales),
            Cells::F16(_) | Cells::F32(_) => (&mut [], &mut []),
        }
    }
}

/// Sixteen positions of every layer.
pub(crate) struct Page {
    pub(super) cells: Cells,
    pub(super) pool: Arc<PagePool>,
}

/// A page's numbers, and their scales where they have some.
#[derive(Clone)]
pub(super) enum Cells {
    F16(Vec<u16>),
    F32(Vec<f32>),
    Q8(Vec<i8>, Vec<f32>),
}

impl Cells {
    /// Zeros.
    pub(super) fn new(layout: KvLayout) -> Self {
        let len = layout.page_len();
        match layout.kind {
            KvType::F16 => Self::F16(vec![0; len]),
            KvType::F32 => Self::F32(vec![0.0; len]),
            KvType::Q8 => Self::Q8(vec![0; len], vec![0.0; layout.scales_len()]),
        }
    }

    /// Whether they are what a page of this layout has.
    pub(super) fn fit(&self, layout: KvLayout) -> bool {
        let len = layout.page_len();
        match (self, layout.kind) {
            (Self::F16(values), KvType::F16) => values.len() == len,
            (Self::F32(values), KvType::F32) => values.len() == len,
            (Self::Q8(values, scales), KvType::Q8) => {
                values.len() == len && scales.len() == layout.scales_len()
            }
            _ => false,
        }
    }

    pub(super) fn clear(&mut self) {
        match self {
            Self::F16(values) => values.fill(0),
            Self::F32(values) => values.fill(0.0),
            Self::Q8(values, scales) => {
                values.fill(0);
                scales.fill(0.0);
            }
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::F16(values) => size_of_val(&**values),
            Self::F32(values) => size_of_val(&**values),
            Self::Q8(values, scales) => size_of_val(&**values) + size_of_val(&**scales),
        }
    }
}

impl Page {
    pub(super) fn copied(&self) -> Self {
        self.pool.hold(self.cells.bytes());
        Self {
            cells: self.cells.clone(),
            pool: Arc::clone(&self.pool),
        }
    }

    pub(super) fn scales(&self) -> Option<&[f32]> {
        match &self.cells {
            Cells::Q8(_, scales) => Some(scales),
            Cells::F16(_) | Cells::F32(_) => None,
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let bytes = self.cells.bytes();
        self.pool.release(bytes, &mut self.cells);
    }
}
