//! Policies and privacy at the dispatcher.

use super::fakes::{Step, World, candidate, request};
use futures::StreamExt;
use proptest::prelude::*;
use tiermesh_core::{
    Context, DecisionSummary, ErrorClass, Explain, Privacy, Tier, UserId, privacy,
};
use tiermesh_decision::Policies;

fn explain(world: &World, policy: &str) -> Result<DecisionSummary, tiermesh_core::Refusal> {
    let asked = request(policy, |_| {});
    world.dispatcher.explain(asked.meta(), &Context::default())
}

#[tokio::test(start_paused = true)]
async fn an_unknown_policy_is_named_with_the_allowed_ones() {
    let world = World::new(vec![candidate(Tier::Mec, "edge")]);
    let error = world.open("gamign").await.err().unwrap();
    assert_eq!(
        (error.class, error.reason),
        (ErrorClass::NotFound, "POLICY_NOT_FOUND")
    );
    for name in Policies::builtin().names() {
        assert!(error.message.contains(name.as_str()), "{error}");
    }
    assert_eq!(explain(&world, "gamign").unwrap_err(), error);
}

#[tokio::test(start_paused = true)]
async fn other_policies_can_be_put_in_force() {
    let world = World::new(vec![candidate(Tier::Mec, "edge")]);
    let text = include_str!("../../../decision/policies/builtin.toml");
    let text = text.replace("[policy.gaming]", "[policy.npc]");
    world
        .dispatcher
        .set_policies(Policies::parse(&text).unwrap());
    assert!(explain(&world, "npc").is_ok());
    assert!(explain(&world, "gaming").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_policys_privacy_travels_with_the_request() {
    let world = World::new(vec![candidate(Tier::Mec, "edge")]);
    world.all("healthcare").await;
    let calls = world.node("edge").calls.lock().unwrap();
    assert_eq!(calls[0].0, Privacy::Edge);
}

#[tokio::test(start_paused = true)]
async fn content_that_may_not_be_here_is_sent_to_a_nearer_door() {
    let world = World::at(Tier::Cloud, vec![candidate(Tier::Mec, "edge")]);
    let error = world.open("healthcare").await.err().unwrap();
    assert_eq!(
        (error.class, error.reason),
        (ErrorClass::Forbidden, "WRONG_DOOR")
    );
    assert_eq!(world.node("edge").called(), 0);
    // Without content, one may ask.
    assert_eq!(explain(&world, "healthcare").unwrap().tier, Tier::Mec);
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Refuse(ErrorClass::Exhausted)),
        Just(Step::Refuse(ErrorClass::Unavailable)),
        Just(Step::Fail(ErrorClass::Internal)),
        Just(Step::HangBeforeStream),
        Just(Step::Hang),
        Just(Step::Tokens(0, 1)),
        Just(Step::Tokens(1, 1)),
        Just(Step::Done(1)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// However nodes fail, no node is ever handed content it may not see, and
    /// every stream ends.
    #[test]
    fn no_failure_leads_to_a_forbidden_node(
        scripts in proptest::collection::vec(
            (0..3_usize, any::<bool>(), proptest::collection::vec(step(), 0..4)), 1..10,
        ),
        policy in 0..6_usize,
        limit in 0..3_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let candidates: Vec<_> = scripts.iter().enumerate().map(|(n, (tier, mine, _))| {
                let mut c = candidate(Tier::ALL[*tier], &format!("n{n}"));
                if !mine {
                    c.owner = c.owner.map(|_| UserId::new("bob").unwrap());
                }
                c
            }).collect();
            let world = World::at(Tier::Device, candidates.clone());
            for (n, script) in scripts.iter().enumerate() {
                world.node(&format!("n{n}")).script(script.2.clone());
            }
            let policies = Policies::builtin();
            let policy = policies.iter().nth(policy).unwrap();
            let asked = request(policy.name.as_str(), |r| {
                r.privacy = Some([Privacy::Device, Privacy::Edge, Privacy::Any][limit]);
            });
            let mut meta = asked.meta().clone();
            meta.privacy = meta.privacy.min(policy.privacy);
            for _ in 0..7 {
                if let Ok(stream) = world.ask(asked.clone(), Context::default()).await {
                    stream.collect::<Vec<_>>().await;
                }
            }
            for c in &candidates {
                let allowed = privacy::may_see(&meta, &c.destination()).is_ok();
                assert!(allowed || world.nodes[&c.node].called() == 0, "{c:?}");
            }
        });
    }
}
