//! How a weight matrix lies in memory: shapes, encodings, and who owns the bytes.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use memmap2::Mmap;

/// Output rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Inputs of a tile, and of a scale.
pub(crate) const BLOCK: usize = 32;

/// How the numbers of a matrix are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Encoding {
    /// A byte a weight, 128 added, and an f16 scale for each 32.
    Q8,
    /// Half a byte a weight, 8 added, and an f16 scale for each 32.
    Q4,
    /// f16, multiplied with f32 activations.
    F16,
    /// f32, multiplied with f32 activations. Packed in memory only: no artifact
    /// holds such tiles.
    F32,
}

impl Encoding {
    /// Bytes of a tile of 16 rows by 32 inputs.
    pub(crate) const fn tile_bytes(self) -> usize {
        match self {
            Self::Q8 => ROWS * BLOCK,
            Self::Q4 => ROWS * BLOCK / 2,
            Self::F16 => ROWS * BLOCK * 2,
            Self::F32 => ROWS * BLOCK * 4,
        }
    }

    /// Bytes of a tile's scales: sixteen f16, or none where weights are floats.
    pub(crate) const fn scale_bytes(self) -> usize {
        match self {
            Self::Q8 | Self::Q4 => ROWS * 2,
            Self::F16 | Self::F32 => 0,
        }
    }

    /// What is added to a weight so that it is stored unsigned.
    pub(super) const fn offset(self) -> i32 {
        match self {
            Self::Q8 => 128,
            Self::Q4 => 8,
            Self::F16 | Self::F32 => 0,
        }
    }
}

/// Outputs and inputs of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) n: usize,
    pub(crate) k: usize,
}

impl Shape {
    /// Tile rows; the last one is filled up with rows of zeros.
    pub(crate) const fn tiles(self) -> usize {
        self.n.div_ceil(ROWS)
    }

    /// Blocks of inputs; the last one is filled up with zeros.
    pub(crate) const fn blocks(self) -> usize {
        self.k.div_ceil(BLOCK)
    }

    /// Bytes of the tiles in this encoding.
    pub(crate) const fn bytes(self, encoding: Encoding) -> usize {
        self.tiles() * self.blocks() * encoding.tile_bytes()
    }

    /// Bytes of the scales in this encoding.
    pub(crate) const fn scale_bytes(self, encoding: Encoding) -> usize {
        self.tiles() * self.blocks() * encoding.scale_bytes()
    }
}

/// A packed matrix. Cloning shares the bytes.
#[derive(Clone)]
pub(crate) struct PackedMatrix {
    pub(super) encoding: Encoding,
    pub(super) shape: Shape,
    pub(super) tiles: Storage,
    pub(super) scales: Storage,
}

impl PackedMatrix {
    /// # Panics
    ///
    /// When the storage is not of the size the shape says: whoever reads a
    /// file compares sizes first and names the tensor.
    pub(crate) fn new(encoding: Encoding, shape: Shape, tiles: Storage, scales: Storage) -> Self {
        assert_eq!(tiles.len(), shape.bytes(encoding), "tiles of {shape:?}");
        assert_eq!(
            scales.len(),
            shape.scale_bytes(encoding),
            "scales of {shape:?}"
        );
        Self {
            encoding,
            shape,
            tiles,
            scales,
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    pub(super) fn tile_row(&self, tile: usize) -> TileRow<'_> {
        let blocks = self.shape.blocks();
        let bytes = blocks * self.encoding.tile_bytes();
        let scale_bytes = blocks * self.encoding.scale_bytes();
        TileRow {
            bytes: &self.tiles[tile * bytes..][..bytes],
            scales: &self.scales[tile * scale_bytes..][..scale_bytes],
        }
    }
}

impl fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}[{}, {}]", self.encoding, self.shape.n, self.shape.k)
    }
}

/// One tile row of a matrix: sixteen outputs, all inputs.
#[derive(Clone, Copy)]
pub(super) struct TileRow<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) scales: &'a [u8],
}

/// One cache line, so that a tile that is ours starts where a line does.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes on the heap, or a part of a mapped file.
#[derive(Clone)]
pub(crate) enum Storage {
    Heap(Arc<HeapBytes>),
    Mapped(Arc<Mmap>, Range<usize>),
}

/// Heap bytes that start at a cache line.
pub(crate) struct HeapBytes {
    lines: Vec<Line>,
    len: usize,
}

impl Storage {
    /// Zeros on the heap, to be filled through [`Storage::heap_mut`].
    pub(crate) fn zeroed(len: usize) -> Self {
        Self::Heap(Arc::new(HeapBytes {
            lines: vec![Line([0; 64]); len.div_ceil(64)],
            len,
        }))
    }

    /// The bytes to write to, while nobody shares them.
    pub(crate) fn heap_mut(&mut self) -> Option<&mut [u8]> {
        let Self::Heap(bytes) = self else { return None };
        let bytes = Arc::get_mut(bytes)?;
        Some(&mut bytemuck::cast_slice_mut(&mut bytes.lines)[..bytes.len])
    }

    /// A part of a mapped file; the range must lie inside it.
    pub(crate) fn mapped(map: &Arc<Mmap>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= map.len());
        Self::Mapped(Arc::clone(map), range)
    }
}

impl std::ops::Deref for Storage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => &bytemuck::cast_slice(&bytes.lines)[..bytes.len],
            Self::Mapped(map, range) => &map[range.clone()],
        }
    }
}
