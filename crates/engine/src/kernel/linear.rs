//! `x · wᵀ` over matrices that share their input, on the pool's threads.

use std::ops::Range;

use rayon::prelude::*;

use super::activation::Activations;
use super::layout::{Encoding, PackedMatrix, ROWS, TileRow};
use super::path::{KernelPath, Kind};
use super::{portable, scalar};

/// Below this many multiplications a call is not worth waking other threads.
const PARALLEL_FROM: usize = 1 << 17;
/// From this many tokens on threads share tokens, each over all tiles, and
/// write rows of their own; below, they share tiles, so that the weights are
/// read from memory once.
const BY_TOKENS_FROM: usize = 48;
/// Pieces a thread's share is cut into, so that a late one is helped out.
const PIECES: usize = 4;
/// The most tokens that share one pass over tiles.
pub(super) const GROUP: usize = 6;

/// What the tiles are multiplied with.
pub(super) enum Input<'a> {
    Quantized(Activations),
    Floats { x: &'a [f32], k: usize },
}

impl Input<'_> {
    fn new(x: &[f32], k: usize, encoding: Encoding) -> Input<'_> {
        match encoding {
            Encoding::F16 | Encoding::F32 => Input::Floats { x, k },
            Encoding::Q8 | Encoding::Q4 => Input::Quantized(Activations::quantize(x, k, encoding)),
        }
    }

    fn tokens(&self) -> usize {
        match self {
            Self::Quantized(x) => x.tokens(),
            Self::Floats { x, k } => x.len() / k,
        }
    }
}

/// `out[t, Σn] = x[t, k] · [w₀; w₁; …]ᵀ` for packed matrices with the same
/// inputs and the same encoding, their outputs side by side.
///
/// # Panics
///
/// When `x` is not whole rows of `k`, or the matrices differ in inputs or
/// encoding: a bug of the caller, since shapes are fixed at load.
pub(crate) fn linear(x: &[f32], parts: &[PackedMatrix], path: KernelPath) -> Vec<f32> {
    let call = Call::new(x, parts, path);
    let (tokens, n, k) = (call.input.tokens(), call.outputs(), parts[0].shape.k);
    let mut out = vec![0.0; tokens * n];
    let threads = match rayon::current_thread_index() {
        Some(_) => rayon::current_num_threads(),
        None => 1,
    };
    if threads == 1 || tokens * n * k < PARALLEL_FROM {
        call.rows(0..tokens, &mut out);
    } else if tokens == 1 {
        call.one_row(threads, &mut out);
    } else if tokens < BY_TOKENS_FROM {
        call.few_rows(threads, &mut out);
    } else {
        let each = tokens.div_ceil(threads).next_multiple_of(GROUP);
        out.par_chunks_mut(each * n)
            .enumerate()
            .for_each(|(index, out)| {
                let first = index * each;
                call.rows(first..first + out.len() / n, out);
            });
    }
    out
}

/// [`linear`] on the calling thread alone: for a caller that shares rows out
/// itself.
///
/// # Panics
///
/// As [`linear`] does.
pub(crate) fn linear_here(x: &[f32], parts: &[PackedMatrix], path: KernelPath) -> Vec<f32> {
    let call = Call::new(x, parts, path);
    let tokens = call.input.tokens();
    let mut out = vec![0.0; tokens * call.outputs()];
    call.rows(0..tokens, &mut out);
    out
}

struct Call<'a> {
    input: Input<'a>,
    parts: &'a [PackedMatrix],
    path: KernelPath,
}

/// Some tile rows of one part.
#[derive(Clone)]
struct Piece {
    part: usize,
    tiles: Range<usize>,
}

impl<'a> Call<'a> {
    fn new(x: &'a [f32], parts: &'a [PackedMatrix], path: KernelPath) -> Self {
        let (encoding, k) = (parts[0].encoding, parts[0].shape.k);
        let same = |w: &PackedMatrix| w.encoding == encoding && w.shape.k == k;
        assert!(parts.iter().all(same), "parts of one layer must agree");
        assert_eq!(x.len() % k, 0, "activations must be whole rows of {k}");
        let input = Input::new(x, k, encoding);
        Self { input, parts, path }
    }

    fn outputs(&self) -> usize {
        self.parts.iter().map(|w| w.shape.n).sum()
    }

    /// Where a part's outputs begin.
    fn column(&self, part: usize) -> usize {
        self.parts[..part].iter().map(|w| w.shape.n).sum()
    }

    /// The outputs of a piece, rows that only fill its last tile left out.
    fn columns(&self, piece: &Piece) -> Range<usize> {
        let first = self.column(piece.part);
        let n = self.parts[piece.part].shape.n;
        first + piece.tiles.start * ROWS..first + (piece.tiles.end * ROWS).min(n)
    }

    fn pieces(&self, threads: usize) -> Vec<Piece> {
        let tiles: usize = self.parts.iter().map(|w| w.shape.tiles()).sum();
        let each = tiles.div_ceil(threads * PIECES).max(1);
        let mut pieces = Vec::with_capacity(threads * PIECES + self.parts.len());
        for (part, w) in self.parts.iter().enumerate() {
            let all = w.shape.tiles();
            let starts = (0..all).step_by(each);
            pieces.extend(starts.map(|first| Piece {
                part,
                tiles: first..(first + each).min(all),
            }));
        }
        pieces
    }

    /// All outputs of some tokens, into whole rows.
    fn rows(&self, tokens: Range<usize>, out: &mut [f32]) {
        let width = self.outputs();
        for part in 0..self.parts.len() {
            let tiles = 0..self.parts[part].shape.tiles();
            let column = self.column(part);
            self.tiles(&Piece { part, tiles }, tokens.clone(), width, column, out);
        }
    }

    /// One token: pieces are neighbours in its row.
    fn one_row(&self, threads: usize, out: &mut [f32]) {
        let mut rest = out;
        let mut work = Vec::new();
        for piece in self.pieces(threads) {
            let (mine, others) = rest.split_at_mut(self.columns(&piece).len());
            rest = others;
            work.push((piece, mine));
        }
        work.into_par_iter()
            .with_max_len(1)
            .for_each(|(piece, out)| {
                let width = out.len();
                self.tiles(&piece, 0..1, width, 0, out);
            });
    }

    /// A few tokens: each piece into a narrow matrix of its own, which is then
    /// copied to its place. The copies are small beside the products.
    fn few_rows(&self, threads: usize, out: &mut [f32]) {
        let (tokens, n) = (self.input.tokens(), self.outputs());
        let done: Vec<(Range<usize>, Vec<f32>)> = self
            .pieces(threads)
            .into_par_iter()
            .with_max_len(1)
            .map(|piece| {
                let columns = self.columns(&piece);
                let mut narrow = vec![0.0; tokens * columns.len()];
                self.tiles(&piece, 0..tokens, columns.len(), 0, &mut narrow);
                (columns, narrow)
            })
            .collect();
        for (columns, narrow) in done {
            for (row, values) in narrow.chunks_exact(columns.len()).enumerate() {
                out[row * n..][columns.clone()].copy_from_slice(values);
            }
        }
    }

    /// Computes a piece for some tokens into `out`, rows of `width`, from
    /// `column` on. Tiles stay in cache while all tokens pass over them.
    fn tiles(
        &self,
        piece: &Piece,
        tokens: Range<usize>,
        width: usize,
        column: usize,
        out: &mut [f32],
    ) {
        let w = &self.parts[piece.part];
        let mut tile = piece.tiles.start;
        while tile < piece.tiles.end {
            let at = column + (tile - piece.tiles.start) * ROWS;
            // One token is bound by memory, which is read best in one stream.
            if self.path.pairs() && tokens.len() > 1 && tile + 1 < piece.tiles.end {
                let rows = tile..piece.tiles.end;
                self.tile_rows::<2>(w, rows, tokens.clone(), (width, at), out);
                tile += 2;
            } else {
                let rows = tile..piece.tiles.end;
                self.tile_rows::<1>(w, rows, tokens.clone(), (width, at), out);
                tile += 1;
            }
        }
    }

    /// The first `W` of these tile rows: their outputs begin `at` a row of
    /// `width`.
    fn tile_rows<const W: usize>(
        &self,
        w: &PackedMatrix,
        tiles: Range<usize>,
        tokens: Range<usize>,
        (width, at): (usize, usize),
        out: &mut [f32],
    ) {
        let tile = tiles.start;
        let now: [TileRow<'_>; W] = std::array::from_fn(|i| w.tile_row(tile + i));
        // The last pass fetches what comes next.
        let next = std::array::from_fn(|i| w.tile_row((tile + W + i).min(tiles.end - 1)));
        let lanes = |i: usize| ROWS.min(w.shape.n - (tile + i) * ROWS);
        let mut store = |token: usize, results: &[&[[f32; ROWS]]]| {
            for (i, results) in results.iter().enumerate() {
                for (offset, result) in results.iter().enumerate() {
                    let row = (token - tokens.start + offset) * width + at + i * ROWS;
                    match lanes(i) {
                        ROWS => out[row..row + ROWS].copy_from_slice(result),
                        few => out[row..row + few].copy_from_slice(&result[..few]),
                    }
                }
            }
        };
        let mut token = tokens.start;
        // As few passes as can be, each for about as many tokens.
        for passes in (1..=tokens.len().div_ceil(self.path.group())).rev() {
            let count = (tokens.end - token).div_ceil(passes);
            let tile_rows = (now, if passes == 1 { next } else { now });
            macro_rules! pass {
                ($($tokens:literal)*) => {
                    match count {
                        $($tokens => {
                            let results = self.products::<$tokens, W>(token, tile_rows, w.encoding);
                            store(token, &results.each_ref().map(|r| &r[..]));
                        })*
                        _ => unreachable!("a pass has at most {GROUP} tokens"),
                    }
                };
            }
            pass!(1 2 3 4 5 6);
            token += count;
        }
    }

    /// The sixteen outputs of each tile row for `T` tokens from `first`.
    #[inline(always)]
    fn products<const T: usize, const W: usize>(
        &self,
        first: usize,
        (w, ahead): ([TileRow<'_>; W], [TileRow<'_>; W]),
        encoding: Encoding,
    ) -> [[[f32; ROWS]; T]; W] {
        // Only the widest path asks memory itself.
        #[cfg(not(target_arch = "x86_64"))]
        let _ = ahead;
        let (x, k) = match &self.input {
            Input::Quantized(x) => {
                return match self.path.kind() {
                    Kind::Scalar => w.map(|w| scalar::quantized(x, first, w, encoding)),
                    Kind::Portable => w.map(|w| portable::quantized(x, first, w, encoding)),
                    #[cfg(target_arch = "x86_64")]
                    Kind::Avx2 | Kind::Avx512 | Kind::Avx512Fused => {
                        super::x86::quantized(x, first, (w, ahead), encoding, self.path)
                    }
                };
            }
            Input::Floats { x, k } => (x, k),
        };
        let rows: [&[f32]; T] = std::array::from_fn(|t| &x[(first + t) * k..][..*k]);
        match (self.path.kind(), encoding) {
            (Kind::Scalar, _) => w.map(|w| scalar::floats(rows, w, encoding)),
            (Kind::Portable, Encoding::F32) => w.map(|w| portable::singles(rows, w)),
            (Kind::Portable, _) => w.map(|w| portable::halves(rows, w)),
            #[cfg(target_arch = "x86_64")]
            (_, Encoding::F32) => super::x86::floats::<f32, T, W>(rows, (w, ahead), self.path),
            #[cfg(target_arch = "x86_64")]
            (_, _) => super::x86::floats::<u16, T, W>(rows, (w, ahead), self.path),
        }
    }
}
