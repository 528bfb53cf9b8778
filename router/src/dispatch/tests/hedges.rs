//! Two nodes asked at once, and retries that are bounded.

use super::fakes::{Step, World, answer, candidate, outline, request};
use crate::{Allowance, HedgeRule, Options};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tiermesh_core::{AttemptOutcome, BreakerState, Context, ErrorClass, NodeId, Tier};

const MS: Duration = Duration::from_millis(1);
/// `automotive` asks the edge first and the phone second.
const EDGE_FIRST: &str = "automotive";

fn hedged(options: Options) -> World {
    let always = HedgeRule {
        always: true,
        after: Some(10 * MS),
        tiers: Vec::new(),
    };
    let nodes = vec![
        candidate(Tier::Device, "phone"),
        candidate(Tier::Mec, "edge"),
    ];
    let options = Options {
        hedge: always,
        ..options
    };
    World::patient(Tier::Mec, nodes, options)
}

fn slow(by: Duration) -> Vec<Step> {
    let mut steps = vec![Step::Wait(by)];
    steps.extend(answer());
    steps
}

#[tokio::test(start_paused = true)]
async fn the_first_token_wins_and_the_loser_is_cancelled_and_listed() {
    for (edge, phone, winner, asked) in [
        (5 * MS, 5 * MS, "edge", 0),
        (300 * MS, 5 * MS, "phone", 1),
        (30 * MS, 200 * MS, "edge", 1),
    ] {
        let world = hedged(Options::default());
        world.node("edge").script(slow(edge));
        world.node("phone").script(slow(phone));
        let events = world.all(EDGE_FIRST).await;
        let (accepted, count, end) = outline(&events);
        let done = end.unwrap();
        assert_eq!((accepted.last(), count), (Some(&winner), 3));
        assert_eq!(world.node("phone").called(), asked);
        let cancelled = |a: &&tiermesh_core::Attempt| a.outcome == AttemptOutcome::Cancelled;
        assert_eq!(done.attempts.iter().filter(cancelled).count(), asked);
        for node in ["edge", "phone"] {
            assert_eq!(world.node(node).open.load(Ordering::SeqCst), 0);
            let state = world.dispatcher.breaker_state(&NodeId::new(node).unwrap());
            assert_eq!(state, BreakerState::Closed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_loser_that_would_be_faster_later_never_speaks_into_the_answer() {
    let world = hedged(Options::default());
    let edge = vec![Step::Wait(30 * MS), Step::Say(40, 50 * MS), Step::End];
    let phone = vec![Step::Wait(120 * MS), Step::Say(40, MS), Step::End];
    world.node("edge").script(edge);
    world.node("phone").script(phone);
    let asked = request(EDGE_FIRST, |r| r.max_tokens = Some(40));
    let stream = world.ask(asked, Context::default()).await.unwrap();
    let events: Vec<_> = futures::StreamExt::collect(stream).await;
    let (accepted, count, end) = outline(&events);
    assert_eq!((accepted.last(), count), (Some(&"edge"), 40));
    // All of the edge's own pace: nothing of it came from the phone.
    assert!(end.unwrap().total >= 40 * 50 * MS);
    assert_eq!(world.node("phone").called(), 1);
    assert_eq!(world.node("phone").open.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn when_one_of_two_fails_the_other_answers() {
    let world = hedged(Options::default());
    world.node("edge").script(vec![
        Step::Wait(50 * MS),
        Step::Fail(ErrorClass::Unavailable),
    ]);
    world.node("phone").script(slow(100 * MS));
    let events = world.all(EDGE_FIRST).await;
    let (accepted, count, end) = outline(&events);
    assert_eq!((accepted.last(), count), (Some(&"phone"), 3));
    assert_eq!(end.unwrap().attempts.len(), 2);
    assert_eq!(world.node("phone").called(), 1, "it was on the way already");
}

#[tokio::test(start_paused = true)]
async fn hedges_are_a_bounded_share_of_the_traffic() {
    let world = hedged(Options {
        hedges: Allowance {
            share_percent: 10,
            floor_per_s: 0,
        },
        ..Options::default()
    });
    world.node("edge").script(slow(100 * MS));
    for _ in 0..100 {
        assert!(outline(&world.all(EDGE_FIRST).await).2.is_ok());
    }
    assert!((8..=10).contains(&world.node("phone").called()));
}

const SHARED: &str = r#"
[policy.site]
description = "edge first, an eighth asked twice"
deadline = "steer"
weights = { latency = 1, cost = 1, quality = 1, load = 1, energy = 0, preference = 9 }
preference = { DEVICE = 10, MEC = 90, CLOUD = 1 }
hedge = { tiers = ["DEVICE"], max_share = 0.125, after_ms = 10 }

[policy.never]
description = "edge first, and nobody beside it"
deadline = "steer"
weights = { latency = 1, cost = 1, quality = 1, load = 1, energy = 0, preference = 9 }
preference = { DEVICE = 10, MEC = 90, CLOUD = 1 }
hedge = { enabled = false, tiers = ["DEVICE"], max_share = 1.0 }
"#;

#[tokio::test(start_paused = true)]
async fn a_policys_hedges_are_a_share_of_its_own_requests() {
    let world = hedged(Options {
        hedges: Allowance {
            share_percent: 100,
            floor_per_s: 1_000,
        },
        ..Options::default()
    });
    let policies = world.dispatcher.policies();
    world
        .dispatcher
        .set_policies(policies.extended(SHARED).unwrap());
    world.node("edge").script(slow(100 * MS));
    let mut hedges = 0;
    for n in 1..=80 {
        let events = world.all("site").await;
        let done = outline(&events).2.unwrap().clone();
        hedges = world.node("phone").called();
        assert!(hedges * 8 <= n, "{hedges} of {n}");
        // The phone was first, and what the edge would have said is booked.
        let lost = |a: &&tiermesh_core::Attempt| a.outcome == AttemptOutcome::Cancelled;
        assert_eq!(
            done.attempts.iter().filter(lost).count(),
            done.attempts.len() - 1
        );
        assert_eq!(world.node("edge").open.load(Ordering::SeqCst), 0);
        // Another policy's requests earn it nothing.
        assert!(outline(&world.all("never").await).2.is_ok());
        assert_eq!(world.node("phone").called(), hedges, "it wants none");
    }
    assert_eq!(hedges, 10);
}

#[tokio::test(start_paused = true)]
async fn a_clients_deadline_that_the_first_would_miss_is_hedged_without_a_rule() {
    for (asked_ms, hedges) in [(None, 0), (Some(500), 0), (Some(60), 1)] {
        let world = World::new(vec![
            candidate(Tier::Device, "phone"),
            candidate(Tier::Mec, "edge"),
        ]);
        world.reports("edge", 0.0, 80.0);
        world.node("edge").script(slow(300 * MS));
        // A policy that is edge first too, and says nothing of hedges.
        let asked = request("iot", |r| r.first_token_ms = asked_ms);
        let stream = world.ask(asked, Context::default()).await.unwrap();
        let _: Vec<_> = futures::StreamExt::collect(stream).await;
        // A client's deadline may also put the phone first.
        let both = world
            .node("phone")
            .called()
            .min(world.node("edge").called());
        assert!(both <= hedges, "{asked_ms:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn retries_are_a_share_of_the_traffic_and_refusals_say_when_to_come_back() {
    let nodes = vec![
        candidate(Tier::Device, "phone"),
        candidate(Tier::Mec, "edge"),
    ];
    let options = Options {
        retries: Allowance {
            share_percent: 20,
            floor_per_s: 1,
        },
        ..Options::default()
    };
    let world = World::patient(Tier::Mec, nodes, options);
    let fails = vec![Step::Fail(ErrorClass::Internal)];
    let mut answered = 0;
    for n in 0..200 {
        // The edge fails often, and too seldom to be shut out.
        let steps = if n % 5 == 0 || n % 5 == 2 {
            fails.clone()
        } else {
            answer()
        };
        world.node("edge").script(steps);
        let events = world.all(EDGE_FIRST).await;
        match outline(&events).2 {
            Ok(_) => answered += 1,
            Err(error) => assert!(error.retry_after.is_some(), "{error:?}"),
        }
    }
    let retried = world.node("phone").called();
    assert!((45..=10 + 40 + 1).contains(&retried), "{retried}");
    assert_eq!(answered, 120 + retried);
}
