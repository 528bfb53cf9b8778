//! One breaker's states. No clock, no lock, no randomness of its own.

use super::BreakerConfig;
use std::time::Duration;
use tiermesh_core::{BreakerState, Time};

/// Parts the window is counted in.
const BUCKETS: u64 = 6;

/// How an attempt ended, as a breaker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered to the end.
    Success,
    /// The node is to blame: it could not be reached, broke off, stalled,
    /// broke the protocol, or missed a deadline it had said it would keep.
    Failure,
    /// Nobody is: the client went away or erred, or the node was full.
    Neutral,
}

/// An attempt that passed. It counts only in the state it passed in: the end
/// of an old stream says nothing about a breaker that has moved on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Admission {
    epoch: u64,
    probe: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Machine {
    state: State,
    /// Counts transitions.
    epoch: u64,
    probes_drawn: u64,
}

#[derive(Debug)]
enum State {
    /// Requests pass, and their outcomes are counted.
    Closed { in_a_row: u32, window: Window },
    /// Nothing passes. Entered when the failures were too many, or a probe
    /// failed.
    Open { until: Time },
    /// A few probes pass. Entered by the first request after `until`; left by
    /// the first probe that succeeds or fails.
    HalfOpen { probes: Vec<Probe> },
}

#[derive(Debug)]
struct Probe {
    number: u64,
    until: Time,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            state: State::closed(),
            epoch: 0,
            probes_drawn: 0,
        }
    }
}

impl State {
    fn closed() -> Self {
        Self::Closed {
            in_a_row: 0,
            window: Window::default(),
        }
    }
}

impl Machine {
    pub(super) const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    pub(super) fn state(&self, now: Time) -> BreakerState {
        match &self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { until } if *until > now => BreakerState::Open {
                retry_in: until.since(now),
            },
            State::Open { .. } | State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// As [`Self::state`], but open while all probes are out.
    pub(super) fn passes(&self, config: &BreakerConfig, now: Time) -> BreakerState {
        match &self.state {
            State::HalfOpen { probes } => match full_until(config, probes, now) {
                Some(until) => BreakerState::Open {
                    retry_in: until.since(now),
                },
                None => BreakerState::HalfOpen,
            },
            _ => self.state(now),
        }
    }

    pub(super) fn admit(
        &mut self,
        config: &BreakerConfig,
        now: Time,
    ) -> Result<Admission, Duration> {
        if let State::Open { until } = self.state {
            if until > now {
                return Err(until.since(now));
            }
            self.go(State::HalfOpen { probes: Vec::new() });
        }
        let State::HalfOpen { probes } = &mut self.state else {
            return Ok(Admission {
                epoch: self.epoch,
                probe: None,
            });
        };
        if let Some(until) = full_until(config, probes, now) {
            return Err(until.since(now));
        }
        probes.retain(|probe| probe.until > now);
        let number = self.probes_drawn;
        self.probes_drawn += 1;
        probes.push(Probe {
            number,
            until: now + config.open,
        });
        Ok(Admission {
            epoch: self.epoch,
            probe: Some(number),
        })
    }

    /// An attempt ended. `lot` draws the jitter should this open it.
    pub(super) fn settle(
        &mut self,
        config: &BreakerConfig,
        admission: &Admission,
        outcome: Outcome,
        now: Time,
        lot: u64,
    ) {
        if admission.epoch != self.epoch {
            return;
        }
        match (&mut self.state, outcome) {
            (_, Outcome::Neutral) => self.settle_neutral(admission),
            (State::Closed { in_a_row, window }, outcome) => {
                let failed = outcome == Outcome::Failure;
                *in_a_row = if failed {
                    in_a_row.saturating_add(1)
                } else {
                    0
                };
                window.count(config, failed, now);
                let too_many = *in_a_row >= config.consecutive || window.too_many(config);
                if failed && too_many {
                    self.go(open(config, now, lot));
                }
            }
            (State::HalfOpen { .. }, Outcome::Success) => self.go(State::closed()),
            (State::HalfOpen { .. }, Outcome::Failure) => self.go(open(config, now, lot)),
            // Nothing is admitted while open, and epochs tell old ends apart.
            (State::Open { .. }, _) => {}
        }
    }

    /// Frees the attempt's place and judges nothing.
    pub(super) fn settle_neutral(&mut self, admission: &Admission) {
        if let State::HalfOpen { probes } = &mut self.state
            && admission.epoch == self.epoch
        {
            probes.retain(|probe| Some(probe.number) != admission.probe);
        }
    }

    fn go(&mut self, state: State) {
        self.epoch += 1;
        self.state = state;
    }
}

fn open(config: &BreakerConfig, now: Time, lot: u64) -> State {
    // 0 to twice the jitter, in percent, taken from 100 less the jitter.
    let jitter = config.jitter_percent.min(100);
    let percent = 100 - jitter + u32::try_from(lot % u64::from(2 * jitter + 1)).unwrap_or(0);
    State::Open {
        until: now + config.open * percent / 100,
    }
}

/// When the first of the probes' places comes free; none when one is.
fn full_until(config: &BreakerConfig, probes: &[Probe], now: Time) -> Option<Time> {
    let out = probes.iter().filter(|probe| probe.until > now);
    let places = config.probes.max(1) as usize;
    if out.clone().count() < places {
        return None;
    }
    out.map(|probe| probe.until).min()
}

/// Outcomes of the last while, in a ring of parts.
#[derive(Debug, Default)]
struct Window {
    parts: [(u32, u32); BUCKETS as usize],
    part: u64,
}

impl Window {
    fn count(&mut self, config: &BreakerConfig, failed: bool, now: Time) {
        let window_us = u64::try_from(config.window.as_micros()).unwrap_or(u64::MAX);
        let part = now.as_us() / (window_us / BUCKETS).max(1);
        for gone in (self.part + 1..=part).take(BUCKETS as usize) {
            self.parts[(gone % BUCKETS) as usize] = (0, 0);
        }
        if part > self.part.saturating_add(BUCKETS) {
            self.parts = Default::default();
        }
        self.part = self.part.max(part);
        let (outcomes, failures) = &mut self.parts[(self.part % BUCKETS) as usize];
        *outcomes = outcomes.saturating_add(1);
        *failures = failures.saturating_add(u32::from(failed));
    }

    fn too_many(&self, config: &BreakerConfig) -> bool {
        let sum = |of: fn(&(u32, u32)) -> u32| self.parts.iter().map(|p| u64::from(of(p))).sum();
        let (outcomes, failures): (u64, u64) = (sum(|part| part.0), sum(|part| part.1));
        outcomes >= u64::from(config.rate_least)
            && failures * 100 >= outcomes * u64::from(config.rate_percent)
    }
}
