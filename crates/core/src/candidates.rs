//! The candidates of a snapshot: a list that is copied by counting one
//! reference and changed in one place without copying the rest.

use crate::capacity::CandidateState;
use crate::id::UserId;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

/// Candidates that are copied together when one of them changes while
/// somebody else still reads them.
pub const CHUNK: usize = 64;

/// Candidates by place. A copy shares everything until one of the two
/// changes, and a change copies one chunk of [`CHUNK`] and a list of pointers.
#[derive(Debug, Clone, Default)]
pub struct Candidates {
    chunks: Arc<Vec<Arc<Chunk>>>,
    len: usize,
}

/// Some candidates side by side, and what can be said of all of them.
#[derive(Debug, Clone, Default)]
pub struct Chunk {
    items: Vec<CandidateState>,
    /// Whether anybody's request may be for one of them.
    shared: bool,
    /// One bit for each owner's hash, where they are not shared.
    owners: [u64; 4],
}

impl Chunk {
    /// The candidates, in order.
    #[must_use]
    pub fn items(&self) -> &[CandidateState] {
        &self.items
    }

    /// False when every candidate surely belongs to somebody else, and when
    /// there is none.
    #[must_use]
    pub fn may_serve(&self, user: &UserId) -> bool {
        let (word, bit) = owner_bit(user);
        !self.items.is_empty() && (self.shared || self.owners[word] & bit != 0)
    }

    fn note(&mut self, candidate: &CandidateState) {
        match &candidate.owner {
            Some(owner) => {
                let (word, bit) = owner_bit(owner);
                self.owners[word] |= bit;
            }
            None => self.shared = true,
        }
    }

    /// Notes anew, for whoever left is not to be remembered: the same
    /// candidates say the same, however they came together.
    fn note_all(&mut self) {
        (self.shared, self.owners) = (false, [0; 4]);
        let items = std::mem::take(&mut self.items);
        for candidate in &items {
            self.note(candidate);
        }
        self.items = items;
    }

    fn push(&mut self, candidate: CandidateState) {
        self.note(&candidate);
        if self.items.capacity() == 0 {
            self.items.reserve_exact(CHUNK);
        }
        self.items.push(candidate);
    }
}

fn owner_bit(user: &UserId) -> (usize, u64) {
    let hash = user
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let hash = hash ^ (hash >> 29);
    ((hash & 3) as usize, 1 << ((hash >> 2) & 63))
}

impl Candidates {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every candidate, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = &CandidateState> {
        self.chunks.iter().flat_map(|chunk| chunk.items.iter())
    }

    /// Chunks with the place of the first candidate in each.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = (usize, &Chunk)> {
        let numbered = self.chunks.iter().enumerate();
        numbered.map(|(at, chunk)| (at * CHUNK, &**chunk))
    }

    /// The candidate at a place, if there is one.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&CandidateState> {
        self.chunks.get(index / CHUNK)?.items.get(index % CHUNK)
    }

    /// Adds one at the end.
    pub fn push(&mut self, candidate: CandidateState) {
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks.last().is_none_or(|last| last.items.len() >= CHUNK) {
            chunks.push(Arc::default());
        }
        if let Some(last) = chunks.last_mut() {
            Arc::make_mut(last).push(candidate);
            self.len += 1;
        }
    }

    /// Candidates at the places they had before. A place whose chunk has a gap
    /// before it is closed up.
    #[must_use]
    pub fn at_places(placed: impl IntoIterator<Item = (usize, CandidateState)>) -> Self {
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut len = 0;
        for (place, candidate) in placed {
            let chunk = place / CHUNK;
            if chunks.len() <= chunk {
                chunks.resize(chunk + 1, Chunk::default());
            }
            chunks[chunk].push(candidate);
            len += 1;
        }
        Self {
            chunks: Arc::new(chunks.into_iter().map(Arc::new).collect()),
            len,
        }
    }

    /// Adds one beside others of its tier and tells its place. Devices lie
    /// apart, so that a decision steps over other people's at once.
    pub fn insert(&mut self, candidate: CandidateState) -> usize {
        let chunks = Arc::make_mut(&mut self.chunks);
        let fits = |chunk: &Arc<Chunk>| match chunk.items.first() {
            Some(first) => chunk.items.len() < CHUNK && first.tier == candidate.tier,
            None => true,
        };
        // The last chunks are the ones with room, but for what left since.
        let at = match chunks.iter().rposition(fits) {
            Some(at) => at,
            None => {
                chunks.push(Arc::default());
                chunks.len() - 1
            }
        };
        let chunk = Arc::make_mut(&mut chunks[at]);
        chunk.push(candidate);
        self.len += 1;
        at * CHUNK + chunk.items.len() - 1
    }

    /// Changes the candidate at a place. `change` leaves its owner alone.
    pub fn update(&mut self, index: usize, change: impl FnOnce(&mut CandidateState)) {
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(index / CHUNK) else {
            return;
        };
        if let Some(candidate) = Arc::make_mut(chunk).items.get_mut(index % CHUNK) {
            change(candidate);
        }
    }

    /// Takes one out. The last of its chunk takes its place, and where that
    /// one was is told.
    pub fn swap_remove(&mut self, index: usize) -> Option<usize> {
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = chunks.get_mut(index / CHUNK)?;
        let at = index % CHUNK;
        if at >= chunk.items.len() {
            return None;
        }
        let chunk = Arc::make_mut(chunk);
        chunk.items.swap_remove(at);
        chunk.note_all();
        self.len -= 1;
        let moved = chunk.items.len();
        (at != moved).then_some(index - at + moved)
    }

    /// Takes one out and closes the gap, for few.
    pub fn remove(&mut self, index: usize) {
        let mut at = 0;
        self.retain(|_| {
            at += 1;
            at - 1 != index
        });
    }

    /// Keeps those that `keep` says, in order.
    pub fn retain(&mut self, mut keep: impl FnMut(&CandidateState) -> bool) {
        *self = self.iter().filter(|c| keep(c)).cloned().collect();
    }

    /// Keeps the first so many.
    pub fn truncate(&mut self, len: usize) {
        *self = self.iter().take(len).cloned().collect();
    }

    /// Leaves none.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Every candidate, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut CandidateState> {
        let chunks = Arc::make_mut(&mut self.chunks).iter_mut();
        chunks.flat_map(|chunk| {
            let chunk = Arc::make_mut(chunk);
            // Whoever changes them may change their owners.
            chunk.shared = true;
            chunk.items.iter_mut()
        })
    }
}

impl Index<usize> for Candidates {
    type Output = CandidateState;

    fn index(&self, index: usize) -> &CandidateState {
        &self.chunks[index / CHUNK].items[index % CHUNK]
    }
}

impl IndexMut<usize> for Candidates {
    fn index_mut(&mut self, index: usize) -> &mut CandidateState {
        let chunk = Arc::make_mut(&mut Arc::make_mut(&mut self.chunks)[index / CHUNK]);
        chunk.shared = true;
        &mut chunk.items[index % CHUNK]
    }
}

impl FromIterator<CandidateState> for Candidates {
    fn from_iter<I: IntoIterator<Item = CandidateState>>(items: I) -> Self {
        let mut all = Self::new();
        all.extend(items);
        all
    }
}

impl Extend<CandidateState> for Candidates {
    fn extend<I: IntoIterator<Item = CandidateState>>(&mut self, items: I) {
        for candidate in items {
            self.push(candidate);
        }
    }
}

impl From<Vec<CandidateState>> for Candidates {
    fn from(items: Vec<CandidateState>) -> Self {
        items.into_iter().collect()
    }
}

impl<'a> IntoIterator for &'a Candidates {
    type Item = &'a CandidateState;
    type IntoIter = Box<dyn Iterator<Item = &'a CandidateState> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

impl<'a> IntoIterator for &'a mut Candidates {
    type Item = &'a mut CandidateState;
    type IntoIter = Box<dyn Iterator<Item = &'a mut CandidateState> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter_mut())
    }
}
