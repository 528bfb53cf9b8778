//! What slots are worth, and that pools count every one of them.

use super::*;
use crate::Wanted;
use proptest::prelude::*;
use tiermesh_core::Usd;

fn wanted(tracker: &Tracker, hold_ms: f64) -> Wanted {
    Wanted {
        index: tracker
            .place_of(&id("a"), &offer("model", 0.6, 0.1).id)
            .unwrap(),
        hold_ms,
        cost: Usd::from_nanos(10_000),
        saves: Usd::from_nanos(40_000),
    }
}

fn price(tracker: &mut Tracker, now: Time) -> f32 {
    tracker.credits(&id("a"), 60 + (now.as_us() % 7) as u32, now);
    tracker.credits(&id("a"), 64, now);
    let place = tracker.place_of(&id("a"), &offer("model", 0.6, 0.1).id);
    tracker.snapshot().candidates[place.unwrap()]
        .outlook
        .slot_usd_s
}

#[test]
fn slots_cost_something_once_more_of_them_is_wanted_than_there_is() {
    let mut tracker = mesh();
    // Four slots; three seconds of them wanted each second, then ten.
    for second in 0..60 {
        for _ in 0..3 {
            let wanted = wanted(&tracker, 1_000.0);
            tracker.wanted(&wanted, at(second * 1_000));
        }
    }
    assert!(price(&mut tracker, at(60_000)) < 2e-6);
    for second in 60..120 {
        for _ in 0..10 {
            let wanted = wanted(&tracker, 1_000.0);
            tracker.wanted(&wanted, at(second * 1_000));
        }
    }
    let dear = price(&mut tracker, at(120_000));
    assert!(dear > 2e-5, "{dear}");
    // Nobody comes any more, and what is left over is worked off.
    assert_eq!(price(&mut tracker, at(400_000)), 0.0);
}

#[test]
fn a_scarce_slot_goes_to_whoever_saves_most_by_it() {
    let mut tracker = mesh();
    teach(&mut tracker);
    for n in 0..600 {
        let wanted = wanted(&tracker, 1_000.0);
        tracker.wanted(&wanted, at(27_000 + n * 100));
    }
    let now = at(87_000);
    tracker.report(&id("a"), &report(3, 2), 1.0, now);
    tracker.report(&id("b"), &report(3, 2), 1.0, now);
    tracker.report(&id("cloud"), &report(3, 0), 1.0, now);
    for stream in 0..3 {
        send(&mut tracker, stream, now);
    }
    let of = |answer: u32, bytes: usize| {
        let mut case = case();
        case.meta.content_bytes = bytes;
        case.meta.sampling.max_tokens = answer.max(64);
        let question = Question {
            now,
            answer: Some(crate::Answer {
                likely: answer,
                high: answer,
            }),
            ..case.question()
        };
        let plan = decide(&question, &tracker.snapshot()).unwrap();
        first(&tracker, &plan)
    };
    // A long prompt with a short answer saves much in little time.
    assert_eq!(of(2_000, 40), "cloud");
    assert_ne!(of(10, 4_000), "cloud");
}

proptest! {
    #[test]
    fn pools_count_every_slot_once(steps in proptest::collection::vec((0..10_u8, 0..4_u8, 0..9_u32), 1..120)) {
        let mut tracker = Tracker::new(1);
        let names = ["a", "b", "c", "d"];
        let mut open = std::collections::BTreeSet::new();
        let mut sequence = 1;
        for (n, (what, which, number)) in steps.into_iter().enumerate() {
            let now = at(n as u64 * 10);
            let name = names[usize::from(which)];
            match what {
                0 => join(&mut tracker, name, Tier::Mec, number, 0.1),
                1 => tracker.leave(&id(name)),
                2 => {
                    sequence += 1;
                    let mut report = report(sequence, number);
                    report.active = number / 2;
                    tracker.report(&id(name), &report, 1.0, now);
                }
                3 => {
                    let dearer = offer("model", 0.6, 0.1 + f64::from(number));
                    tracker.offer(&id(name), &Arc::new(dearer), now);
                }
                4 => {
                    let place = tracker.place_of(&id(name), &offer("model", 0.6, 0.1).id);
                    if let Some(index) = place {
                        let plan = plan_of(&tracker, index, now);
                        tracker.opened(StreamId(n as u64), &plan, (&[], 1), now);
                        open.insert(n as u64);
                    }
                }
                5 => {
                    if let Some(stream) = open.pop_first() {
                        tracker.closed(StreamId(stream), Some(number), now);
                    }
                }
                6 => tracker.credits(&id(name), number, now),
                7 => {
                    let ready = (number > 0).then(|| at(n as u64 * 10 + u64::from(number) * 20));
                    tracker.ready_at(&id(name), ready, now);
                }
                8 => {
                    if let Some(stream) = open.first() {
                        tracker.failed(StreamId(*stream), now);
                    }
                }
                _ => {
                    let place = tracker.place_of(&id(name), &offer("model", 0.6, 0.1).id);
                    if place.is_some() && name == "a" {
                        let wanted = wanted(&tracker, f64::from(number) * 100.0);
                        tracker.wanted(&wanted, now);
                    }
                }
            }
            tracker.check_pools(now);
        }
    }
}

fn plan_of(tracker: &Tracker, index: usize, now: Time) -> Opened {
    let case = case();
    let limits = crate::Limits::asked(&case.question());
    let candidate = &tracker.snapshot().candidates[index];
    Opened {
        index,
        estimate: crate::Estimate::of(&limits, &case.policy, candidate, now, (0, Some(u32::MAX))),
        cold_tokens: 20,
        likely_tokens: 64,
    }
}
