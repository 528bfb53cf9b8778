//! Requests wait at the gateway for a slot of any node that would do.

use super::fakes::{Step, World, candidate, outline, request};
use super::remembering::with_slots;
use crate::Memory;
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{Context, Event, EventStream, Infer as _, Reason, Refusal, Tier};

const ANSWER: Duration = Duration::from_millis(400);

/// Two edges of one slot each, whose answers are known to take 0.4 s, and a
/// cloud that costs something.
async fn mesh() -> (World, Arc<Memory>) {
    let edges = ["edge-1", "edge-2"].map(|name| candidate(Tier::Mec, name));
    let nodes = edges.into_iter().chain([candidate(Tier::Cloud, "cloud")]);
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
