//! A world whose dispatcher remembers and keeps a journal.

use super::fakes::World;
use crate::{Joined, Keeps, Memory, Options};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tiermesh_core::{CandidateState, CapacityReport, NodeId, Tier, Time};
use tiermesh_decision::record::{Journal, Made, Outcome, Recorder};

#[derive(Default)]
pub(super) struct Kept {
    recorder: Mutex<Recorder>,
    pub(super) log: Mutex<String>,
    outcomes: Mutex<Vec<Outcome>>,
}

impl Journal for Kept {
    fn made(&self, made: Made) {
        let lines = self.recorder.lock().unwrap().lines(made);
        self.log.lock().unwrap().push_str(&lines);
    }

    fn outcome(&self, outcome: Outcome) {
        let line = self.recorder.lock().unwrap().outcome(outcome.clone());
        self.log.lock().unwrap().push_str(&line);
        self.outcomes.lock().unwrap().push(outcome);
    }
}

impl Kept {
    pub(super) fn outcomes(&self) -> Vec<Outcome> {
        self.outcomes.lock().unwrap().clone()
    }
}

pub(super) fn report(of: &CandidateState, sequence: u64) -> CapacityReport {
    CapacityReport {
        sequence,
        credits: 4,
        slots: 0,
        lease: Duration::from_secs(2),
        active: 0,
        queued: 0,
        load: 0.0,
        battery_percent: None,
        engine: Default::default(),
        models: vec![of.state],
    }
}

pub(super) fn remembering(candidates: Vec<CandidateState>) -> (World, Arc<Memory>, Arc<Kept>) {
    with_slots(candidates, 0)
}

/// The same, where every node below the cloud tells that it has so many slots.
pub(super) fn with_slots(
    candidates: Vec<CandidateState>,
    slots: u32,
) -> (World, Arc<Memory>, Arc<Kept>) {
    let memory = Memory::new(7);
    memory.nodes(|tracker| {
        for candidate in &candidates {
            let joined = Joined {
                place: candidate.destination(),
                transit: None,
                models: vec![candidate.model.clone()],
                slots: None,
                cache_tokens: 10_000,
                base_ms: 0.0,
            };
            tracker.join(joined, Time::ZERO);
            let now = Time::from_us(1_000_000);
            let mut report = report(candidate, 1);
            if candidate.tier != Tier::Cloud {
                report.slots = slots;
            }
            tracker.report(&candidate.node, &report, 0.0, now);
        }
    });
    let kept = Arc::<Kept>::default();
    let keeps = Keeps {
        memory: Some(memory.clone()),
        journal: Some(kept.clone()),
        ..Keeps::default()
    };
    let world = World::keeping(Tier::Mec, candidates, Options::default(), keeps);
    (world, memory, kept)
}

pub(super) fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}
