//! What holds in every world.

use super::world::{Case, NOW, candidate, meta, offer, policy, snapshot};
use crate::Policies;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    BreakerState, CandidateState, Destination, NodeId, Outlook, PermitScope, Privacy, Region,
    Snapshot, Tier, UserId, Via, privacy,
};

fn number() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => 0.0_f32..500.0,
        1 => Just(f32::NAN),
        1 => Just(f32::INFINITY),
        1 => Just(-1.0),
        1 => Just(f32::MAX),
    ]
}

fn share() -> impl Strategy<Value = f32> {
    prop_oneof![12 => 0.0_f32..=1.0, 1 => Just(f32::NAN), 1 => Just(7.0)]
}

fn tier() -> impl Strategy<Value = Tier> {
    (0..3_usize).prop_map(|n| Tier::ALL[n])
}

fn region() -> impl Strategy<Value = Option<Region>> {
    prop_oneof![Just(None), Just(Some("r1")), Just(Some("r2"))]
        .prop_map(|name| name.map(|name| Region::new(name).unwrap()))
}

fn owner() -> impl Strategy<Value = Option<UserId>> {
    prop_oneof![Just(None), Just(Some("ann")), Just(Some("bob"))]
        .prop_map(|name| name.map(|name| UserId::new(name).unwrap()))
}

fn any_candidate() -> impl Strategy<Value = CandidateState> {
    let place = (
        tier(),
        0..12_u8,
        region(),
        owner(),
        proptest::option::of(tier()),
    );
    let numbers = (
        number(),
        number(),
        number(),
        number(),
        number(),
        share(),
        share(),
    );
    let rest = (0..3_u32, 0..50_u64, 0..3_u8, 0.0..20.0_f64, 0..5000_u32);
    (place, numbers, rest).prop_map(|(place, numbers, rest)| {
        let mut c = candidate(place.0, &format!("n{}", place.1), numbers.0);
        (c.region, c.owner) = (place.2, place.3);
        c.transit = place.4.map(|tier| Destination {
            tier,
            region: c.region.clone(),
            node: NodeId::new("hop").unwrap(),
            owner: c.owner.clone(),
        });
        c.state.first_token_p99_ms = numbers.1;
        c.state.prefill_tok_s = numbers.2;
        c.state.decode_tok_s = numbers.3;
        c.rtt_ms = numbers.4;
        if rest.1 % 2 == 0 {
            c.outlook = Outlook {
                slots: 2,
                open: rest.0,
                waiting: rest.0,
                waiting_ms: numbers.1,
                running_ms: numbers.0,
                spread: numbers.2,
                base_ms: numbers.3,
                ratio: numbers.5,
                ratio_sd: numbers.6,
                ..Outlook::default()
            };
        }
        c.load = numbers.5;
        let mut model = offer(if rest.2 == 0 { "a" } else { "b" }, numbers.6, rest.3);
        model.context_tokens = rest.4;
        c.model = Arc::new(model);
        c.credits_free = rest.0;
        c.report_age = Duration::from_secs(rest.1);
        if rest.2 == 1 {
            c.breaker = BreakerState::Open {
                retry_in: Duration::from_secs(1),
            };
        }
        c
    })
}

fn any_case() -> impl Strategy<Value = Case> {
    let privacies = [
        Privacy::Device,
        Privacy::Edge,
        Privacy::Region,
        Privacy::Any,
    ];
    let policies: Vec<_> = Policies::builtin().iter().cloned().collect();
    let limits = (
        0..4_usize,
        region(),
        0..8_u8,
        0..policies.len(),
        any::<u64>(),
    );
    let asked = (
        proptest::option::of(1..400_u64),
        proptest::option::of(1..9_000_u64),
        proptest::option::of(0.0..0.01_f64),
        any::<bool>(),
    );
    (limits, asked).prop_map(move |(limits, asked)| {
        let mut case = Case::new(Arc::clone(&policies[limits.3]));
        case.meta = meta(|r| {
            (r.first_token_ms, r.total_ms, r.max_cost_usd) = (asked.0, asked.1, asked.2);
            if asked.3 {
                r.model = "a".into();
            }
        });
        case.meta.privacy = privacies[limits.0];
        case.meta.residency = limits.1;
        case.context.scope = PermitScope::from_bits(limits.2 | 2);
        case.context.via = Via::from_hops([NodeId::new("n3").unwrap()]).unwrap();
        case.seed = limits.4;
        case
    })
}

fn any_world() -> impl Strategy<Value = Snapshot> {
    proptest::collection::vec(any_candidate(), 0..24).prop_map(snapshot)
}

fn usable(c: &CandidateState) -> bool {
    let s = &c.state;
    [
        c.rtt_ms,
        s.first_token_ms,
        s.first_token_p99_ms,
        s.prefill_tok_s,
        s.decode_tok_s,
    ]
    .iter()
    .all(|v| v.is_finite() && (0.0..1e8).contains(v))
        && (c.outlook.slots == 0
            || [
                c.outlook.waiting_ms,
                c.outlook.running_ms,
                c.outlook.spread,
                c.outlook.base_ms,
                c.outlook.ratio,
                c.outlook.ratio_sd,
            ]
            .iter()
            .all(|v| v.is_finite() && *v >= 0.0))
        && (0.0..=1.0).contains(&c.load)
        && (0.0..=1.0).contains(&c.model.quality)
}

proptest! {
    #[test]
    fn no_plan_names_a_forbidden_candidate(case in any_case(), world in any_world()) {
        let Ok(plan) = case.decide(&world) else { return Ok(()); };
        let mut tight = case.meta.clone();
        tight.privacy = tight.privacy.min(case.policy.privacy);
        prop_assert!(plan.choices.len() <= 5);
        for choice in &plan.choices {
            let c = choice.candidate(&world);
            prop_assert!(usable(c), "{c:?}");
            prop_assert!(privacy::may_see(&tight, &c.destination()).is_ok());
            prop_assert!(case.context.scope.contains(c.tier));
            if let Some(hop) = &c.transit {
                prop_assert!(privacy::may_see(&tight, hop).is_ok());
                prop_assert!(case.context.scope.contains(hop.tier));
            }
            prop_assert!(!case.context.via.contains(&c.node));
            prop_assert!(case.meta.model.matches(&c.model.id, &c.model.family));
            prop_assert!(c.credits_free > 0);
            prop_assert_eq!(c.breaker, BreakerState::Closed);
            prop_assert!(c.report_age <= Duration::from_secs(35));
            let limit = case.meta.max_cost;
            prop_assert!(limit.is_none_or(|limit| choice.estimate.cost <= limit));
            prop_assert!(c.model.context_tokens >= 64);
            prop_assert!((0.0..=100.0).contains(&choice.score), "{}", choice.score);
        }
    }

    #[test]
    fn the_same_input_gives_the_same_plan(case in any_case(), world in any_world()) {
        prop_assert_eq!(case.decide(&world), case.decide(&world.clone()));
    }

    #[test]
    fn a_strictly_better_node_never_makes_the_outcome_worse(
        case in any_case(),
        world in any_world(),
        model in 0..24_usize,
    ) {
        let Ok(before) = case.decide(&world) else { return Ok(()); };
        let from = before.choices.get(model % before.choices.len()).unwrap();
        let mut better = from.candidate(&world).clone();
        better.node = NodeId::new("better").unwrap();
        better.transit = None;
        better.state.first_token_ms /= 2.0;
        better.state.first_token_p99_ms /= 2.0;
        better.state.decode_tok_s = (better.state.decode_tok_s * 2.0).max(20.0);
        better.rtt_ms /= 2.0;
        better.load /= 2.0;
        better.outlook.base_ms /= 2.0;
        better.outlook.waiting_ms /= 2.0;
        better.outlook.running_ms /= 2.0;
        let mut more = world.clone();
        more.candidates.push(better);
        let after = case.decide(&more).unwrap();
        let (was, is) = (&before.choices[0], &after.choices[0]);
        prop_assert!(before.late || !after.late);
        if before.late == after.late && !after.late {
            prop_assert!(is.score >= was.score, "{was:?} {is:?}");
        }
    }

    #[test]
    fn a_decision_has_an_answer_or_a_reason(case in any_case(), world in any_world()) {
        if let Err(none) = case.decide(&world) {
            prop_assert_eq!(none.constraint.is_none(), world.candidates.is_empty());
            let error = tiermesh_core::InferError::from(none);
            prop_assert!(error.message.len() < 2_000);
        }
    }
}

#[test]
fn limits_come_out_the_same_once_they_are_in_the_context() {
    let case = Case::new(policy("gaming"));
    let first = crate::Limits::of(&case.meta, &case.context, &case.policy, NOW);
    let mut context = case.context.clone();
    context.deadline = first.deadline;
    let later = NOW + Duration::from_millis(30);
    assert_eq!(
        crate::Limits::of(&case.meta, &context, &case.policy, later),
        first
    );
}
