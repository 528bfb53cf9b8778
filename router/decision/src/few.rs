//! A few values in place, so that a decision allocates nothing.

/// At most `N` values, kept without an allocation.
#[derive(Clone, Copy)]
pub struct Few<T, const N: usize> {
    items: [Option<T>; N],
    len: usize,
}

impl<T: Copy, const N: usize> Few<T, N> {
    pub(crate) const fn new() -> Self {
        Self {
            items: [None; N],
            len: 0,
        }
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

    /// The value at a place.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<&T> {
        self.items.get(at)?.as_ref()
    }

    /// The first.
    #[must_use]
    pub fn first(&self) -> Option<&T> {
        self.get(0)
    }

    /// The last.
    #[must_use]
    pub fn last(&self) -> Option<&T> {
        self.get(self.len.wrapping_sub(1))
    }

    /// The values in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        self.items[..self.len]
            .iter()
            .map(|item| item.as_ref().expect("every place below `len` is taken"))
    }

    /// Puts a value in; the last one falls out when there is no room, the new
    /// one itself when its place is beyond.
    pub(crate) fn insert(&mut self, at: usize, value: T) {
        if at >= N || at > self.len {
            return;
        }
        self.len = (self.len + 1).min(N);
        self.items[at..self.len].rotate_right(1);
        self.items[at] = Some(value);
    }

    pub(crate) fn push(&mut self, value: T) {
        self.insert(self.len, value);
    }

    pub(crate) fn remove(&mut self, at: usize) {
        if at < self.len {
            self.items[at..self.len].rotate_left(1);
            self.len -= 1;
            self.items[self.len] = None;
        }
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        for item in self.items.iter_mut().take(self.len).skip(len) {
            *item = None;
        }
        self.len = self.len.min(len);
    }

    pub(crate) fn swap(&mut self, a: usize, b: usize) {
        self.items[..self.len].swap(a, b);
    }
}

impl<T, const N: usize> std::ops::Index<usize> for Few<T, N> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        self.items[at].as_ref().expect("the place is taken")
    }
}

impl<T: Copy + PartialEq, const N: usize> PartialEq for Few<T, N> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<T: Copy + std::fmt::Debug, const N: usize> std::fmt::Debug for Few<T, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, T: Copy, const N: usize> IntoIterator for &'a Few<T, N> {
    type Item = &'a T;
    type IntoIter = std::iter::Flatten<std::slice::Iter<'a, Option<T>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.items[..self.len].iter().flatten()
    }
}
