//! What a receiver is told, and what of its own decision the client hears.

use super::fakes::{Step, World, answer, candidate, outline, request};
use std::time::Duration;
use tiermesh_core::{
    CandidateState, Context, DecisionSummary, Destination, Event, Explain, ModelId, NodeId,
    PermitScope, Tier, Via,
};

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn behind_gateway(mut candidate: CandidateState) -> CandidateState {
    candidate.transit = Some(Destination {
        tier: Tier::Cloud,
        region: None,
        node: node("gateway"),
        owner: None,
    });
    candidate
}

fn remote_decision(world: &World, tier: Tier, name: &str) -> Box<DecisionSummary> {
    let asked = request("automotive", |_| {});
    let ours = world
        .dispatcher
        .explain(asked.meta(), &Context::default())
        .unwrap();
    Box::new(DecisionSummary {
        tier,
        node: node(name),
        reasons: Vec::new(),
        first_token_ms: 5.0,
        epoch: 99,
        ..ours
    })
}

#[tokio::test(start_paused = true)]
async fn a_direct_node_answers_itself_and_hears_of_the_hop() {
    let world = World::new(vec![candidate(Tier::Mec, "edge")]);
    let via = Via::from_hops([node("phone")]).unwrap();
    let context = Context {
        via,
        ..Context::default()
    };
    let asked = request("automotive", |_| {});
    drop(world.ask(asked, context).await.unwrap());
    let told = world.node("edge").context();
    assert_eq!(told.scope, PermitScope::NONE);
    assert_eq!(told.model, Some(ModelId::new("m").unwrap()));
    assert_eq!(told.via.hops(), [node("phone"), node("here")]);
    let left = told
        .deadline
        .total
        .unwrap()
        .since(told.deadline.first_token.unwrap());
    assert_eq!(left, Duration::from_millis(20_000 - 100));
}

#[tokio::test(start_paused = true)]
async fn the_own_engine_is_no_hop_and_is_asked_whatever_the_scope() {
    let world = World::new(vec![
        candidate(Tier::Mec, "here"),
        candidate(Tier::Mec, "edge"),
    ]);
    let context = Context {
        scope: PermitScope::NONE,
        ..Context::default()
    };
    let asked = request("automotive", |_| {});
    drop(world.ask(asked, context).await.unwrap());
    assert!(world.node("here").context().via.hops().is_empty());
    assert_eq!(world.node("edge").called(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_here_before_is_refused() {
    let world = World::new(vec![candidate(Tier::Mec, "edge")]);
    let context = Context {
        via: Via::from_hops([node("here")]).unwrap(),
        ..Context::default()
    };
    let refusal = world.ask(request("automotive", |_| {}), context).await;
    assert_eq!(refusal.err().unwrap().reason, "TOO_MANY_HOPS");
}

#[tokio::test(start_paused = true)]
async fn a_transit_may_decide_again_within_the_plans_tiers() {
    let world = World::at(
        Tier::Device,
        vec![
            behind_gateway(candidate(Tier::Mec, "edge-1")),
            behind_gateway(candidate(Tier::Cloud, "region")),
        ],
    );
    let mut theirs = remote_decision(&world, Tier::Mec, "edge-2");
    theirs.fallbacks.clear();
    let mut steps = vec![Step::Accept(theirs)];
    steps.extend(answer());
    world.node("edge-1").script(steps);
    let events = world.all("automotive").await;
    let (accepted, _, end) = outline(&events);
    assert_eq!(accepted, ["edge-2"]);
    // The price is the receiver's, who knows the model that answered.
    assert_eq!(end.unwrap().cost.as_nanos(), 77);
    let Ok(Event::Accepted(decision)) = &events[0] else {
        panic!("{events:?}")
    };
    assert_eq!((decision.epoch, decision.sequence), (1, 2));
    assert_eq!(decision.fallbacks[0].node, node("region"));
    let told = world.node("edge-1").context();
    let both = PermitScope::only(Tier::Mec).with(Tier::Cloud);
    assert_eq!(told.scope, both);
    assert_eq!(told.via.hops(), [node("here")]);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_names_itself_is_not_accepted_twice() {
    let world = World::new(vec![candidate(Tier::Mec, "edge")]);
    let theirs = remote_decision(&world, Tier::Mec, "edge");
    let mut steps = vec![Step::Accept(theirs)];
    steps.extend(answer());
    world.node("edge").script(steps);
    let events = world.all("automotive").await;
    assert_eq!(outline(&events).0, ["edge"]);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_hands_on_what_it_may_not_is_left() {
    let world = World::new(vec![
        candidate(Tier::Mec, "edge"),
        candidate(Tier::Device, "phone"),
    ]);
    let theirs = remote_decision(&world, Tier::Cloud, "region");
    let mut steps = vec![Step::Accept(theirs)];
    steps.extend(answer());
    world.node("edge").script(steps);
    let events = world.all("automotive").await;
    let (accepted, _, end) = outline(&events);
    assert_eq!(accepted, ["edge", "phone"]);
    let reason = end.unwrap().attempts[0].reason.clone();
    assert_eq!(reason.as_deref(), Some("PROTOCOL_VIOLATION"));
}
