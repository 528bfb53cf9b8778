//! Who is served next: a function of who waits and of what each user had.
//!
//! Classes first, the more urgent ahead; a stream that has waited long rises
//! a class at a time, so that none waits for ever. Inside a class users share
//! by weight: each user's first stream stands at what the user was served so
//! far, the second a slice later, and so on, and streams go in order of these
//! marks, a slice being one place. On one mark the earlier deadline goes first,
//! then who came first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tiermesh_core::UserId;

/// Priorities from here up share the most urgent class.
pub(crate) const CLASSES: usize = 4;
/// Waiting this long raises a stream by a class.
const RISES_EVERY: Duration = Duration::from_secs(5);
/// Tokens that one place in line is worth.
const SLICE: f64 = 64.0;
/// Users remembered while none of their streams is here.
const REMEMBERED: usize = 4096;

/// The class of a request's priority.
pub(crate) fn class(priority: u8) -> u8 {
    priority.min(CLASSES as u8 - 1)
}

/// What the order looks at.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) user: UserId,
    pub(crate) class: u8,
    /// The class it has risen to by waiting, if that is higher.
    pub(crate) risen: u8,
    pub(crate) deadline: Option<Instant>,
    /// Counts up.
    pub(crate) ticket: u64,
}

impl Standing {
    pub(crate) fn rise(&mut self, waited: Duration) {
        let classes = waited.as_secs() / RISES_EVERY.as_secs();
        let risen = u64::from(self.class).saturating_add(classes);
        // Above every class in the end: then it is only a matter of turns.
        self.risen = self.risen.max(risen.min(CLASSES as u64) as u8);
    }
}

/// What users were served, in tokens over their weight.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    served: BTreeMap<UserId, f64>,
    weights: BTreeMap<UserId, f64>,
    /// Nobody who comes back is further behind than those who stayed.
    floor: f64,
}

impl Accounts {
    pub(crate) fn new(weights: BTreeMap<UserId, f64>) -> Self {
        Self {
            weights,
            ..Self::default()
        }
    }

    /// Charges a user for tokens read or written.
    pub(crate) fn charge(&mut self, user: &UserId, tokens: usize) {
        let weight = self.weights.get(user).copied().unwrap_or(1.0);
        let floor = self.floor;
        let served = self.served.entry(user.clone()).or_insert(floor);
        *served = served.max(floor) + tokens as f64 / weight;
    }

    fn served(&self, user: &UserId) -> f64 {
        self.served
            .get(user)
            .copied()
            .unwrap_or(self.floor)
            .max(self.floor)
    }

    /// Indices of `standings` in the order they are served.
    pub(crate) fn order(&mut self, standings: &[Standing]) -> Vec<usize> {
        self.settle(standings);
        let mut order: Vec<usize> = (0..standings.len()).collect();
        let late = |s: &Standing| (s.deadline.is_none(), s.deadline);
        let class = |s: &Standing| std::cmp::Reverse(s.class.max(s.risen));
        order.sort_by(|a, b| {
            let (a, b) = (&standings[*a], &standings[*b]);
            (class(a), late(a), a.ticket).cmp(&(class(b), late(b), b.ticket))
        });
        // A user's streams stand a slice apart, across all classes.
        let mut streams: BTreeMap<&UserId, f64> = BTreeMap::new();
        let mut marks = vec![0u64; standings.len()];
        for index in &order {
            let user = &standings[*index].user;
            let before = streams.entry(user).or_insert(0.0);
            let weight = self.weights.get(user).copied().unwrap_or(1.0);
            let mark = self.served(user) - self.floor + *before * SLICE / weight;
            marks[*index] = (mark / SLICE) as u64;
            *before += 1.0;
        }
        order.sort_by(|a, b| {
            let key = |index: usize| {
                let s = &standings[index];
                (class(s), marks[index], late(s), s.ticket)
            };
            key(*a).cmp(&key(*b))
        });
        order
    }

    /// The floor rises to the least served of those who are here; users who
    /// are gone and not ahead of it are forgotten.
    fn settle(&mut self, standings: &[Standing]) {
        let least = standings.iter().map(|s| self.served(&s.user));
        if let Some(least) = least.min_by(f64::total_cmp) {
            self.floor = self.floor.max(least);
        }
        if self.served.len() > REMEMBERED {
            let floor = self.floor;
            self.served.retain(|_, served| *served > floor);
            while self.served.len() > REMEMBERED {
                self.served.pop_first();
            }
        }
    }
}

#[cfg(test)]
mod tests;
