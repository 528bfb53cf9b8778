//! Pools of nodes that are alike: what their slots are worth, and who is held
//! back for one.

use super::*;
use crate::tests::world::{self, Case, NOW, meta, offer};
use crate::{Hold, Plan, Policies, Question, decide};
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{CapacityReport, Destination, NodeId, Tier, Time};

mod prices;

const POLICY: &str = r#"
default = "cheap"
[policy.cheap]
description = "In time, then cheap"
deadline = "require"
weights = { latency = 10, cost = 1_000, quality = 0, load = 1, energy = 0, preference = 0 }
preference = { DEVICE = 50, MEC = 50, CLOUD = 50 }
"#;

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn at(ms: u64) -> Time {
    NOW + Duration::from_millis(ms)
}

fn report(sequence: u64, slots: u32) -> CapacityReport {
    let mut report = world::report(sequence, (20.0, 40.0));
    (report.credits, report.slots) = (64, slots);
    report.models[0].prefill_tok_s = 2_000.0;
    report
}

fn join(tracker: &mut Tracker, name: &str, tier: Tier, slots: u32, usd: f64) {
    let joined = Joined {
        place: Destination {
            tier,
            region: None,
            node: id(name),
            owner: None,
        },
        transit: None,
        models: vec![Arc::new(offer("model", 0.6, usd))],
        slots: None,
        cache_tokens: 10_000,
        base_ms: 0.0,
    };
    tracker.join(joined, NOW);
    tracker.report(&id(name), &report(1, slots), 1.0, NOW);
}

/// Two edges of two slots each, and a cloud five times as dear.
fn mesh() -> Tracker {
    let mut tracker = Tracker::new(1);
    join(&mut tracker, "a", Tier::Mec, 2, 0.1);
    join(&mut tracker, "b", Tier::Mec, 2, 0.1);
    join(&mut tracker, "cloud", Tier::Cloud, 0, 0.5);
    tracker
}

fn case() -> Case {
    let policies = Policies::parse(POLICY).unwrap();
    let name = policies.default_name().clone();
    let mut case = Case::new(Arc::clone(policies.require(&name).unwrap()));
    case.meta = meta(|r| r.first_token_ms = Some(2_000));
    case
}

fn plan(tracker: &Tracker, now: Time, hold: bool) -> Plan {
    let hold = hold.then_some(u32::MAX);
    let case = case();
    let question = Question {
        now,
        hold,
        ..case.question()
    };
    decide(&question, &tracker.snapshot()).unwrap()
}

fn first(tracker: &Tracker, plan: &Plan) -> String {
    let snapshot = tracker.snapshot();
    plan.choices[0].candidate(&snapshot).node.to_string()
}

/// Sends a request where it is decided to go.
fn send(tracker: &mut Tracker, stream: u64, now: Time) -> String {
    let plan = plan(tracker, now, true);
    let choice = plan.choices[0];
    let opened = Opened {
        index: choice.index,
        estimate: choice.estimate,
        cold_tokens: 20,
        likely_tokens: 64,
    };
    let name = first(tracker, &plan);
    tracker.opened(StreamId(stream), &opened, (&[], 1), now);
    tracker.first_token(StreamId(stream), now + Duration::from_millis(30));
    name
}

/// Teaches that answers take a second, and how sure that is.
fn teach(tracker: &mut Tracker) {
    for n in 0..24 {
        let now = at(n * 1_100);
        assert_ne!(send(tracker, 1_000 + n, now), "cloud");
        tracker.closed(
            StreamId(1_000 + n),
            Some(64),
            now + Duration::from_millis(1_030),
        );
    }
    for name in ["a", "b", "cloud"] {
        let slots = if name == "cloud" { 0 } else { 2 };
        tracker.report(&id(name), &report(2, slots), 1.0, at(27_000));
    }
}

#[test]
fn with_all_slots_taken_a_request_waits_for_one_at_any_of_their_like() {
    let mut tracker = mesh();
    teach(&mut tracker);
    let now = at(27_000);
    for stream in 0..4 {
        assert_ne!(send(&mut tracker, stream, now), "cloud");
    }
    let held = plan(&tracker, now, true);
    assert_ne!(first(&tracker, &held), "cloud");
    let Hold {
        start_by,
        until,
        turn,
        worth,
    } = held.hold.unwrap();
    // What then remains is enough for the cloud, which is asked at the latest.
    let cloud = held.choices.iter().find(|c| !c.estimate.held).unwrap();
    let needs = Duration::from_secs_f64(cloud.estimate.first_token_sure_ms / 1e3);
    assert!(until + needs <= now + Duration::from_secs(2) && until > now + Duration::from_secs(1));
    // An edge takes no longer than the cloud, so a slot is of use until then.
    assert_eq!(start_by, until);
    // Four slots of about a second: one each quarter.
    assert!(turn > Duration::from_millis(100) && turn < Duration::from_millis(400));
    // Once it may not wait, it goes where it would be answered soonest.
    let at_once = plan(&tracker, now, false);
    assert!(at_once.hold.is_none() && at_once.choices.iter().all(|c| !c.estimate.held));
    // A slot at either node is a slot for it.
    tracker.closed(StreamId(3), Some(64), at(27_500));
    assert_eq!(plan(&tracker, at(27_500), true).hold, None);
    // With nobody else to ask, the answer itself is at stake.
    assert_ne!(send(&mut tracker, 4, at(27_500)), "cloud");
    tracker.leave(&id("cloud"));
    let alone = plan(&tracker, at(27_500), true).hold.unwrap();
    assert!(worth > 0 && alone.worth > 1_000 * worth);
}

#[test]
fn the_more_are_held_back_the_fewer_still_are() {
    let mut tracker = mesh();
    teach(&mut tracker);
    let now = at(27_000);
    for stream in 0..4 {
        send(&mut tracker, stream, now);
    }
    let pool = tracker.snapshot().candidates[0].outlook.pool;
    let mut held = 0;
    while plan(&tracker, now, true).hold.is_some() {
        tracker.hold(pool, now + Duration::from_secs(2), now);
        held += 1;
        assert!(held < 100);
    }
    assert!(held >= 2, "{held}");
    for _ in 0..held {
        tracker.unhold(pool, now);
    }
    assert!(plan(&tracker, now, true).hold.is_some());
}

#[test]
fn a_slot_that_is_free_is_better_than_a_slim_chance_of_a_cheaper_one() {
    let mut tracker = Tracker::new(1);
    join(&mut tracker, "a", Tier::Mec, 2, 0.1);
    join(&mut tracker, "cloud", Tier::Cloud, 0, 0.5);
    for stream in 0..2 {
        assert_eq!(send(&mut tracker, stream, NOW), "a");
    }
    let within = |tracker: &Tracker, first_token_ms: u64| {
        let mut case = case();
        case.meta = meta(|r| r.first_token_ms = Some(first_token_ms));
        let question = Question {
            hold: Some(u32::MAX),
            ..case.question()
        };
        decide(&question, &tracker.snapshot()).unwrap()
    };
    // Answers are taken to last three seconds: a slot within two is likely.
    assert!(within(&tracker, 2_000).hold.is_some());
    // With somebody hardly dearer who is free, that likely is not enough.
    join(&mut tracker, "b", Tier::Mec, 2, 0.12);
    let hurried = within(&tracker, 2_000);
    assert_eq!(
        (hurried.hold, first(&tracker, &hurried).as_str()),
        (None, "b")
    );
    assert!(hurried.choices.iter().all(|c| !c.estimate.held));
    // With more time it is as good as sure.
    let patient = within(&tracker, 20_000);
    assert_eq!(
        (patient.hold.is_some(), first(&tracker, &patient).as_str()),
        (true, "a")
    );
}

/// Decides with so many in front at most, where node a has all of the prompt
/// at hand.
fn warm_at_a(tracker: &Tracker, now: Time, before: u32) -> Plan {
    let a = tracker.place_of(&id("a"), &offer("model", 0.6, 0.1).id);
    let warm = [crate::Warm {
        index: a.unwrap(),
        tokens: 1_000,
    }];
    let mut case = case();
    case.meta.content_bytes = 3_000;
    let question = Question {
        now,
        hold: Some(before),
        warm: &warm,
        ..case.question()
    };
    decide(&question, &tracker.snapshot()).unwrap()
}

#[test]
fn nobody_waits_for_a_better_node_while_one_of_its_like_has_a_slot_free() {
    let mut tracker = mesh();
    teach(&mut tracker);
    let now = at(27_000);
    let mut open = Vec::new();
    for stream in 0..4 {
        open.push(send(&mut tracker, stream, now));
    }
    let pool = tracker.snapshot().candidates[0].outlook.pool;
    for _ in 0..2 {
        tracker.hold(pool, now + Duration::from_secs(2), now);
    }
    // With no slot free they wait, and a, which has the prompt, is as good as b.
    assert!(warm_at_a(&tracker, now, 0).hold.is_some());
    let of_b = open.iter().position(|name| name == "b").unwrap();
    tracker.closed(StreamId(of_b as u64), Some(64), at(27_100));
    let now = at(27_100);
    // The first in line takes the slot that is there; for the second it is as
    // good as gone.
    let first_in_line = warm_at_a(&tracker, now, 0);
    assert_eq!(first(&tracker, &first_in_line), "b");
    assert_eq!(first_in_line.hold, None);
    for (before, waits) in [(0, false), (1, true), (u32::MAX, true)] {
        let a = tracker.place_of(&id("a"), &offer("model", 0.6, 0.1).id);
        let candidate = &tracker.snapshot().candidates[a.unwrap()];
        let case = case();
        let limits = crate::Limits::asked(&case.question());
        let hold = (0, Some(before));
        let estimate = crate::Estimate::of(&limits, &case.policy, candidate, now, hold);
        assert_eq!(estimate.held, waits, "{before}");
    }
}

#[test]
fn slots_of_a_node_that_is_not_ready_are_nobodys() {
    let mut tracker = mesh();
    teach(&mut tracker);
    let now = at(27_000);
    tracker.ready_at(&id("b"), Some(at(37_000)), now);
    for stream in 0..2 {
        assert_eq!(send(&mut tracker, stream, now), "a");
    }
    let held = plan(&tracker, now, true);
    assert!(held.hold.is_some(), "{held:?}");
    assert_eq!(first(&tracker, &held), "a");
    // Its next report after that brings them back.
    tracker.report(&id("b"), &report(3, 2), 1.0, at(37_100));
    tracker.report(&id("a"), &report(3, 2), 1.0, at(37_100));
    assert_eq!(plan(&tracker, at(37_100), true).hold, None);
}

#[test]
fn one_node_alone_has_them_in_its_own_queue() {
    let mut tracker = Tracker::new(1);
    join(&mut tracker, "a", Tier::Mec, 1, 0.1);
    for n in 0..10 {
        send(&mut tracker, n, at(n * 200));
        tracker.closed(StreamId(n), Some(64), at(n * 200 + 130));
    }
    let now = at(2_000);
    send(&mut tracker, 10, now);
    let alone = plan(&tracker, now, true);
    assert_eq!((alone.hold, alone.choices[0].estimate.held), (None, false));
    // With somebody else to turn to in time, it is worth a wait.
    join(&mut tracker, "cloud", Tier::Cloud, 0, 0.5);
    assert!(plan(&tracker, now, true).hold.is_some());
}

#[test]
fn nodes_that_do_not_tell_their_slots_hold_nobody_back() {
    let mut tracker = Tracker::new(1);
    join(&mut tracker, "a", Tier::Mec, 0, 0.1);
    join(&mut tracker, "cloud", Tier::Cloud, 0, 0.5);
    for stream in 0..40 {
        send(&mut tracker, stream, NOW);
    }
    let plan = plan(&tracker, NOW, true);
    assert_eq!(plan.hold, None);
    assert!(plan.choices.iter().all(|choice| !choice.estimate.held));
}

#[test]
fn streams_of_others_take_slots_too() {
    let mut tracker = mesh();
    let mut busy = report(2, 2);
    busy.active = 2;
    busy.load = 1.0;
    tracker.report(&id("a"), &busy, 1.0, NOW);
    let snapshot = tracker.snapshot();
    let a = snapshot.candidates.iter().find(|c| c.node == id("a"));
    assert_eq!(a.unwrap().outlook.open, 2);
    for stream in 0..2 {
        assert_eq!(send(&mut tracker, stream, NOW), "b");
    }
}
