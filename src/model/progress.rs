//! How far a long piece of work is, on stderr: a line that is redrawn on a
//! terminal, a line every few seconds elsewhere.

use super::store::size;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Between two drawings on a terminal.
const REDRAW: Duration = Duration::from_millis(100);
/// Between two lines in a log.
const LOG: Duration = Duration::from_secs(5);
/// Characters of the bar.
const BAR: usize = 16;
/// A line on a terminal has no more, so that redrawing finds all of it.
const WIDTH: usize = 79;

/// One piece of work.
pub(super) struct Progress {
    what: &'static str,
    is_terminal: bool,
    began: Instant,
    /// Bytes that were there before: they say nothing about the speed.
    before: Option<u64>,
    last: Option<Instant>,
    is_drawn: bool,
}

impl Progress {
    /// Work described by a word, such as `downloading`.
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            is_terminal: std::io::stderr().is_terminal(),
            began: Instant::now(),
            before: None,
            last: None,
            is_drawn: false,
        }
    }

    /// So many bytes of `total` are done; `part` is what is being done.
    pub(super) fn update(&mut self, part: &str, done: u64, total: u64) {
        let now = Instant::now();
        let before = *self.before.get_or_insert(done);
        let (pause, since) = match self.is_terminal {
            true => (REDRAW, self.last),
            // The first line of a log comes after a while: short work has none.
            false => (LOG, Some(self.last.unwrap_or(self.began))),
        };
        if since.is_some_and(|last| now - last < pause) {
            return;
        }
        self.last = Some(now);
        let line = line(
            self.what,
            part,
            &State {
                done,
                total,
                moved: done.saturating_sub(before),
                elapsed: now - self.began,
            },
        );
        let mut err = std::io::stderr().lock();
        // A closed stderr ends the drawing, not the work.
        let _ = match self.is_terminal {
            true => write!(err, "\r\x1b[2K{line:.WIDTH$}"),
            false => writeln!(err, "{line}"),
        };
        let _ = err.flush();
        self.is_drawn = self.is_terminal;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_drawn {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[2K");
            let _ = err.flush();
        }
    }
}

struct State {
    done: u64,
    total: u64,
    moved: u64,
    elapsed: Duration,
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people, between 0 and 1 where they are cut"
)]
fn line(what: &str, part: &str, state: &State) -> String {
    if state.total == 0 {
        return format!("{what} {part}");
    }
    let share = (state.done as f64 / state.total as f64).min(1.0);
    let full = (share * BAR as f64) as usize;
    let mut line = format!(
        "{what} [{}{}] {:3.0} % {} of {}",
        "=".repeat(full),
        " ".repeat(BAR - full),
        share * 100.0,
        size(state.done),
        size(state.total),
    );
    let seconds = state.elapsed.as_secs_f64();
    if state.moved > 0 && seconds > 0.5 {
        let speed = state.moved as f64 / seconds;
        let left = state.total.saturating_sub(state.done) as f64 / speed;
        line += &format!(", {}/s, {left:.0} s left", size(speed as u64));
    }
    if !part.is_empty() {
        line += &format!(" {part}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let state = State {
            done: 750_000,
            total: 1_000_000,
            moved: 500_000,
            elapsed: Duration::from_secs(2),
        };
        assert_eq!(
            line("downloading", "model.safetensors", &state),
            "downloading [============    ]  75 % 750.0 kB of 1.0 MB, 250.0 kB/s, 1 s left model.safetensors"
        );
    }

    #[test]
    fn more_than_all_is_all() {
        let state = State {
            done: 3,
            total: 2,
            moved: 0,
            elapsed: Duration::ZERO,
        };
        assert!(line("x", "", &state).contains("100 %"));
    }
}
