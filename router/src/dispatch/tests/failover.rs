use super::fakes::{Step, World, answer, candidate, outline, request};
use futures::StreamExt;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tiermesh_core::{
    AttemptOutcome, BreakerState, Context, Continuity, ErrorClass, Event, NodeId, Reason, Tier,
};

/// `automotive` asks the edge first and the phone second.
const EDGE_FIRST: &str = "iot";

fn two() -> World {
    World::new(vec![
        candidate(Tier::Device, "phone"),
        candidate(Tier::Mec, "edge"),
    ])
}

/// What must look the same to a client, however the edge fails.
async fn is_transparent(steps: Vec<Step>, outcome: AttemptOutcome, reason: &str) {
    let world = two();
    world.node("edge").script(steps);
    let events = world.all(EDGE_FIRST).await;
    let (accepted, count, end) = outline(&events);
    let done = end.unwrap();
    assert_eq!(accepted.last(), Some(&"phone"));
    assert_eq!(count, 3);
    assert_eq!(done.attempts.len(), 2, "{done:?}");
    assert_eq!(done.attempts[0].node.as_str(), "edge");
    assert_eq!(done.attempts[0].outcome, outcome);
    assert_eq!(done.attempts[0].reason.as_deref(), Some(reason));
    assert_eq!(done.attempts[1].outcome, AttemptOutcome::Answered);
    let last = events.iter().rev().find_map(|event| match event {
        Ok(Event::Accepted(decision)) => Some(decision),
        _ => None,
    });
    let reasons = &last.unwrap().reasons;
    assert!(reasons.iter().any(|r| r.reason == Reason::FailedOver));
    assert_eq!(world.node("edge").open.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_goes_on_to_the_next() {
    let steps = vec![Step::Refuse(ErrorClass::Exhausted)];
    is_transparent(steps, AttemptOutcome::Refused, "QUEUE_FULL").await;
}

#[tokio::test(start_paused = true)]
async fn an_error_before_the_first_token_goes_on_to_the_next() {
    let steps = vec![Step::Fail(ErrorClass::Unavailable)];
    is_transparent(steps, AttemptOutcome::Failed, "NODE_LOST").await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_without_an_answer_goes_on_to_the_next() {
    is_transparent(vec![], AttemptOutcome::Failed, "NODE_LOST").await;
}

#[tokio::test(start_paused = true)]
async fn a_stall_goes_on_to_the_next() {
    is_transparent(vec![Step::Hang], AttemptOutcome::Failed, "STREAM_STALLED").await;
    let steps = vec![Step::HangBeforeStream];
    is_transparent(steps, AttemptOutcome::Failed, "STREAM_STALLED").await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_a_busy_node_tells_of_is_no_stall() {
    let slow = || {
        vec![
            Step::Wait(Duration::from_secs(8)),
            Step::Tokens(0, 1),
            Step::Done(1),
        ]
    };
    for (load, p99_ms, answered_by) in [
        (0.5, 3_000.0, "edge"),
        // Busy, but its queue explains two seconds and no more.
        (0.5, 100.0, "phone"),
        // It would take that long, and it has nothing to do: ours is lost.
        (0.0, 3_000.0, "phone"),
        // Nobody explains a wait by a number that is none.
        (0.5, f32::NAN, "phone"),
    ] {
        let world = two();
        world.node("edge").script(slow());
        let stream = world.open(EDGE_FIRST).await.unwrap();
        world.reports("edge", load, p99_ms);
        let events: Vec<_> = stream.collect().await;
        let (accepted, _, end) = outline(&events);
        assert_eq!(accepted.last(), Some(&answered_by), "{load} {p99_ms}");
        assert!(end.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_gap_in_the_numbers_is_the_nodes_fault() {
    let steps = vec![Step::Tokens(1, 2), Step::Done(2)];
    is_transparent(steps, AttemptOutcome::Failed, "PROTOCOL_VIOLATION").await;
    let steps = vec![Step::Tokens(0, 0), Step::Done(2)];
    is_transparent(steps, AttemptOutcome::Failed, "PROTOCOL_VIOLATION").await;
}

#[tokio::test(start_paused = true)]
async fn nothing_fails_over_after_the_first_token_for_a_client_that_wants_it_so() {
    for (steps, class, reason) in [
        (
            vec![Step::Tokens(0, 2), Step::Fail(ErrorClass::Unavailable)],
            ErrorClass::Unavailable,
            "NODE_LOST",
        ),
        (
            vec![Step::Tokens(0, 2), Step::Tokens(3, 1)],
            ErrorClass::Internal,
            "PROTOCOL_VIOLATION",
        ),
        (
            vec![Step::Tokens(0, 2)],
            ErrorClass::Unavailable,
            "NODE_LOST",
        ),
    ] {
        let world = two();
        world.node("edge").script(steps);
        let asked = request(EDGE_FIRST, |r| r.continuity = Some(Continuity::Fail));
        let stream = world.ask(asked, Context::default()).await.unwrap();
        let events: Vec<_> = stream.collect().await;
        let (accepted, count, end) = outline(&events);
        let error = end.unwrap_err();
        assert_eq!((accepted, count), (vec!["edge"], 2));
        assert_eq!((error.class, error.reason), (class, reason));
        assert_eq!(world.node("phone").called(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clients_mistake_is_not_tried_elsewhere() {
    let world = two();
    let steps = vec![Step::Refuse(ErrorClass::InvalidArgument)];
    world.node("edge").script(steps);
    let error = world.open(EDGE_FIRST).await.err().unwrap();
    assert_eq!(error.class, ErrorClass::InvalidArgument);
    assert_eq!(world.node("phone").called(), 0);
}

#[tokio::test(start_paused = true)]
async fn when_all_refuse_the_caller_is_refused_and_told_of_all() {
    let world = two();
    for node in world.nodes.values() {
        node.script(vec![Step::Refuse(ErrorClass::Exhausted)]);
    }
    let error = world.open(EDGE_FIRST).await.err().unwrap();
    assert_eq!(error.class, ErrorClass::Exhausted);
    assert!(error.message.contains("`edge` QUEUE_FULL"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn whoever_is_always_full_for_another_second_is_not_asked_for_ever() {
    let world = World::new(vec![candidate(Tier::Cloud, "region")]);
    let full = Step::Full(Duration::from_secs(1));
    world.node("region").script(vec![full]);
    let start = tokio::time::Instant::now();
    let error = world.open("interactive").await.err().unwrap();
    assert_eq!(error.class, ErrorClass::Exhausted);
    assert_eq!(error.retry_after, Some(Duration::from_secs(1)));
    assert!(start.elapsed() <= Duration::from_secs(3));
    assert!(world.node("region").called() <= 4);
}

#[tokio::test(start_paused = true)]
async fn the_last_choice_may_be_slow() {
    let world = World::new(vec![candidate(Tier::Mec, "edge")]);
    let mut steps = vec![Step::Wait(Duration::from_secs(10))];
    steps.extend(answer());
    world.node("edge").script(steps);
    let events = world.all(EDGE_FIRST).await;
    let done = outline(&events).2.unwrap();
    assert_eq!(done.first_token, Some(Duration::from_secs(10)));
    assert_eq!(done.total, Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn the_end_tells_times_from_the_door_and_the_offers_price() {
    let world = World::new(vec![candidate(Tier::Cloud, "region")]);
    world.node("region").script(vec![
        Step::Wait(Duration::from_millis(300)),
        Step::Tokens(0, 3),
        Step::Wait(Duration::from_millis(200)),
        Step::Done(3),
    ]);
    let events = world.all("interactive").await;
    let done = outline(&events).2.unwrap();
    assert_eq!(done.first_token, Some(Duration::from_millis(300)));
    assert_eq!(done.total, Duration::from_millis(500));
    // 10 tokens in and 3 out at 3 dollars a million.
    assert_eq!(done.cost.as_nanos(), 39_000);
}

#[tokio::test(start_paused = true)]
async fn the_total_deadline_ends_a_silent_stream() {
    for steps in [
        vec![Step::HangBeforeStream],
        vec![Step::Hang],
        vec![Step::Tokens(0, 1), Step::Hang],
    ] {
        let world = World::new(vec![candidate(Tier::Mec, "edge")]);
        world.node("edge").script(steps);
        let start = tokio::time::Instant::now();
        let asked = request(EDGE_FIRST, |r| r.total_ms = Some(700));
        let end = match world.ask(asked, Context::default()).await {
            Ok(stream) => stream.collect::<Vec<_>>().await.pop().unwrap(),
            Err(refusal) => Err(refusal),
        };
        let class = end.unwrap_err().class;
        assert_eq!(class, ErrorClass::DeadlineExceeded);
        assert_eq!(start.elapsed().as_millis(), 700);
        assert_eq!(world.node("edge").open.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_is_too_long_ends_the_answer() {
    let world = two();
    let steps = vec![Step::Tokens(0, 1), Step::Hang];
    world.node("edge").script(steps);
    let asked = request(EDGE_FIRST, |r| {
        r.total_ms = Some(500_000);
        r.continuity = Some(Continuity::Fail);
    });
    let stream = world.ask(asked, Context::default()).await.unwrap();
    let events: Vec<_> = stream.collect().await;
    assert_eq!(outline(&events).2.unwrap_err().reason, "STREAM_STALLED");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_drops_the_nodes_at_once_and_blames_nobody() {
    let world = two();
    let edge = world.node("edge");
    edge.script(vec![Step::Tokens(0, 1), Step::Hang]);
    for _ in 0..20 {
        let mut stream = world.open(EDGE_FIRST).await.unwrap();
        assert!(stream.next().await.is_some());
        assert!(stream.next().await.is_some());
        assert_eq!(edge.open.load(Ordering::SeqCst), 1);
        drop(stream);
        assert_eq!(edge.open.load(Ordering::SeqCst), 0);
    }
    edge.script(vec![Step::HangBeforeStream]);
    for _ in 0..20 {
        let opening = tokio::time::timeout(Duration::from_millis(5), world.open(EDGE_FIRST));
        assert!(opening.await.is_err());
    }
    let state = world
        .dispatcher
        .breaker_state(&NodeId::new("edge").unwrap());
    assert_eq!(state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn five_failures_close_a_node_to_everyone_and_a_probe_reopens_it() {
    let world = two();
    let edge = NodeId::new("edge").unwrap();
    let steps = vec![Step::Fail(ErrorClass::Unavailable)];
    world.node("edge").script(steps);
    for _ in 0..8 {
        let events = world.all(EDGE_FIRST).await;
        assert!(outline(&events).2.is_ok());
    }
    assert_eq!(world.node("edge").called(), 5);
    let state = world.dispatcher.breaker_state(&edge);
    assert!(matches!(state, BreakerState::Open { .. }));
    tokio::time::advance(Duration::from_secs(67)).await;
    world.node("edge").script(answer());
    let events = world.all(EDGE_FIRST).await;
    assert_eq!(outline(&events).0, ["edge"]);
    let state = world.dispatcher.breaker_state(&edge);
    assert_eq!(state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn deadlines_shorter_than_promised_blame_nobody() {
    let world = World::new(vec![candidate(Tier::Mec, "edge")]);
    let edge = NodeId::new("edge").unwrap();
    world.node("edge").script(vec![Step::Hang]);
    let ask = |total_ms| request(EDGE_FIRST, move |r| r.total_ms = Some(total_ms));
    for _ in 0..10 {
        let stream = world.ask(ask(1), Context::default()).await.unwrap();
        stream.collect::<Vec<_>>().await;
    }
    assert_eq!(world.dispatcher.breaker_state(&edge), BreakerState::Closed);
    // It had said 20 ms at worst, and had 100.
    for _ in 0..5 {
        let stream = world.ask(ask(100), Context::default()).await.unwrap();
        stream.collect::<Vec<_>>().await;
    }
    let state = world.dispatcher.breaker_state(&edge);
    assert!(matches!(state, BreakerState::Open { .. }), "{state:?}");
}

#[tokio::test(start_paused = true)]
async fn a_first_token_later_than_promised_counts_only_for_a_clients_deadline() {
    for (first_token_ms, broken) in [(None, false), (Some(15), false), (Some(100), true)] {
        let world = World::new(vec![candidate(Tier::Mec, "edge")]);
        let mut steps = vec![Step::Wait(Duration::from_millis(150))];
        steps.extend(answer());
        world.node("edge").script(steps);
        for _ in 0..5 {
            let asked = request(EDGE_FIRST, |r| r.first_token_ms = first_token_ms);
            let stream = world.ask(asked, Context::default()).await.unwrap();
            stream.collect::<Vec<_>>().await;
        }
        let state = world
            .dispatcher
            .breaker_state(&NodeId::new("edge").unwrap());
        assert_eq!(state != BreakerState::Closed, broken, "{first_token_ms:?}");
    }
}
