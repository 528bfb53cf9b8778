//! Streams too slow for their deadline, where nobody says the very same.

use super::fakes::{Step, World, computing, outline, request};
use crate::{Allowance, Options};
use futures::StreamExt;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tiermesh_core::{
    AttemptOutcome, CandidateState, Context, Continuity, ErrorClass, Event, InferError, SeamKind,
    Tier,
};

const MS: Duration = Duration::from_millis(1);
const TOKENS: u32 = 200;

type Events = Vec<Result<Event, InferError>>;

/// `a` has promised more than it does: at this pace it needs 20 s.
fn world(second: CandidateState, options: Options) -> World {
    let mut second = second;
    (second.load, second.state.first_token_ms) = (0.9, 40.0);
    let first = computing(Tier::Mec, "a", "ab", "x");
    let world = World::patient(Tier::Mec, vec![first, second], options);
    let slow = vec![Step::Say(200, 100 * MS), Step::End];
    world.node("a").script(slow);
    let fast = vec![Step::Say(200, 5 * MS), Step::End];
    world.node("b").script(fast);
    world
}

async fn all(world: &World, least: Option<Continuity>) -> Events {
    let asked = request("iot", |r| {
        (r.total_ms, r.max_tokens) = (Some(10_000), Some(TOKENS));
        r.continuity = least;
    });
    let stream = world.ask(asked, Context::default()).await.unwrap();
    stream.collect().await
}

fn seams(events: &Events) -> Vec<SeamKind> {
    let kind = |event: &Result<Event, InferError>| match event {
        Ok(Event::Seam(seam)) => Some(seam.kind),
        _ => None,
    };
    events.iter().filter_map(kind).collect()
}

#[tokio::test(start_paused = true)]
async fn it_moves_by_the_best_kind_that_there_is_and_that_the_client_takes() {
    use SeamKind::{Prefill, SameModel};
    let same = || computing(Tier::Mec, "b", "ab", "y");
    let other = || computing(Tier::Mec, "b", "cd", "y");
    for (second, least, kind) in [
        (same(), None, Some(SameModel)),
        (same(), Some(Continuity::SameModel), Some(SameModel)),
        (other(), Some(Continuity::Prefill), Some(Prefill)),
        (other(), Some(Continuity::Restart), Some(Prefill)),
        (same(), Some(Continuity::Exact), None),
        (other(), Some(Continuity::SameModel), None),
        (same(), Some(Continuity::Fail), None),
    ] {
        let world = world(second, Options::default());
        let events = all(&world, least).await;
        let (_, count, end) = outline(&events);
        assert_eq!(seams(&events), Vec::from_iter(kind), "{least:?}");
        assert_eq!(world.node("b").called(), usize::from(kind.is_some()));
        assert_eq!(world.node("a").open.load(Ordering::SeqCst), 0);
        if kind.is_none() {
            let class = end.unwrap_err().class;
            assert_eq!(class, ErrorClass::DeadlineExceeded, "{least:?}");
            continue;
        }
        let done = end.unwrap();
        assert_eq!(count, u64::from(TOKENS));
        assert!(done.total < 6_000 * MS, "{:?}", done.total);
        let left = &done.attempts[0];
        assert_eq!(left.outcome, AttemptOutcome::Cancelled);
        assert_eq!(left.reason.as_deref(), Some("TOO_SLOW"));
    }
}

#[tokio::test(start_paused = true)]
async fn it_stays_where_nobody_would_be_in_time() {
    for slow in [
        |c: &mut CandidateState| c.state.decode_tok_s = 10.0,
        |c: &mut CandidateState| c.state.first_token_p99_ms = 9_000.0,
        |c: &mut CandidateState| c.state.prefill_tok_s = 1.0,
        |c: &mut CandidateState| c.state.decode_tok_s = f32::NAN,
    ] {
        let world = world(computing(Tier::Mec, "b", "ab", "y"), Options::default());
        world.now("b", slow);
        let events = all(&world, None).await;
        assert!(seams(&events).is_empty());
        assert_eq!(world.node("b").called(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_moved_to_and_fails_sends_it_back() {
    let world = world(computing(Tier::Mec, "b", "ab", "y"), Options::default());
    let fails = vec![Step::Fail(ErrorClass::Unavailable)];
    world.node("b").script(fails);
    world
        .node("a")
        .script(vec![Step::Say(200, 60 * MS), Step::End]);
    let asked = request("iot", |r| {
        (r.total_ms, r.max_tokens) = (Some(11_000), Some(TOKENS));
    });
    world.now("a", |c| c.state.decode_tok_s = 20.0);
    world.now("b", |c| c.state.decode_tok_s = 100.0);
    let stream = world.ask(asked, Context::default()).await.unwrap();
    let events: Events = stream.collect().await;
    let (_, count, _) = outline(&events);
    assert!(count > 100, "{count}");
    assert_eq!(world.node("b").called(), 1, "who failed is not asked again");
    assert_eq!(world.node("a").called(), 2);
}

#[tokio::test(start_paused = true)]
async fn it_is_charged_to_the_allowance_of_rescues() {
    let options = Options {
        hedges: Allowance {
            share_percent: 0,
            floor_per_s: 0,
        },
        ..Options::default()
    };
    let world = world(computing(Tier::Mec, "b", "ab", "y"), options);
    let events = all(&world, None).await;
    assert!(outline(&events).2.is_err());
    assert_eq!(world.node("b").called(), 0);
}
