//! Answers that go on after their node failed.

use super::fakes::{Step, World, answer, candidate, computing, outline, request};
use crate::Options;
use futures::StreamExt;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tiermesh_core::{
    AttemptOutcome, CandidateState, Context, Continuation, Continuity, ErrorClass, Event,
    InferError, Seam, SeamKind, Speaker, Tier,
};

const MS: Duration = Duration::from_millis(1);
const FEW: Duration = Duration::from_millis(5);
/// `automotive` asks the edges first.
const EDGE_FIRST: &str = "iot";

type Events = Vec<Result<Event, InferError>>;

fn pair(second: CandidateState) -> World {
    let mut second = second;
    // It would be asked second.
    second.load = 0.9;
    second.state.first_token_ms = 40.0;
    World::new(vec![computing(Tier::Mec, "a", "ab", "x"), second])
}

async fn all(world: &World, least: Option<Continuity>) -> Events {
    let asked = request(EDGE_FIRST, |r| {
        r.continuity = least;
        r.max_tokens = Some(64);
    });
    match world.ask(asked, Context::default()).await {
        Ok(stream) => stream.collect().await,
        Err(refusal) => vec![Err(refusal)],
    }
}

fn seams(events: &Events) -> Vec<Seam> {
    let seam = |event: &Result<Event, InferError>| match event {
        Ok(Event::Seam(seam)) => Some(seam.clone()),
        _ => None,
    };
    events.iter().filter_map(seam).collect()
}

/// Every way a node fails after ten tokens.
fn failures() -> Vec<(&'static str, Vec<Step>)> {
    let ten = || Step::Say(10, FEW);
    vec![
        ("dies", vec![ten(), Step::Fail(ErrorClass::Unavailable)]),
        ("errs", vec![ten(), Step::Fail(ErrorClass::Internal)]),
        ("ends", vec![ten()]),
        ("skips", vec![ten(), Step::Tokens(12, 1)]),
        ("repeats", vec![ten(), Step::Tokens(9, 1)]),
        ("hangs", vec![ten(), Step::Hang]),
    ]
}

#[tokio::test(start_paused = true)]
async fn an_answer_goes_on_with_the_very_tokens_however_its_node_fails() {
    for (how, steps) in failures() {
        let world = pair(computing(Tier::Mec, "b", "ab", "x"));
        world.node("a").script(steps);
        world.node("b").script(vec![Step::Say(20, FEW), Step::End]);
        let events = all(&world, Some(Continuity::Exact)).await;
        let (accepted, count, end) = outline(&events);
        assert_eq!((accepted, count), (vec!["a"], 20), "{how}");
        let done = end.unwrap();
        let seams = seams(&events);
        assert_eq!(seams.len(), 1, "{how}");
        assert_eq!(
            (seams[0].seq, seams[0].kind),
            (10, SeamKind::Exact),
            "{how}"
        );
        assert_eq!((seams[0].from.as_str(), seams[0].to.as_str()), ("a", "b"));
        assert_eq!(done.attempts.len(), 2, "{how}");
        let told = world.node("b").context().continuation;
        assert_eq!(told.emitted_ids, (0..10).collect::<Vec<_>>(), "{how}");
        for node in ["a", "b"] {
            assert_eq!(world.node(node).open.load(Ordering::SeqCst), 0, "{how}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_best_kind_that_there_is_is_used_and_never_one_too_weak() {
    let other = || candidate(Tier::Mec, "b");
    use Continuity as Least;
    for (second, least, kind) in [
        (
            computing(Tier::Mec, "b", "ab", "x"),
            None,
            Some(SeamKind::Exact),
        ),
        (
            computing(Tier::Mec, "b", "ab", "y"),
            None,
            Some(SeamKind::SameModel),
        ),
        (
            computing(Tier::Mec, "b", "cd", "y"),
            None,
            Some(SeamKind::Prefill),
        ),
        (other(), None, Some(SeamKind::Prefill)),
        (other(), Some(Least::Restart), Some(SeamKind::Prefill)),
        (other(), Some(Least::SameModel), None),
        (
            computing(Tier::Mec, "b", "ab", "y"),
            Some(Least::SameModel),
            Some(SeamKind::SameModel),
        ),
        (
            computing(Tier::Mec, "b", "ab", "y"),
            Some(Least::Exact),
            None,
        ),
        (
            computing(Tier::Mec, "b", "ab", "x"),
            Some(Least::Fail),
            None,
        ),
    ] {
        let world = pair(second);
        let dies = vec![Step::Say(4, FEW), Step::Fail(ErrorClass::Unavailable)];
        world.node("a").script(dies);
        world.node("b").script(vec![Step::Say(9, FEW), Step::End]);
        let events = all(&world, least).await;
        let (_, count, end) = outline(&events);
        let found: Vec<_> = seams(&events).iter().map(|seam| seam.kind).collect();
        assert_eq!(found, Vec::from_iter(kind), "{least:?}");
        if kind.is_some() {
            assert_eq!(count, 9);
            end.unwrap();
        } else {
            assert_eq!((count, end.unwrap_err().reason), (4, "NODE_LOST"));
            assert_eq!(world.node("b").called(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_model_gets_the_text_and_no_ids_of_a_foreign_vocabulary() {
    let world = pair(candidate(Tier::Mec, "b"));
    let dies = vec![Step::Say(3, FEW), Step::Fail(ErrorClass::Unavailable)];
    world.node("a").script(dies);
    world.node("b").script(vec![Step::Say(5, FEW), Step::End]);
    let events = all(&world, None).await;
    assert_eq!(outline(&events).1, 5);
    let told = world.node("b").context().continuation;
    assert!(told.is_prefill());
    assert_eq!((told.text.as_str(), told.tokens), ("t0 t1 t2 ", 3));
    assert!(told.emitted_ids.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_cannot_go_on_from_a_text_starts_over_for_a_client_that_takes_that() {
    let world = pair(candidate(Tier::Mec, "b"));
    let dies = vec![Step::Say(3, FEW), Step::Fail(ErrorClass::Unavailable)];
    world.node("a").script(dies);
    world.node("b").refuses_texts();
    world.node("b").script(vec![Step::Say(5, FEW), Step::End]);
    let events = all(&world, Some(Continuity::Restart)).await;
    // The client's numbers run on: three it discards, five it keeps.
    assert_eq!(outline(&events).1, 8);
    let seams = seams(&events);
    assert_eq!(seams.len(), 1);
    assert_eq!((seams[0].seq, seams[0].kind), (3, SeamKind::Restart));
    assert!(world.node("b").context().continuation.is_empty());
    // A client that does not is told what happened.
    world.node("b").script(vec![Step::Say(5, FEW), Step::End]);
    let events = all(&world, None).await;
    let error = outline(&events).2.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stalls_while_it_reports_is_given_longer_than_one_that_is_silent() {
    for (report_age, at_least, at_most) in [
        (
            Duration::ZERO,
            Duration::from_secs(5),
            Duration::from_secs(6),
        ),
        (Duration::from_secs(1), 500 * MS, 700 * MS),
    ] {
        let world = World::patient(
            Tier::Mec,
            vec![computing(Tier::Mec, "a", "ab", "x"), {
                let mut b = computing(Tier::Mec, "b", "ab", "y");
                b.load = 0.9;
                b
            }],
            Options::default(),
        );
        world.node("a").script(vec![Step::Say(10, FEW), Step::Hang]);
        world.node("b").script(vec![Step::Say(12, FEW), Step::End]);
        let asked = request(EDGE_FIRST, |_| {});
        let mut stream = world.ask(asked, Context::default()).await.unwrap();
        world.now("a", |c| c.report_age = report_age);
        let (mut last, mut gap) = (tokio::time::Instant::now(), Duration::ZERO);
        while let Some(event) = stream.next().await {
            if matches!(event.unwrap(), Event::Tokens { .. }) {
                gap = gap.max(last.elapsed());
                last = tokio::time::Instant::now();
            }
        }
        assert!(gap >= at_least && gap <= at_most, "{report_age:?}: {gap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_is_rescued_by_one_that_is_warmed_and_none_is_heard_twice() {
    for pause in [200 * MS, 300 * MS, 900 * MS] {
        let world = pair(computing(Tier::Mec, "b", "ab", "x"));
        let quiet = vec![
            Step::Say(10, FEW),
            Step::Wait(pause),
            Step::Say(20, FEW),
            Step::End,
        ];
        world.node("a").script(quiet);
        world
            .node("b")
            .script(vec![Step::Say(20, 2 * FEW), Step::End]);
        let start = tokio::time::Instant::now();
        let events = all(&world, None).await;
        let (_, count, end) = outline(&events);
        assert_eq!(count, 20, "{pause:?}");
        end.unwrap();
        let rescued = pause > 250 * MS;
        assert_eq!(world.node("b").called(), usize::from(rescued), "{pause:?}");
        assert!(start.elapsed() < 800 * MS, "{:?}", start.elapsed());
        assert!(seams(&events).len() <= 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_too_slow_for_its_deadline_is_rescued() {
    let world = pair(computing(Tier::Mec, "b", "ab", "x"));
    world
        .node("a")
        .script(vec![Step::Say(200, 100 * MS), Step::End]);
    world.node("b").script(vec![Step::Say(200, FEW), Step::End]);
    let asked = request(EDGE_FIRST, |r| {
        (r.total_ms, r.max_tokens) = (Some(10_000), Some(200));
    });
    let stream = world.ask(asked, Context::default()).await.unwrap();
    let events: Vec<_> = stream.collect().await;
    let (_, count, end) = outline(&events);
    assert_eq!(count, 200);
    let done = end.unwrap();
    assert!(done.total < Duration::from_secs(6), "{:?}", done.total);
    assert_eq!(done.attempts[0].outcome, AttemptOutcome::Cancelled);
    assert_eq!(seams(&events).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn seams_are_bounded() {
    let nodes: Vec<_> = (0..16)
        .map(|n| computing(Tier::Mec, &format!("n{n}"), "ab", "x"))
        .collect();
    let world = World::new(nodes);
    for (n, node) in world.nodes.values().enumerate() {
        // Each says one token more than has been said, and dies.
        let _ = n;
        node.dies_after_one();
    }
    let events = all(&world, None).await;
    let (_, count, end) = outline(&events);
    assert_eq!(end.unwrap_err().reason, "NODE_LOST");
    assert_eq!(seams(&events).len(), 8);
    assert_eq!(count, 9);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_goes_on_counting_over_a_seam() {
    let world = pair(computing(Tier::Mec, "b", "ab", "x"));
    let dies = vec![Step::Say(4, 100 * MS), Step::Fail(ErrorClass::Unavailable)];
    world.node("a").script(dies);
    world
        .node("b")
        .script(vec![Step::Say(90, 100 * MS), Step::End]);
    let asked = request(EDGE_FIRST, |r| r.total_ms = Some(900));
    let start = tokio::time::Instant::now();
    let stream = world.ask(asked, Context::default()).await.unwrap();
    let events: Vec<_> = stream.collect().await;
    let error = outline(&events).2.unwrap_err();
    assert_eq!(error.class, ErrorClass::DeadlineExceeded);
    assert_eq!(start.elapsed(), 900 * MS);
}

#[tokio::test(start_paused = true)]
async fn the_end_counts_every_part_once_and_tells_the_undisturbed_usage() {
    let price = |node: &str| {
        let mut c = computing(Tier::Mec, node, "ab", "x");
        let mut offer = tiermesh_core::ModelOffer::clone(&c.model);
        offer.output_per_million = tiermesh_core::Usd::from_dollars(1.0).unwrap();
        c.model = std::sync::Arc::new(offer);
        c
    };
    let mut second = price("b");
    second.load = 0.9;
    let world = World::new(vec![price("a"), second]);
    let dies = vec![Step::Say(4, FEW), Step::Fail(ErrorClass::Unavailable)];
    world.node("a").script(dies);
    world.node("b").script(vec![Step::Say(10, FEW), Step::End]);
    let events = all(&world, None).await;
    let done = outline(&events).2.unwrap();
    assert_eq!(done.usage.output_tokens, 10);
    // Ten tokens at a dollar a million: a thousand billionths each.
    assert_eq!(done.cost.as_nanos(), 10_000);
}

#[tokio::test(start_paused = true)]
async fn before_the_first_token_a_full_fleet_is_waited_for_a_bounded_time() {
    let mut full = candidate(Tier::Mec, "b");
    full.credits_free = 0;
    let world = World::new(vec![candidate(Tier::Mec, "a"), full]);
    let breaks = vec![Step::Wait(50 * MS), Step::Fail(ErrorClass::Unavailable)];
    world.node("a").script(breaks.clone());
    world.node("b").script(answer());
    // The other edge gets its credit back while the request looks for a place.
    let stream = world.open(EDGE_FIRST).await.unwrap();
    let (events, ()) = tokio::join!(stream.collect::<Vec<_>>(), async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        world.now("b", |c| c.credits_free = 1);
    });
    let (accepted, _, end) = outline(&events);
    assert_eq!(accepted, ["a", "b"]);
    assert_eq!(end.unwrap().attempts.len(), 2);
    // And when it never does, the request ends, and says when to come back.
    world.now("b", |c| c.credits_free = 0);
    let start = tokio::time::Instant::now();
    let events = world.all(EDGE_FIRST).await;
    let error = outline(&events).2.unwrap_err();
    assert!(error.retry_after.is_some(), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_elsewhere_goes_on_where_its_model_is() {
    let world = World::new(vec![
        computing(Tier::Mec, "a", "ab", "y"),
        computing(Tier::Mec, "b", "ab", "x"),
    ]);
    for node in ["a", "b"] {
        world.node(node).script(vec![Step::Say(8, FEW), Step::End]);
    }
    let speaker = computing(Tier::Mec, "gone", "ab", "x").model;
    let context = Context {
        continuation: Continuation {
            text: "t0 t1 t2 ".into(),
            speaker: Some(Speaker {
                model: Some(speaker.id.clone()),
                digest: speaker.digest.clone(),
                numerics_id: speaker.numerics_id.clone(),
            }),
            ..Continuation::of_ids(vec![0, 1, 2])
        },
        ..Context::default()
    };
    let asked = request(EDGE_FIRST, |_| {});
    let stream = world.ask(asked, context).await.unwrap();
    let events: Vec<_> = stream.collect().await;
    assert_eq!(world.node("a").called(), 0);
    let firsts: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Ok(Event::Tokens { first_seq, .. }) => Some(*first_seq),
            _ => None,
        })
        .collect();
    assert_eq!(firsts, [3, 4, 5, 6, 7]);
}
