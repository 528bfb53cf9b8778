//! Requests wait at the gateway for a slot of any node that would do.

use super::fakes::{Step, World, candidate, outline, request};
use super::remembering::{id, with_slots};
use crate::Memory;
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    CandidateState, Context, Event, EventStream, Infer as _, Reason, Refusal, Tier, Usd,
};

const ANSWER: Duration = Duration::from_millis(400);

/// Two edges of one slot each, whose answers are known to take 0.4 s, and a
/// cloud that costs something.
async fn mesh() -> (World, Arc<Memory>) {
    beside(vec![candidate(Tier::Cloud, "cloud")]).await
}

/// The two edges, and these nodes.
async fn beside(others: Vec<CandidateState>) -> (World, Arc<Memory>) {
    let edges = ["edge-1", "edge-2"].map(|name| candidate(Tier::Mec, name));
    let nodes = edges.into_iter().chain(others);
    let (world, memory, _) = with_slots(nodes.collect(), 1);
    for name in ["edge-1", "edge-2"] {
        world.node(name).script(vec![
            Step::Tokens(0, 1),
            Step::Wait(ANSWER),
            Step::Tokens(1, 4),
            Step::Done(5),
        ]);
    }
    for n in 0..24 {
        let answer = ask(&world, &format!("teach-{n}"), 2_000).await.unwrap();
        let events: Vec<_> = answer.collect().await;
        assert_ne!(outline(&events).0, ["cloud"]);
    }
    (world, memory)
}

async fn ask(world: &World, id: &str, first_token_ms: u64) -> Result<EventStream, Refusal> {
    let request = request("batch", |raw| {
        raw.request_id = id.into();
        raw.first_token_ms = Some(first_token_ms);
    });
    world.dispatcher.infer(request, Context::default()).await
}

/// The node and how long it was held back, from the first event.
async fn accepted(stream: &mut EventStream) -> (String, Option<f32>) {
    let Some(Ok(Event::Accepted(decision))) = stream.next().await else {
        panic!("it is accepted first");
    };
    let held = decision.reasons.iter().find_map(|r| match r.reason {
        Reason::Held { wait_ms } if r.node.is_none() => Some(wait_ms),
        _ => None,
    });
    (decision.node.to_string(), held)
}

#[tokio::test(start_paused = true)]
async fn whoever_finds_no_slot_waits_for_the_next_at_any_node_like_it() {
    let (world, memory) = mesh().await;
    let mut first = ask(&world, "a", 2_000).await.unwrap();
    let mut second = ask(&world, "b", 2_000).await.unwrap();
    let (a, held) = accepted(&mut first).await;
    assert_eq!(held, None);
    let (b, _) = accepted(&mut second).await;
    assert_ne!(a, b);
    let begun = world.time();
    let (third, ()) = tokio::join!(ask(&world, "c", 2_000), async {
        // The second is done before the first, which nobody could have known.
        let events: Vec<_> = second.collect().await;
        assert!(events.iter().all(Result::is_ok));
    });
    let (c, held) = accepted(&mut third.unwrap()).await;
    assert_eq!(c, b);
    let waited = world.time().since(begun);
    assert!(waited >= ANSWER && waited < ANSWER + Duration::from_millis(30));
    assert!((held.unwrap() - waited.as_secs_f32() * 1e3).abs() < 30.0);
    assert_eq!(memory.snapshot().candidates[0].outlook.held, 0);
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn it_waits_no_longer_than_somebody_else_needs_to_be_in_time() {
    let (world, memory) = mesh().await;
    for name in ["edge-1", "edge-2"] {
        world
            .node(name)
            .script(vec![Step::Say(200, Duration::from_millis(50)), Step::End]);
    }
    let mut long = Vec::new();
    for id in ["a", "b"] {
        let mut stream = ask(&world, id, 2_000).await.unwrap();
        assert_ne!(accepted(&mut stream).await.0, "cloud");
        long.push(stream);
    }
    let begun = world.time();
    let mut third = ask(&world, "c", 2_000).await.unwrap();
    let (node, held) = accepted(&mut third).await;
    let waited = world.time().since(begun);
    assert!(waited < Duration::from_secs(2), "{waited:?}");
    assert!(
        waited > Duration::from_millis(1_500) && held.is_some(),
        "{waited:?} {held:?} {node}"
    );
    assert_eq!(node, "cloud");
    assert_eq!(memory.snapshot().candidates[0].outlook.held, 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_gives_up_its_turn() {
    let (world, memory) = mesh().await;
    let mut open = Vec::new();
    for id in ["a", "b"] {
        let mut stream = ask(&world, id, 2_000).await.unwrap();
        accepted(&mut stream).await;
        open.push(stream);
    }
    let held = || memory.snapshot().candidates[0].outlook.held;
    {
        let waits = ask(&world, "c", 2_000);
        let short = tokio::time::timeout(Duration::from_millis(100), waits);
        let (gone, ()) = tokio::join!(short, async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(held(), 1);
        });
        assert!(gone.is_err());
    }
    assert_eq!(held(), 0);
    // A client that leaves in the middle of its answer leaves its slot.
    let begun = world.time();
    open.pop();
    let mut next = ask(&world, "d", 2_000).await.unwrap();
    assert_ne!(accepted(&mut next).await.0, "cloud");
    assert!(world.time().since(begun) < Duration::from_millis(30));
}

/// An edge whose million tokens cost so much to write.
fn priced(name: &str, dollars: f64) -> CandidateState {
    let mut edge = candidate(Tier::Mec, name);
    Arc::make_mut(&mut edge.model).output_per_million = Usd::from_dollars(dollars).unwrap();
    edge
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_nodes_that_leave_waits_for_the_next_best() {
    let names = ["edge-1", "edge-2", "edge-3", "edge-4"];
    let prices = [0.1, 0.1, 0.4, 0.4];
    let edges = names
        .iter()
        .zip(prices)
        .map(|(name, usd)| priced(name, usd));
    let mut cloud = candidate(Tier::Cloud, "cloud");
    Arc::make_mut(&mut cloud.model).output_per_million = Usd::from_dollars(8.0).unwrap();
    let (world, memory, _) = with_slots(edges.chain([cloud]).collect(), 1);
    for name in names {
        let steps = [Step::Tokens(0, 1), Step::Wait(ANSWER), Step::Tokens(1, 4)];
        let steps = steps.into_iter().chain([Step::Done(5)]);
        world.node(name).script(steps.collect());
    }
    let held = |name: &str| {
        let snapshot = memory.snapshot();
        let mut all = snapshot.candidates.iter();
        all.find(|c| c.node == id(name)).map(|c| c.outlook.held)
    };
    // All four are busy; how long they take is known by then.
    for _ in 0..8 {
        let answers = names.map(|name| ask(&world, name, 2_000));
        for answer in futures::future::join_all(answers).await {
            let _: Vec<_> = answer.unwrap().collect().await;
        }
    }
    let mut open = Vec::new();
    for name in names {
        let mut stream = ask(&world, name, 2_000).await.unwrap();
        let (node, _) = accepted(&mut stream).await;
        open.push((node, stream));
    }
    // The dearer two are taken last.
    let (last, ends_first) = open.pop().unwrap();
    assert!(["edge-3", "edge-4"].contains(&last.as_str()), "{last}");
    let (node, ()) = tokio::join!(
        async {
            let mut stream = ask(&world, "waits", 2_000).await.unwrap();
            accepted(&mut stream).await.0
        },
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!((held("edge-1"), held("edge-3")), (Some(1), Some(0)));
            memory.nodes(|tracker| {
                tracker.leave(&id("edge-1"));
                tracker.leave(&id("edge-2"));
            });
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!((held("edge-1"), held("edge-3")), (None, Some(1)));
            let events: Vec<_> = ends_first.collect().await;
            assert!(events.iter().all(Result::is_ok));
        }
    );
    assert_eq!(node, last);
    assert_eq!(held("edge-3"), Some(0));
}

#[tokio::test(start_paused = true)]
async fn in_a_line_that_is_too_long_nobody_is_turned_away_for_it() {
    let (world, memory) = beside(Vec::new()).await;
    let mut open = Vec::new();
    for id in ["a", "b"] {
        let mut stream = ask(&world, id, 2_000).await.unwrap();
        accepted(&mut stream).await;
        open.push(stream);
    }
    // A slot each 0.2 s: in 2 s not all of these can be in time.
    let answer = async |id: String| {
        let mut stream = ask(&world, &id, 2_000).await.unwrap();
        accepted(&mut stream).await;
        let events: Vec<_> = stream.collect().await;
        assert!(events.iter().all(Result::is_ok));
        world.time()
    };
    let begun = world.time();
    let (mut ended, ()) = tokio::join!(
        futures::future::join_all((0..16).map(|n| answer(format!("many-{n}")))),
        async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(memory.snapshot().candidates[0].outlook.held, 16);
            open.clear();
        }
    );
    ended.sort();
    // Two at a time, one after the other, without a gap.
    for (n, at) in ended.iter().enumerate() {
        let turn = u32::try_from(n / 2 + 1).unwrap();
        let due = Duration::from_millis(300) + turn * ANSWER;
        let late = at.since(begun).saturating_sub(due);
        assert!(late < Duration::from_millis(100), "{n}: {late:?}");
    }
    assert_eq!(memory.snapshot().candidates[0].outlook.held, 0);
}
