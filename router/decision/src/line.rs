//! A line of requests that are held back for a slot of one pool.
//!
//! The most urgent go first, then whoever needs a slot first. While all can be
//! served in time, that is all there is to it. Where they cannot, whoever's
//! slot is worth least goes behind the others, so that as much as can be is
//! saved, and where there is nobody else to ask, as many as can be are served:
//! Moore and Hodgson's rule for the fewest late jobs, by what each saves over
//! how long it takes. Nobody leaves for it: slots may come sooner.

use crate::plan::Hold;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use tiermesh_core::Time;

/// Slots come free in lumps: to be sure of one takes so many times as long as
/// they do on average.
const LUMPS: f64 = 1.4;

/// A place in a line, in the order of who needs a slot first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    priority: Reverse<u8>,
    start_by: Time,
    number: u64,
}

/// Who waits.
#[derive(Debug)]
pub struct Line<T> {
    waiting: BTreeMap<Turn, Waiting<T>>,
    next: u64,
    /// The latest time anybody told, and how often slots come free.
    now: Time,
    turn_us: f64,
}

#[derive(Debug)]
struct Waiting<T> {
    worth: u64,
    one: T,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            next: 0,
            now: Time::ZERO,
            turn_us: 0.0,
        }
    }
}

impl<T> Line<T> {
    /// A place for one more.
    pub fn join(&mut self, priority: u8, hold: &Hold, one: T) -> Turn {
        let turn = Turn {
            priority: Reverse(priority),
            start_by: hold.start_by,
            number: self.next,
        };
        self.next += 1;
        let worth = hold.worth;
        self.waiting.insert(turn, Waiting { worth, one });
        self.renew(&turn, hold);
        turn
    }

    /// Somebody was decided anew and still waits: what a slot is worth to it
    /// may have changed. Its place has not.
    pub fn renew(&mut self, turn: &Turn, hold: &Hold) {
        if let Some(waiting) = self.waiting.get_mut(turn) {
            waiting.worth = hold.worth;
        }
        self.turn_us = hold.turn.as_secs_f64() * 1e6 * LUMPS;
    }

    /// Gives a place up.
    pub fn leave(&mut self, turn: &Turn) -> Option<T> {
        self.waiting.remove(turn).map(|waiting| waiting.one)
    }

    /// Tells the time, by which some can be served and some cannot.
    pub fn told(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// Everybody, in the order of who goes first.
    #[must_use]
    pub fn order(&self) -> Vec<(Turn, &T)> {
        let mut served: Vec<(Turn, &Waiting<T>)> = Vec::with_capacity(self.waiting.len());
        let mut behind = Vec::new();
        // The first may have a slot at once.
        let mut wait_us = 0.0;
        for (turn, waiting) in &self.waiting {
            if !served.is_empty() {
                wait_us += self.turn_us;
            }
            served.push((*turn, waiting));
            if wait_us > turn.start_by.since(self.now).as_secs_f64() * 1e6 {
                // Of equals the last: the others may yet be in time.
                let from_last = served.iter().enumerate().rev();
                let least = from_last.min_by_key(|(_, (turn, w))| (turn.priority.0, w.worth));
                if let Some((at, _)) = least {
                    behind.push(served.remove(at));
                    wait_us -= self.turn_us;
                }
            }
        }
        served.append(&mut behind);
        served.sort_by_key(|(turn, _)| turn.priority);
        let all = served.into_iter();
        all.map(|(turn, waiting)| (turn, &waiting.one)).collect()
    }

    /// Who goes first.
    #[must_use]
    pub fn first(&self) -> Option<(Turn, &T)> {
        self.order().into_iter().next()
    }

    /// How many go before this one.
    #[must_use]
    pub fn ahead(&self, turn: &Turn) -> usize {
        let before = self.order().into_iter();
        before.take_while(|(other, _)| other != turn).count()
    }

    /// Who goes next after this one.
    #[must_use]
    pub fn behind(&self, turn: &Turn) -> Option<&T> {
        let order = self.order();
        let at = order.iter().position(|(other, _)| other == turn)?;
        order.get(at + 1).map(|(_, one)| *one)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Slots come free every 10 ms as far as that is sure.
    fn hold(ms: u64, worth: u64) -> Hold {
        let by = Time::from_us(ms * 1_000);
        Hold {
            start_by: by,
            until: by,
            turn: Duration::from_secs_f64(0.01 / LUMPS),
            worth,
        }
    }

    fn order(line: &Line<&'static str>) -> String {
        let order = line.order().into_iter();
        order.map(|(_, one)| *one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_most_urgent_go_first_and_then_whoever_needs_a_slot_first() {
        let mut line = Line::default();
        let late = line.join(0, &hold(200, 1), "late");
        let soon = line.join(0, &hold(100, 1), "soon");
        let urgent = line.join(5, &hold(300, 1), "urgent");
        assert_eq!((order(&line).as_str(), line.len()), ("urgent soon late", 3));
        let ahead = [urgent, soon, late].map(|turn| line.ahead(&turn));
        assert_eq!(ahead, [0, 1, 2]);
        assert_eq!(line.behind(&soon), Some(&"late"));
        assert_eq!(line.leave(&urgent), Some("urgent"));
        assert_eq!(line.leave(&urgent), None);
        assert_eq!((line.ahead(&soon), line.behind(&late)), (0, None));
    }

    #[test]
    fn where_not_all_can_be_in_time_whoever_saves_least_goes_behind() {
        let mut line = Line::default();
        line.join(0, &hold(5, 3), "a");
        line.join(0, &hold(12, 1), "b");
        line.join(0, &hold(15, 2), "c");
        // At 0, 10 and 20 ms: the third is late, and the least of them is b.
        assert_eq!(order(&line), "a c b");
        line.join(0, &hold(40, 9), "d");
        assert_eq!(order(&line), "a c d b");
        // As time passes, fewer are.
        line.told(Time::from_us(8_000));
        assert_eq!(order(&line), "a d b c");
    }

    #[test]
    fn whoever_is_more_urgent_does_not_give_way() {
        let mut line = Line::default();
        line.join(5, &hold(2, 1), "urgent");
        line.join(5, &hold(12, 1), "urgent too");
        line.join(0, &hold(15, 100), "dear");
        assert_eq!(order(&line), "urgent urgent too dear");
        line.join(0, &hold(25, 50), "cheap");
        assert_eq!(order(&line), "urgent urgent too cheap dear");
        // Nor when they themselves are too many.
        line.join(5, &hold(13, 1), "urgent as well");
        assert_eq!(order(&line), "urgent urgent too urgent as well cheap dear");
    }

    #[test]
    fn of_equals_those_due_first_go_first() {
        let mut line = Line::default();
        for (ms, name) in [(5, "a"), (12, "b"), (15, "c"), (18, "d"), (31, "e")] {
            line.join(0, &hold(ms, 0), name);
        }
        assert_eq!(order(&line), "a b e c d");
    }

    #[test]
    fn what_is_learnt_later_counts() {
        let mut line = Line::default();
        let first = line.join(0, &hold(5, 3), "a");
        line.join(0, &hold(8, 2), "b");
        assert_eq!(order(&line), "a b");
        line.renew(&first, &hold(5, 1));
        assert_eq!(order(&line), "b a");
        let sooner = Hold {
            turn: Duration::from_millis(1),
            ..hold(5, 1)
        };
        line.renew(&first, &sooner);
        assert_eq!(order(&line), "a b");
    }

    #[test]
    fn nobody_is_lost_or_twice_in_the_order() {
        let mut lots = (0..).map(crate::ranking::mix);
        let mut below = |most: u64| lots.next().unwrap() % most;
        for _ in 0..200 {
            let mut line = Line::default();
            for n in 0..below(40) as usize {
                let hold = hold(below(200), below(5));
                line.join(below(3) as u8, &hold, n);
            }
            line.told(Time::from_us(below(150_000)));
            let mut all: Vec<usize> = line.order().into_iter().map(|(_, n)| *n).collect();
            let urgency: Vec<_> = line.order().iter().map(|(t, _)| t.priority).collect();
            assert!(urgency.is_sorted());
            all.sort_unstable();
            assert!(all.into_iter().eq(0..line.len()));
        }
    }
}
