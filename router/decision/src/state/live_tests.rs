//! Nodes that report and do not tell their slots, as live ones are.

use super::*;
use crate::tests::world::{self, Case, NOW, meta, offer, policy};
use crate::{Estimate, Limits, Question};
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{CandidateState, CapacityReport, Destination, NodeId, Tier, Time};

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn joined(name: &str) -> Joined {
    Joined {
        place: Destination {
            tier: Tier::Mec,
            region: None,
            node: id(name),
            owner: None,
        },
        transit: None,
        models: vec![Arc::new(offer("small", 0.6, 0.1))],
        slots: None,
        cache_tokens: 0,
        base_ms: 0.0,
    }
}

fn report(sequence: u64, load: f32) -> CapacityReport {
    CapacityReport {
        active: if load > 0.0 { 4 } else { 0 },
        load,
        ..world::report(sequence, (100.0, 150.0))
    }
}

fn at(ms: u64) -> Time {
    NOW + Duration::from_millis(ms)
}

fn tracker() -> Tracker {
    let mut tracker = Tracker::new(1).remembering(4);
    tracker.join(joined("a"), NOW);
    tracker.report(&id("a"), &report(1, 0.0), 0.0, NOW);
    tracker
}

fn first(tracker: &Tracker) -> CandidateState {
    tracker.snapshot().candidates[0].clone()
}

fn estimate(tracker: &Tracker, now: Time) -> Estimate {
    let case = Case::new(policy("interactive"));
    let question = Question {
        now,
        ..case.question()
    };
    Estimate::of(
        &Limits::asked(&question),
        &case.policy,
        &first(tracker),
        now,
        (0, Some(u32::MAX)),
    )
}

fn sent(tracker: &mut Tracker, stream: u64, cold_tokens: u32, now: Time) {
    let opened = Opened {
        index: tracker
            .place_of(&id("a"), &first(tracker).model.id)
            .unwrap(),
        estimate: estimate(tracker, now),
        cold_tokens,
        likely_tokens: 50,
    };
    tracker.opened(StreamId(stream), &opened, (&[], 1), now);
}

/// Answers whose first token comes after `ms`, one after another.
fn answers(tracker: &mut Tracker, count: u64, ms: u64, from: u64) -> u64 {
    for n in 0..count {
        let start = from + n * 1_000;
        tracker.report(&id("a"), &report(start + 2, 0.0), 0.0, at(start));
        sent(tracker, start, 20, at(start));
        tracker.first_token(StreamId(start), at(start + ms));
        tracker.closed(StreamId(start), Some(11), at(start + ms + 400));
    }
    from + count * 1_000
}

#[test]
fn a_report_is_corrected_by_how_such_reports_turned_out() {
    let mut tracker = tracker();
    let before = estimate(&tracker, NOW);
    assert_eq!(before.first_token_ms, 100.0);
    let now = answers(&mut tracker, 4, 300, 0);
    assert_eq!(
        first(&tracker).outlook.ratio,
        0.0,
        "four answers are too few"
    );
    let now = answers(&mut tracker, 40, 300, now);
    tracker.report(&id("a"), &report(now + 2, 0.0), 0.0, at(now));
    let after = estimate(&tracker, at(now));
    assert!((270.0..330.0).contains(&after.first_token_ms), "{after:?}");
    // Ten pauses in 400 ms, where the report said 20 ms a token.
    let per_token = first(&tracker).outlook.per_token_ms;
    assert!((39.0..41.0).contains(&per_token), "{per_token}");
    assert!(after.chance(200.0) < 0.1 && before.chance(200.0) > 0.9);
}

#[test]
fn one_outlier_does_not_condemn_a_node() {
    let mut tracker = tracker();
    let now = answers(&mut tracker, 40, 100, 0);
    let now = answers(&mut tracker, 1, 60_000, now) + 60_000;
    tracker.report(&id("a"), &report(now + 2, 0.0), 0.0, at(now));
    let ratio = first(&tracker).outlook.ratio;
    assert!(ratio < 1.2, "{ratio}");
}

#[test]
fn what_was_learnt_long_ago_counts_less_and_is_doubted_more() {
    let mut tracker = tracker();
    let now = answers(&mut tracker, 40, 300, 0);
    tracker.report(&id("a"), &report(now + 2, 0.0), 0.0, at(now));
    let fresh = first(&tracker).outlook;
    let later = now + 3_600_000;
    tracker.report(&id("a"), &report(later + 2, 0.0), 0.0, at(later));
    let stale = first(&tracker).outlook;
    assert!(
        fresh.ratio > 2.7 && stale.ratio < 1.01,
        "{fresh:?} {stale:?}"
    );
    assert!(stale.ratio_sd > fresh.ratio_sd + 0.2, "{fresh:?} {stale:?}");
}

#[test]
fn prompts_sent_since_the_last_report_are_ahead_of_the_next() {
    let mut tracker = tracker();
    let (before, load) = (estimate(&tracker, NOW), first(&tracker).load);
    sent(&mut tracker, 1, 500, at(10));
    let after = estimate(&tracker, NOW);
    // Five hundred tokens at a thousand a second.
    assert!((after.first_token_ms - before.first_token_ms - 500.0).abs() < 1.0);
    assert!(first(&tracker).load > load);
    assert_eq!(first(&tracker).credits_free, 7);
    // The next report has them in it.
    tracker.report(&id("a"), &report(2, 0.05), 0.0, at(250));
    assert_eq!(
        estimate(&tracker, at(250)).first_token_ms,
        before.first_token_ms
    );
    // Ended before the next report, a stream leaves nothing behind.
    sent(&mut tracker, 2, 500, at(260));
    tracker.closed(StreamId(2), None, at(270));
    let gone = first(&tracker);
    assert_eq!((gone.outlook.waiting_ms, gone.load), (0.0, 0.05));
}

#[test]
fn a_stream_given_up_for_late_teaches_that_it_was() {
    let mut tracker = tracker();
    for n in 0..10 {
        sent(&mut tracker, n, 20, at(n * 1_000));
        tracker.failed(StreamId(n), at(n * 1_000 + 900));
        tracker.report(&id("a"), &report(n + 2, 0.0), 0.0, at(n * 1_000 + 950));
    }
    let model = first(&tracker).model.id.clone();
    let learnt = tracker.learnt(&id("a"), &model).unwrap();
    let calibration = learnt.calibration();
    // Once it is known to take so long, that is no surprise any more.
    let late = calibration.samples();
    assert!((5.0..10.0).contains(&late), "{late}");
    assert!(calibration.ratio() > 1.0 && calibration.failed_share() == 1.0);
    // A failure at once says nothing of how fast the node is.
    sent(&mut tracker, 99, 20, at(20_000));
    tracker.failed(StreamId(99), at(20_001));
    let learnt = tracker.learnt(&id("a"), &model).unwrap();
    assert_eq!(learnt.calibration().samples(), late);
}

#[test]
fn a_node_that_comes_back_is_known_and_strangers_are_forgotten() {
    let mut tracker = tracker();
    answers(&mut tracker, 10, 300, 0);
    let model = first(&tracker).model.id.clone();
    tracker.leave(&id("a"));
    assert!(tracker.learnt(&id("a"), &model).is_none());
    tracker.join(joined("a"), at(20_000));
    let learnt = tracker.learnt(&id("a"), &model).unwrap();
    assert_eq!(learnt.calibration().samples(), 10.0);
    tracker.leave(&id("a"));
    // Four others that answered nothing are not worth more.
    for name in ["b", "c", "d", "e", "f"] {
        tracker.join(joined(name), at(30_000));
        tracker.leave(&id(name));
    }
    tracker.join(joined("a"), at(40_000));
    let learnt = tracker.learnt(&id("a"), &model).unwrap();
    assert_eq!(learnt.calibration().samples(), 10.0);
}

#[test]
fn lengths_are_learnt_by_task_and_model_before_the_policy() {
    let mut lengths = Lengths::default();
    let asked = |model: &str| meta(|r| r.model = model.into());
    for _ in 0..20 {
        lengths.record(&asked("short"), std::iter::empty(), 10);
        lengths.record(&asked("long"), std::iter::empty(), 400);
    }
    assert_eq!(
        lengths
            .expect(&asked("short"), std::iter::empty())
            .unwrap()
            .likely,
        10
    );
    assert_eq!(
        lengths
            .expect(&asked("long"), std::iter::empty())
            .unwrap()
            .likely,
        400
    );
    let other = lengths.expect(&asked("other"), std::iter::empty()).unwrap();
    assert!((100..400).contains(&other.likely), "{other:?}");
}

#[test]
fn prompts_are_counted_as_their_models_count() {
    let mut prompts = Prompts::default();
    let asked = |model: &str| meta(|r| r.model = model.into());
    let (dense, thin) = (asked("dense"), asked("thin"));
    let estimate = u64::from(dense.estimated_prompt_tokens());
    assert_eq!(prompts.expect(&dense), None);
    for _ in 0..10 {
        prompts.record(
            &dense,
            &tiermesh_core::ModelId::new("dense").unwrap(),
            2 * estimate,
        );
        prompts.record(
            &thin,
            &tiermesh_core::ModelId::new("thin").unwrap(),
            estimate / 2,
        );
    }
    let told = |meta| u64::from(prompts.expect(meta).unwrap());
    assert_eq!(told(&dense), 2 * estimate);
    assert!(told(&thin) <= estimate / 2 + 1);
    let both = told(&asked("auto"));
    assert!(estimate / 2 < both && both < 2 * estimate);
}

#[test]
fn what_is_learnt_of_prompts_moves_no_limit() {
    let case = Case::new(policy("interactive"));
    let world = tracker().snapshot();
    let few = Question {
        prompt_tokens: Some(1),
        ..case.question()
    };
    let limits = Limits::asked(&few);
    assert_eq!(limits.prompt_tokens, case.meta.estimated_prompt_tokens());
    assert_eq!(limits.likely_prompt, 1);
    let of = |question| {
        let candidate = &world.candidates[0];
        Estimate::of(
            &Limits::asked(question),
            &case.policy,
            candidate,
            NOW,
            (0, Some(u32::MAX)),
        )
    };
    let (asked, learnt) = (of(&case.question()), of(&few));
    assert_eq!(asked.cost, learnt.cost);
    assert!(learnt.likely_cost < asked.likely_cost);
}

#[test]
fn a_node_of_several_models_leaves_none_behind_and_moves_nobodys() {
    let mut tracker = Tracker::new(1);
    let several = |name: &str, models: &[&str]| Joined {
        models: models
            .iter()
            .map(|m| Arc::new(offer(m, 0.6, 0.1)))
            .collect(),
        ..joined(name)
    };
    let reported = |sequence: u64, models: usize| CapacityReport {
        models: vec![report(1, 0.0).models[0]; models],
        ..report(sequence, 0.0)
    };
    let nodes: [(&str, &[&str]); 3] = [
        ("a", &["one", "two"]),
        ("b", &["one", "two", "three"]),
        ("c", &["one", "two"]),
    ];
    let mut sequence = 0;
    // Each in turn comes back, the last in the table and others.
    for round in 0..12 {
        let (name, models) = nodes[round * 7 % 3];
        sequence += 1;
        tracker.join(several(name, models), at(sequence));
        tracker.report(
            &id(name),
            &reported(sequence, models.len()),
            0.0,
            at(sequence),
        );
        let snapshot = tracker.snapshot();
        let mut there: Vec<_> = snapshot
            .candidates
            .iter()
            .map(|c| (c.node.to_string(), c.model.id.to_string()))
            .collect();
        there.sort();
        let count = there.len();
        there.dedup();
        assert_eq!(there.len(), count, "a ghost in round {round}");
        for candidate in snapshot.candidates.iter() {
            let place = tracker
                .place_of(&candidate.node, &candidate.model.id)
                .unwrap();
            assert!(snapshot.candidates.get(place).unwrap().model.id == candidate.model.id);
        }
    }
    for (name, _) in nodes {
        tracker.leave(&id(name));
    }
    assert_eq!(tracker.snapshot().candidates.iter().count(), 0);
}

#[test]
fn a_model_that_a_report_leaves_out_is_nobodys_to_be_sent_to() {
    let mut tracker = Tracker::new(1);
    let two = ["small", "large"].map(|m| Arc::new(offer(m, 0.6, 0.1)));
    tracker.join(
        Joined {
            models: two.to_vec(),
            ..joined("a")
        },
        NOW,
    );
    tracker.report(&id("a"), &report(1, 0.0), 0.0, NOW);
    tracker.credits(&id("a"), 5, at(1));
    let snapshot = tracker.snapshot();
    let credits: Vec<_> = snapshot.candidates.iter().map(|c| c.credits_free).collect();
    assert_eq!(credits, [5, 0]);
}

#[test]
fn a_node_that_failed_a_stream_is_suspected_until_it_reports() {
    let mut tracker = tracker();
    let ready = |tracker: &Tracker| tracker.snapshot().candidates[0].outlook.ready_at;
    let place = tracker
        .place_of(&id("a"), &offer("small", 0.6, 0.1).id)
        .unwrap();
    let case = Case::new(policy("interactive"));
    let limits = Limits::asked(&case.question());
    let estimate = Estimate::of(
        &limits,
        &case.policy,
        &tracker.snapshot().candidates[0],
        NOW,
        (0, Some(u32::MAX)),
    );
    let opened = Opened {
        index: place,
        estimate,
        cold_tokens: 10,
        likely_tokens: 10,
    };
    tracker.opened(StreamId(1), &opened, (&[], 1), at(10));
    tracker.failed(StreamId(1), at(20));
    assert_eq!(ready(&tracker), Some(at(20) + Duration::from_millis(1_500)));
    tracker.report(&id("a"), &report(2, 0.0), 0.0, at(200));
    assert_eq!(ready(&tracker), None);
}
