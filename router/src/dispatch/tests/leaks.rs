//! Clients that leave at any moment, and nodes that fail in every way.

use super::fakes::{Step, World, computing, request};
use crate::{Allowance, BudgetLimits, HedgeRule, Options, Window};
use futures::StreamExt;
use proptest::prelude::*;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tiermesh_core::{
    BreakerState, CandidateState, Context, Continuation, Continuity, Deadline, ErrorClass,
    ModelDigest, NodeId, NumericsId, Privacy, Speaker, Tier, Usd, UserId, privacy,
};

const MS: Duration = Duration::from_millis(1);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Refuse(ErrorClass::Exhausted)),
        1 => Just(Step::Refuse(ErrorClass::Unavailable)),
        1 => Just(Step::HangBeforeStream),
        1 => Just(Step::Hang),
        2 => Just(Step::Fail(ErrorClass::Internal)),
        2 => Just(Step::Fail(ErrorClass::Unavailable)),
        2 => (1..900_u64).prop_map(|ms| Step::Wait(Duration::from_millis(ms))),
        6 => (1..80_u64, 1..60_u64).prop_map(|(n, ms)| Step::Say(n, MS * ms as u32)),
        // Too slow for the deadlines below.
        3 => (40..60_u64).prop_map(|ms| Step::Say(80, Duration::from_millis(ms))),
        1 => (0..20_u64).prop_map(|seq| Step::Tokens(seq, 1)),
        3 => Just(Step::End),
    ]
}

/// What a client brings that lost its connection: ids or only text, of a
/// model that somebody here may have, and be pinned to.
fn resume() -> impl Strategy<Value = Continuation> {
    (0..40_u64, any::<bool>(), 0..3_usize, 0..3_usize).prop_map(|(has, ids, digest, numerics)| {
        let digest = ["ab", "cd"].get(digest).map(|d| d.repeat(32));
        let numerics = ["x", "y"].get(numerics);
        let said = |n| format!("t{n} ");
        Continuation {
            tokens: has,
            emitted_ids: (0..has).filter(|_| ids).map(|n| n as u32).collect(),
            text: (0..has).map(said).collect(),
            speaker: Some(Speaker {
                model: None,
                digest: digest.map(|d| ModelDigest::new(d).unwrap()),
                numerics_id: numerics.map(|n| NumericsId::new(n).unwrap()),
            }),
        }
    })
}

/// Nodes of every tier, of two owners, of two models computed in two ways.
fn node() -> impl Strategy<Value = (usize, bool, bool, bool, Vec<Step>)> {
    let script = proptest::collection::vec(step(), 0..6);
    (
        0..3_usize,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        script,
    )
}

fn world(nodes: &[(usize, bool, bool, bool, Vec<Step>)]) -> (World, Vec<CandidateState>) {
    let candidates: Vec<_> = nodes
        .iter()
        .enumerate()
        .map(|(n, (tier, mine, same, alike, _))| {
            let (digest, numerics) = (
                ["ab", "cd"][usize::from(*same)],
                ["x", "y"][usize::from(*alike)],
            );
            let mut c = computing(Tier::ALL[*tier], &format!("n{n}"), digest, numerics);
            if !mine {
                c.owner = c.owner.map(|_| UserId::new("bob").unwrap());
            }
            c
        })
        .collect();
    let options = Options {
        // Everything that is asked beside another is, as often as possible.
        hedge: HedgeRule {
            always: true,
            after: Some(5 * MS),
            tiers: Vec::new(),
        },
        hedges: Allowance {
            share_percent: 100,
            floor_per_s: 100,
        },
        budgets: BudgetLimits {
            user: Some(Window {
                most: Usd::from_nanos(u64::MAX / 4),
                per: Duration::from_secs(3_600),
            }),
            ..BudgetLimits::default()
        },
        ..Options::default()
    };
    let world = World::patient(Tier::Device, candidates.clone(), options);
    for (n, node) in nodes.iter().enumerate() {
        world.node(&format!("n{n}")).script(node.4.clone());
    }
    (world, candidates)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Wherever a client leaves, every node's stream is dropped at once, no
    /// reservation stays, and no breaker's place is held.
    #[test]
    fn a_client_that_leaves_leaves_nothing_behind(
        nodes in proptest::collection::vec(node(), 1..7),
        leaves_after in proptest::collection::vec((0..4_000_u64, 0..40_usize), 1..6),
    ) {
        runtime().block_on(async {
            let (world, _) = world(&nodes);
            for (ms, events) in leaves_after {
                let asked = request("automotive", |r| r.max_tokens = Some(24));
                let reading = async {
                    let Ok(stream) = world.ask(asked, Context::default()).await else {
                        return;
                    };
                    stream.take(events).collect::<Vec<_>>().await;
                };
                let _ = tokio::time::timeout(MS * ms as u32, reading).await;
                for (name, node) in &world.nodes {
                    assert_eq!(node.open.load(Ordering::SeqCst), 0, "{name} goes on");
                }
                assert_eq!(world.dispatcher.ledger().open(), 0, "a reservation stays");
            }
            // A breaker that is half-open gives its places to others.
            tokio::time::sleep(Duration::from_secs(70)).await;
            for name in world.nodes.keys() {
                let state = world.dispatcher.breaker_state(&NodeId::new(name.as_str()).unwrap());
                assert!(!matches!(state, BreakerState::Open { .. }), "{name} stays shut");
            }
        });
    }

    /// However nodes fail, and however the answer goes on, nobody is ever
    /// handed content who may not see it, and every stream ends.
    #[test]
    fn no_hedge_retry_or_seam_reaches_a_forbidden_node(
        nodes in proptest::collection::vec(node(), 1..8),
        privacy_level in 0..3_usize,
        least in 0..5_usize,
        policy in prop_oneof![Just("automotive"), Just("healthcare"), Just("iot"), Just("batch")],
        total_ms in proptest::option::of(1_000..4_000_u64),
        resumes in proptest::collection::vec(proptest::option::of(resume()), 4),
    ) {
        runtime().block_on(async {
            let (world, candidates) = world(&nodes);
            let asked = request(policy, |r| {
                r.privacy = Some([Privacy::Device, Privacy::Edge, Privacy::Any][privacy_level]);
                r.continuity = Some([
                    Continuity::Exact,
                    Continuity::SameModel,
                    Continuity::Prefill,
                    Continuity::Restart,
                    Continuity::Fail,
                ][least]);
                r.max_tokens = Some(80);
                r.total_ms = total_ms;
            });
            let mut meta = asked.meta().clone();
            let policies = tiermesh_decision::Policies::builtin();
            meta.privacy = meta.privacy.min(policies.get(&meta.policy).unwrap().privacy);
            for resumed in resumes {
                let deadline = total_ms.map(|ms| world.time() + Duration::from_millis(ms));
                let continuation = resumed.unwrap_or_default();
                let has = continuation.said();
                let context = Context {
                    deadline: Deadline { first_token: None, total: deadline },
                    continuation,
                    ..Context::default()
                };
                if let Ok(stream) = world.ask(asked.clone(), context).await {
                    let within = Duration::from_secs(900);
                    let events = tokio::time::timeout(within, stream.collect::<Vec<_>>()).await;
                    in_order(&events.expect("every stream ends"), has);
                }
            }
            for c in &candidates {
                let allowed = privacy::may_see(&meta, &c.destination()).is_ok();
                assert!(allowed || world.nodes[&c.node].called() == 0, "{c:?}");
            }
        });
    }
}

/// Numbers without a gap or a repetition, seams where they belong, one end.
fn in_order(events: &[Result<tiermesh_core::Event, tiermesh_core::InferError>], has: u64) {
    use tiermesh_core::Event;
    let (mut next, mut ended) = (has, false);
    for event in events {
        assert!(!ended, "something came after the end");
        match event {
            Ok(Event::Tokens { first_seq, items }) => {
                assert_eq!(*first_seq, next);
                next += items.len() as u64;
            }
            Ok(Event::Seam(seam)) => assert_eq!(seam.seq, next),
            Ok(Event::Done(_)) | Err(_) => ended = true,
            Ok(Event::Accepted(_)) => assert_eq!(next, has, "where it is is told before it speaks"),
            Ok(Event::Result(_)) => {}
        }
    }
    assert!(ended);
}
