//! Order, fallbacks, ties, late candidates, and what a refusal says.

use super::world::{Case, NOW, candidate, meta, offer, policy, snapshot};
use crate::Policies;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    BreakerState, Destination, ErrorClass, InferError, ModelId, NodeId, PermitScope, Privacy,
    Reason, Region, Snapshot, Task, Tier, UserId, Via,
};

fn three_tiers() -> Snapshot {
    snapshot(vec![
        candidate(Tier::Device, "phone", 20.0),
        candidate(Tier::Mec, "edge-1", 10.0),
        candidate(Tier::Cloud, "region", 80.0),
    ])
}

fn refused(case: &Case, world: &Snapshot) -> InferError {
    case.decide(world).unwrap_err().into()
}

#[test]
fn fallbacks_are_four_at_most_reach_every_tier_and_repeat_no_node() {
    let case = Case::new(policy("interactive"));
    let mut world = three_tiers();
    for n in 0..40_u8 {
        let mut edge = candidate(Tier::Mec, &format!("edge-{}", n % 20), 5.0);
        edge.model = Arc::new(offer(&format!("m{n}"), 0.95, 0.0));
        world.candidates.push(edge);
    }
    let plan = case.decide(&world).unwrap();
    assert_eq!(plan.choices.len(), 5);
    let at = |position: usize| plan.choices[position].candidate(&world);
    assert_eq!(at(0).tier, Tier::Mec);
    for tier in Tier::ALL {
        assert!((0..5).any(|position| at(position).tier == tier), "{tier}");
    }
    for a in 0..5 {
        for b in 0..a {
            assert_ne!(at(a).node, at(b).node);
        }
    }
}

#[test]
fn a_tie_is_broken_by_the_seed_and_not_by_place() {
    let mut case = Case::new(policy("interactive"));
    let edges = |names: [&str; 4]| snapshot(names.map(|n| candidate(Tier::Mec, n, 5.0)).to_vec());
    let one = edges(["a", "b", "c", "d"]);
    let other = edges(["c", "d", "b", "a"]);
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..64 {
        case.seed = seed;
        let first = |world: &Snapshot| {
            let plan = case.decide(world).unwrap();
            plan.choices[0].candidate(world).node.clone()
        };
        assert_eq!(first(&one), first(&other));
        seen.insert(first(&one));
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn a_deadline_nobody_meets_takes_the_fastest_and_says_so() {
    let mut case = Case::new(policy("gaming"));
    case.meta = meta(|r| r.first_token_ms = Some(1));
    let world = three_tiers();
    let plan = case.decide(&world).unwrap();
    assert!(plan.late);
    assert_eq!(plan.choices[0].candidate(&world).node.as_str(), "edge-1");
    let summary = plan.summary(&case.question(), &world, 0);
    assert!(summary.reasons.iter().any(|record| {
        matches!(record.reason, Reason::DeadlineInfeasible { .. })
            && record.node.as_ref() == Some(&summary.node)
    }));
}

#[test]
fn a_clients_deadline_removes_whoever_would_miss_it() {
    let mut case = Case::new(policy("gaming"));
    case.meta = meta(|r| r.first_token_ms = Some(30));
    let world = three_tiers();
    let plan = case.decide(&world).unwrap();
    assert!(!plan.late);
    assert_eq!(plan.choices.len(), 1);
    assert_eq!(plan.choices[0].candidate(&world).node.as_str(), "edge-1");
}

#[test]
fn a_policy_may_rather_have_no_answer_than_a_late_one() {
    let strict = include_str!("../../policies/builtin.toml")
        .replace("deadline = \"steer\"", "deadline = \"require\"");
    let policies = Policies::parse(&strict).unwrap();
    let gaming = policies.require(&"gaming".parse().unwrap()).unwrap();
    let world = snapshot(vec![candidate(Tier::Device, "phone", 200.0)]);
    let error = refused(&Case::new(Arc::clone(gaming)), &world);
    assert_eq!(error.class, ErrorClass::DeadlineExceeded);
    assert!(error.message.contains("deadline_ms"), "{error}");
}

#[test]
fn a_summary_has_values_and_the_point_of_the_log() {
    let mut case = Case::new(policy("healthcare"));
    case.meta = meta(|_| {});
    let world = three_tiers();
    let plan = case.decide(&world).unwrap();
    let summary = plan.summary(&case.question(), &world, 0);
    assert_eq!((summary.epoch, summary.sequence), (7, 11));
    assert_eq!(summary.tier, Tier::Mec);
    assert_eq!(summary.fallbacks[0].node.as_str(), "phone");
    assert_eq!(summary.scores[Tier::Cloud as usize].score, 0.0);
    assert!((0.0..=1.0).contains(&summary.confidence));
    let codes: Vec<_> = summary.reasons.iter().map(|r| r.reason.code()).collect();
    assert!(codes.contains(&"privacy_forbids"), "{codes:?}");
    assert!(codes.contains(&"preference"), "{codes:?}");
}

type Change = fn(&mut Case, &mut Snapshot);
/// What leaves nobody, and what the refusal says.
const REMOVED: &[(Change, ErrorClass, &str, &str)] = &[
    (
        |case, _| case.meta = meta(|r| r.model = "absent".into()),
        ErrorClass::NotFound,
        "MODEL_NOT_FOUND",
        "large, small",
    ),
    (
        |case, _| case.context.model = Some(ModelId::new("gone").unwrap()),
        ErrorClass::NotFound,
        "MODEL_NOT_FOUND",
        "`gone`",
    ),
    (
        |case, _| case.meta.task = Task::Embed,
        ErrorClass::NotFound,
        "MODEL_NOT_FOUND",
        "task",
    ),
    (
        |case, _| case.meta.content_bytes = 200_000,
        ErrorClass::InvalidArgument,
        "INVALID_FIELD",
        "max_tokens",
    ),
    (
        |case, world| {
            case.meta.privacy = Privacy::Device;
            world.candidates.remove(0);
        },
        ErrorClass::Forbidden,
        "PERMIT_REFUSED",
        "privacy `device`",
    ),
    (
        |case, _| case.meta.residency = Some(Region::new("mars").unwrap()),
        ErrorClass::Forbidden,
        "PERMIT_REFUSED",
        "residency",
    ),
    (
        |case, world| {
            case.meta.user_id = UserId::new("bob").unwrap();
            world.candidates.truncate(1);
        },
        ErrorClass::Forbidden,
        "PERMIT_REFUSED",
        "owner",
    ),
    (
        |case, _| case.context.scope = PermitScope::NONE,
        ErrorClass::Forbidden,
        "PERMIT_REFUSED",
        "scope_forbids 3",
    ),
    (
        |_, world| world.candidates.clear(),
        ErrorClass::Unavailable,
        "NO_CANDIDATE",
        "no node",
    ),
    (
        |case, _| case.context.deadline.total = Some(NOW),
        ErrorClass::DeadlineExceeded,
        "DEADLINE_EXCEEDED",
        "deadline_ms",
    ),
];

#[test]
fn every_limit_removes_and_is_named() {
    for (change, class, code, said) in REMOVED {
        let (mut case, mut world) = (Case::new(policy("interactive")), three_tiers());
        change(&mut case, &mut world);
        let error = refused(&case, &world);
        assert_eq!((error.class, error.reason), (*class, *code), "{error}");
        assert!(error.message.contains(said), "`{said}` is not in: {error}");
    }
}

#[test]
fn only_waiting_helps_when_credit_and_breakers_removed_the_rest() {
    let case = Case::new(policy("healthcare"));
    let mut world = three_tiers();
    world.candidates[0].breaker = BreakerState::Open {
        retry_in: Duration::from_millis(900),
    };
    world.candidates[1].breaker = BreakerState::Open {
        retry_in: Duration::from_millis(40_000),
    };
    let error = refused(&case, &world);
    assert_eq!(error.class, ErrorClass::Exhausted);
    assert_eq!(error.retry_after, Some(Duration::from_millis(900)));
    world.candidates[1].breaker = BreakerState::Closed;
    world.candidates[1].credits_free = 0;
    let error = refused(&case, &world);
    assert_eq!(error.retry_after, Some(Duration::from_millis(250)));
}

#[test]
fn a_transit_must_be_allowed_to_see_the_content_too() {
    let mut case = Case::new(policy("healthcare"));
    let mut far = candidate(Tier::Mec, "edge-2", 5.0);
    far.transit = Some(Destination {
        tier: Tier::Cloud,
        region: None,
        node: NodeId::new("gateway").unwrap(),
        owner: None,
    });
    let world = snapshot(vec![far]);
    assert_eq!(refused(&case, &world).class, ErrorClass::Forbidden);
    case.policy = policy("interactive");
    assert!(case.decide(&world).is_ok());
    case.context.scope = PermitScope::only(Tier::Mec);
    assert_eq!(refused(&case, &world).class, ErrorClass::Forbidden);
}

#[test]
fn nobody_is_asked_twice_and_the_own_engine_is_always_in_scope() {
    let mut case = Case::new(policy("interactive"));
    case.own = NodeId::new("edge-1").unwrap();
    case.context.scope = PermitScope::NONE;
    let hops = ["phone", "region"].map(|hop| NodeId::new(hop).unwrap());
    case.context.via = Via::from_hops(hops).unwrap();
    let world = three_tiers();
    let plan = case.decide(&world).unwrap();
    assert_eq!(plan.choices.len(), 1);
    assert_eq!(plan.choices[0].candidate(&world).node, case.own);
    case.context.scope = PermitScope::ALL;
    let plan = case.decide(&world).unwrap();
    assert_eq!(plan.choices.len(), 1);
}

#[test]
fn a_plan_remembers_few_of_the_removed_and_counts_all() {
    let mut case = Case::new(policy("healthcare"));
    case.meta = meta(|r| r.model = "small".into());
    let mut world = three_tiers();
    for n in 0..500 {
        world
            .candidates
            .push(candidate(Tier::Cloud, &format!("c{n}"), 9.0));
    }
    let plan = case.decide(&world).unwrap();
    assert_eq!(plan.counts.iter().sum::<u32>(), 501);
    assert!(plan.removed.len() <= 16);
}
