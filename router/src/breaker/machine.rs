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
    /// It holds one of the places of a breaker that closes slowly.
    ramped: bool,
}

impl Admission {
    /// What a machine that nobody has touched gives.
    pub(super) const fn untouched() -> Self {
        Self {
            epoch: 0,
            probe: None,
            ramped: false,
        }
    }
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
    /// Requests pass, and their outcomes are counted. After a probe they pass
    /// a few at a time at first: everybody who waited, at once, would be too
    /// much for whoever just came back.
    Closed {
        in_a_row: u32,
        window: Window,
        ramp: Option<Ramp>,
    },
    /// Nothing passes. Entered when the failures were too many, or a probe
    /// failed.
    Open { until: Time },
    /// A few probes pass. Entered by the first request after `until`; left by
    /// the first probe that succeeds or fails.
    HalfOpen { probes: Vec<Probe> },
}

/// How far a breaker has closed again.
#[derive(Debug, Clone, Copy)]
struct Ramp {
    since: Time,
    /// Attempts under way that passed on the ramp.
    out: u32,
}

impl Ramp {
    /// Places now: the probes', and twice as many after each tenth of the
    /// ramp. None once it is over.
    fn places(&self, config: &BreakerConfig, now: Time) -> Option<u32> {
        let gone = now.since(self.since);
        if gone >= config.ramp {
            return None;
        }
        let tenth = (config.ramp / 10).max(Duration::from_micros(1));
        let doubled = u32::try_from(gone.as_micros() / tenth.as_micros()).unwrap_or(16);
        Some(config.probes.max(1).saturating_mul(1 << doubled.min(16)))
    }

    fn full_for(&self, config: &BreakerConfig, now: Time) -> Option<Duration> {
        let places = self.places(config, now)?;
        (self.out >= places).then(|| config.ramp / 10)
    }
}

#[derive(Debug)]
struct Probe {
    number: u64,
    until: Time,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            state: State::closed(None),
            epoch: 0,
            probes_drawn: 0,
        }
    }
}

impl State {
    fn closed(ramp: Option<Ramp>) -> Self {
        Self::Closed {
            in_a_row: 0,
            window: Window::default(),
            ramp,
        }
    }
}

impl Machine {
    /// Whether it is closed, and everybody passes.
    pub(super) const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { ramp: None, .. })
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
            State::Closed {
                ramp: Some(ramp), ..
            } => match ramp.full_for(config, now) {
                Some(retry_in) => BreakerState::Open { retry_in },
                None => BreakerState::Closed,
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
            let ramped = self.step_on_the_ramp(config, now)?;
            return Ok(Admission {
                epoch: self.epoch,
                probe: None,
                ramped,
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
            ramped: false,
        })
    }

    /// Takes a place while the breaker closes slowly.
    fn step_on_the_ramp(&mut self, config: &BreakerConfig, now: Time) -> Result<bool, Duration> {
        let State::Closed { ramp, .. } = &mut self.state else {
            return Ok(false);
        };
        let Some(on) = ramp else { return Ok(false) };
        if on.places(config, now).is_none() {
            *ramp = None;
            return Ok(false);
        }
        if let Some(retry_in) = on.full_for(config, now) {
            return Err(retry_in);
        }
        on.out += 1;
        Ok(true)
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
        self.leave_the_ramp(admission);
        match (&mut self.state, outcome) {
            (_, Outcome::Neutral) => self.free_the_probe(admission),
            (
                State::Closed {
                    in_a_row, window, ..
                },
                outcome,
            ) => {
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
            (State::HalfOpen { .. }, Outcome::Success) => {
                let ramp = Ramp { since: now, out: 0 };
                self.go(State::closed(Some(ramp)));
            }
            (State::HalfOpen { .. }, Outcome::Failure) => self.go(open(config, now, lot)),
            // Nothing is admitted while open, and epochs tell old ends apart.
            (State::Open { .. }, _) => {}
        }
    }

    /// Frees the attempt's place and judges nothing.
    pub(super) fn settle_neutral(&mut self, admission: &Admission) {
        if admission.epoch == self.epoch {
            self.leave_the_ramp(admission);
        }
        self.free_the_probe(admission);
    }

    fn leave_the_ramp(&mut self, admission: &Admission) {
        if let State::Closed {
            ramp: Some(ramp), ..
        } = &mut self.state
            && admission.ramped
        {
            ramp.out = ramp.out.saturating_sub(1);
        }
    }

    fn free_the_probe(&mut self, admission: &Admission) {
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
