use super::*;
use crate::Estimate;
use crate::tests::world::{self, NOW, meta, offer};
use std::iter::empty;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{CapacityReport, Destination, NodeId, Tier, Time, Usd};

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn joined(name: &str, slots: u32) -> Joined {
    Joined {
        place: Destination {
            tier: Tier::Mec,
            region: None,
            node: id(name),
            owner: None,
        },
        transit: None,
        models: vec![Arc::new(offer("small", 0.6, 0.1))],
        slots: Some(slots),
        cache_tokens: 4_096,
        base_ms: 10.0,
    }
}

fn report(sequence: u64) -> CapacityReport {
    world::report(sequence, (12.0, 20.0))
}

fn tracker(names: &[&str]) -> Tracker {
    let mut tracker = Tracker::new(3);
    for name in names {
        tracker.join(joined(name, 2), NOW);
        tracker.report(&id(name), &report(1), 1.0, NOW);
    }
    tracker
}

fn opened(index: usize) -> Opened {
    Opened {
        index,
        estimate: Estimate {
            first_token_ms: 111.0,
            first_token_p99_ms: 150.0,
            first_token_sure_ms: 140.0,
            deviation_ms: 10.0,
            total_ms: 1_000.0,
            cost: Usd::ZERO,
            likely_cost: Usd::ZERO,
            energy: Usd::ZERO,
            warm_share: 0.0,
            hold_ms: 800.0,
            slot: Usd::ZERO,
            kv_tokens: 150,
            held: false,
            queued: false,
            served_ms: (111.0, 140.0),
        },
        cold_tokens: 100,
        likely_tokens: 50,
    }
}

fn at(ms: u64) -> Time {
    NOW + Duration::from_millis(ms)
}

#[test]
fn a_sketch_knows_quantiles_and_forgets() {
    let mut sketch = Sketch::new(32);
    assert_eq!(sketch.quantile(0.5), None);
    for value in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
        sketch.record(value);
    }
    assert_eq!(sketch.quantile(0.5), None);
    (1..=1_000).for_each(|_| sketch.record(100.0));
    let median = sketch.quantile(0.5).unwrap();
    assert!((90.0..115.0).contains(&median), "{median}");
    (1..=200).for_each(|n| sketch.record(1_000.0 + f64::from(n)));
    let median = sketch.quantile(0.5).unwrap();
    assert!((1_000.0..1_400.0).contains(&median), "{median}");
    (1..=3_000_000).for_each(|_| sketch.record(5.0));
    assert!(sketch.quantile(0.99).unwrap() < 6.0);
}

#[test]
fn moments_follow_a_change_and_ignore_what_is_no_number() {
    let mut moments = Moments::new(0.1);
    (0..100).for_each(|_| moments.record(10.0));
    moments.record(f64::NAN);
    assert!((moments.mean_or(1.0, 0.0) - 10.0).abs() < 1e-9);
    assert!(moments.deviation() < 1e-6);
    (0..100).for_each(|_| moments.record(20.0));
    assert!((moments.mean_or(1.0, 0.0) - 20.0).abs() < 0.1);
    assert_eq!(Moments::new(0.1).spread_or(1.0, 7.0), 7.0);
}

#[test]
fn a_snapshot_stays_as_it_was_taken() {
    let mut tracker = tracker(&["a", "b"]);
    let before = tracker.snapshot();
    tracker.opened(StreamId(1), &opened(0), (&[], 16), NOW);
    let after = tracker.snapshot();
    assert_eq!(before.candidates[0].credits_free, 8);
    assert_eq!(after.candidates[0].credits_free, 7);
    assert_eq!(after.candidates[1].credits_free, 8);
    assert!(after.sequence > before.sequence);
}

#[test]
fn an_older_report_never_replaces_a_newer_one() {
    let mut tracker = tracker(&["a"]);
    let mut late = report(0);
    late.credits = 1;
    tracker.report(&id("a"), &late, 1.0, at(5));
    assert_eq!(tracker.snapshot().candidates[0].credits_free, 8);
}

#[test]
fn what_is_open_is_counted_and_what_ends_is_not() {
    let mut tracker = tracker(&["a"]);
    for stream in 0..5 {
        tracker.opened(StreamId(stream), &opened(0), (&[], 16), NOW);
    }
    let full = tracker.snapshot().candidates[0].outlook;
    assert_eq!((full.open, full.waiting), (5, 5));
    assert!(full.waiting_ms > 3.0 * 900.0, "{full:?}");
    tracker.first_token(StreamId(0), at(110));
    tracker.first_token(StreamId(0), at(111));
    tracker.closed(StreamId(0), Some(50), at(1_100));
    tracker.closed(StreamId(4), None, at(1_100));
    let rest = tracker.snapshot().candidates[0].outlook;
    assert_eq!((rest.open, rest.waiting), (3, 3));
    for stream in 0..5 {
        tracker.closed(StreamId(stream), None, at(1_200));
    }
    let none = tracker.snapshot().candidates[0].clone();
    assert_eq!((none.outlook.open, none.outlook.waiting_ms), (0, 0.0));
    assert_eq!((none.credits_free, none.load), (8, 0.0));
}

#[test]
fn a_slow_node_is_found_out_and_calibration_says_so() {
    let mut tracker = tracker(&["a"]);
    for stream in 0..20 {
        tracker.opened(StreamId(stream), &opened(0), (&[], 16), NOW);
        tracker.first_token(StreamId(stream), at(331));
        tracker.closed(StreamId(stream), Some(50), at(2_000));
    }
    let outlook = tracker.snapshot().candidates[0].outlook;
    // 330 ms from slot to first token, where 110 were expected.
    assert!((2.9..3.1).contains(&outlook.ratio), "{outlook:?}");
    let (_, model, calibration) = tracker.calibration().next().unwrap();
    assert_eq!(calibration.samples(), 20.0);
    assert!((2.9..3.1).contains(&calibration.ratio()));
    assert_eq!(calibration.within_p99(), 0.0);
    assert!(calibration.error_ms() > 200.0);
    let model = model.clone();
    let p50 = tracker.first_token_quantile(&id("a"), &model, 0.5).unwrap();
    assert!((300.0..380.0).contains(&p50), "{p50}");
}

#[test]
fn silence_with_streams_running_is_noticed_and_forgiven() {
    let mut tracker = tracker(&["a"]);
    tracker.opened(StreamId(1), &opened(0), (&[], 16), NOW);
    tracker.first_token(StreamId(1), at(100));
    tracker.tick(at(700));
    assert_eq!(tracker.snapshot().candidates[0].outlook.ready_at, None);
    tracker.tick(at(1_100));
    let ready = tracker.snapshot().candidates[0].outlook.ready_at;
    assert_eq!(ready, Some(at(2_100)));
    tracker.heard(&id("a"), at(1_200));
    assert_eq!(tracker.snapshot().candidates[0].outlook.ready_at, None);
}

#[test]
fn nodes_come_and_go_and_the_others_keep_their_place() {
    let names: Vec<_> = (0..200).map(|n| format!("n{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut tracker = tracker(&names);
    for gone in names.iter().step_by(3) {
        tracker.leave(&id(gone));
    }
    for name in ["n0", "n3"] {
        tracker.join(joined(name, 2), NOW);
    }
    for name in names.iter().filter(|n| ["n0", "n3", "n7"].contains(n)) {
        tracker.report(&id(name), &report(9), 77.0, NOW);
    }
    let snapshot = tracker.snapshot();
    let marked = snapshot.candidates.iter().filter(|c| c.rtt_ms == 77.0);
    let marked: Vec<_> = marked.map(|c| c.node.as_str()).collect();
    assert_eq!(marked.len(), 3, "{marked:?}");
    assert_eq!(snapshot.candidates.len(), 200 - 67 + 2);
    assert_eq!(
        snapshot.candidates.iter().count(),
        snapshot.candidates.len()
    );
}

#[test]
fn a_prefix_is_warm_where_it_was_read_until_the_cache_is_full() {
    let mut tracker = tracker(&["a", "b"]);
    let mut warm = Vec::new();
    let prompt: Vec<u64> = (0..4).collect();
    tracker.opened(StreamId(1), &opened(1), (&prompt, 512), NOW);
    tracker.warm(&prompt, 512, &mut warm);
    assert_eq!((warm.len(), warm[0].index, warm[0].tokens), (1, 1, 2_048));
    tracker.warm(&[0, 1, 77], 512, &mut warm);
    assert_eq!(warm[0].tokens, 1_024);
    tracker.warm(&[5], 512, &mut warm);
    assert!(warm.is_empty());
    // The cache holds eight blocks: eight others push the first out.
    let other: Vec<u64> = (10..19).collect();
    tracker.opened(StreamId(2), &opened(1), (&other, 512), NOW);
    tracker.warm(&prompt, 512, &mut warm);
    assert!(warm.is_empty(), "{warm:?}");
}

#[test]
fn lengths_are_learnt_by_policy_and_by_user() {
    let mut lengths = Lengths::default();
    let of = |user: &str| meta(|r| r.user_id = user.into());
    assert_eq!(lengths.expect(&of("ann"), empty()), None);
    for _ in 0..400 {
        lengths.record(&of("ann"), empty(), 100);
        lengths.record(&of("bob"), empty(), 10);
    }
    let likely = |user: &str| lengths.expect(&of(user), empty()).unwrap().likely;
    assert!((98..=103).contains(&likely("ann")), "{}", likely("ann"));
    assert!((10..=11).contains(&likely("bob")), "{}", likely("bob"));
    let other = lengths.expect(&of("cy"), empty()).unwrap();
    assert!(
        (40..70).contains(&other.likely) && other.high >= 100,
        "{other:?}"
    );
}

#[test]
fn lengths_are_learnt_by_the_prompts_size() {
    let mut lengths = Lengths::default();
    let of = |user: &str, bytes: usize| {
        let mut meta = meta(|r| r.user_id = user.into());
        meta.content_bytes = bytes;
        meta
    };
    for _ in 0..400 {
        // Short questions have long answers here, and bob's are half as long.
        lengths.record(&of("ann", 300), empty(), 400);
        lengths.record(&of("ann", 30_000), empty(), 40);
        lengths.record(&of("bob", 300), empty(), 200);
    }
    let likely = |user: &str, bytes| lengths.expect(&of(user, bytes), empty()).unwrap().likely;
    assert!(likely("cy", 300) > 5 * likely("cy", 30_000));
    // What bob was never asked follows from how he differs from others.
    assert!(likely("bob", 30_000) < likely("ann", 30_000));
}

#[test]
fn a_narrow_size_of_prompts_says_more_as_far_as_it_has_answers() {
    let mut lengths = Lengths::default();
    let of = |prompt_tokens: usize| {
        let mut meta = meta(|_| {});
        meta.content_bytes = prompt_tokens * 3;
        meta
    };
    let likely = |lengths: &Lengths, prompt_tokens| {
        let expected = lengths.expect(&of(prompt_tokens), empty());
        expected.unwrap().likely
    };
    // Two templates whose prompts are a tenth apart in length.
    for _ in 0..200 {
        lengths.record(&of(1_100), empty(), 400);
        lengths.record(&of(1_210), empty(), 40);
    }
    assert!(likely(&lengths, 1_100) > 380, "{}", likely(&lengths, 1_100));
    assert!(likely(&lengths, 1_210) < 60, "{}", likely(&lengths, 1_210));
    // A size that was never seen is as its doubling was; with one answer it is
    // still mostly that, and with many its own.
    let before = likely(&lengths, 1_350);
    assert!((200..240).contains(&before), "{before}");
    lengths.record(&of(1_350), empty(), 900);
    let once = likely(&lengths, 1_350);
    assert!(before < once && once < 450, "{once}");
    for _ in 0..200 {
        lengths.record(&of(1_350), empty(), 900);
    }
    assert!(likely(&lengths, 1_350) > 850);
}

#[test]
fn sizes_have_a_bound_and_kinds_that_come_late_have_coarse_ones() {
    let mut lengths = Lengths::default();
    let asked = |policy: u32, prompt_tokens: usize| {
        let mut meta = meta(|r| r.policy = format!("policy-{policy}"));
        meta.content_bytes = prompt_tokens * 3;
        meta
    };
    for policy in 0..50 {
        for octave in 3..27 {
            for part in 0..32 {
                let tokens = ((32 + part) << octave) >> 5;
                lengths.record(&asked(policy, tokens), empty(), 100);
            }
        }
    }
    let (counted, kept) = lengths.sizes_known();
    assert_eq!(counted, kept);
    assert!((1 << 13..=1 << 14).contains(&kept), "{kept}");
    for _ in 0..50 {
        lengths.record(&asked(50, 100), empty(), 10);
        lengths.record(&asked(50, 10_000), empty(), 1_000);
    }
    let likely = |tokens| lengths.expect(&asked(50, tokens), empty()).unwrap().likely;
    assert!(
        likely(10_000) > 3 * likely(100),
        "{} {}",
        likely(100),
        likely(10_000)
    );
    // Every kind may fill the rest.
    for policy in 51..400 {
        for octave in 3..27 {
            lengths.record(&asked(policy, 1 << octave), empty(), 100);
        }
    }
    assert_eq!(lengths.sizes_known(), (1 << 14, 1 << 14));
}

#[test]
fn lengths_are_learnt_by_how_prompts_begin() {
    let mut lengths = Lengths::default();
    let asked = meta(|_| {});
    let prompt = |template: u64, own: u64| -> Vec<u64> {
        let shared = (0..6).map(|n| template * 100 + n);
        shared.chain([own, own + 1]).collect()
    };
    for n in 0..50 {
        // Two templates with the same first block, and a prompt like no other.
        let (mut short, mut long) = (prompt(1, 1_000 + 10 * n), prompt(2, 2_000 + 10 * n));
        (short[0], long[0]) = (7, 7);
        for (blocks, tokens) in [(&short, 10), (&long, 300), (&vec![9_000 + n], 100)] {
            let beginnings = Lengths::beginnings(blocks).copied();
            lengths.record(&asked, beginnings, tokens);
        }
    }
    let likely = |blocks: &[u64]| {
        let beginnings = Lengths::beginnings(blocks).copied();
        lengths.expect(&asked, beginnings).unwrap().likely
    };
    let (mut short, mut long) = (prompt(1, 1), prompt(2, 1));
    (short[0], long[0]) = (7, 7);
    assert!(likely(&short) < 15, "{}", likely(&short));
    assert!(likely(&long) > 280, "{}", likely(&long));
    // One that begins alike and goes on otherwise is between, and one that was
    // never seen is as all are.
    assert!((100..220).contains(&likely(&[7, 1, 2, 3])));
    assert_eq!(likely(&[1, 2, 3, 4]), likely(&[]));
}

#[test]
fn beginnings_that_nobody_repeats_are_forgotten() {
    let mut lengths = Lengths::default();
    let asked = meta(|_| {});
    for n in 0..70_000_u64 {
        // Eight blocks each, of which one is kept.
        let blocks: Vec<u64> = (0..8).map(|block| n * 8 + block).collect();
        lengths.record(&asked, Lengths::beginnings(&blocks).copied(), 10);
    }
    assert_eq!(lengths.beginnings_known(), 1 << 16);
}
