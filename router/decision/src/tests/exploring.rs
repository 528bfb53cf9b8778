//! A share of the requests learns, some never do; metered devices are spared;
//! hard requests want quality.

use super::world::{Case, candidate, meta, offer, policy, snapshot};
use crate::{Metered, Plan, Policies, Policy, Question, decide};
use proptest::prelude::*;
use std::sync::Arc;
use tiermesh_core::{NetworkKind, NodeId, Privacy, Snapshot, Tier};

/// Three edges of which the last is the worst and the least known.
fn world() -> Snapshot {
    let edge = |name: &str, first_token_ms, samples| {
        let mut edge = candidate(Tier::Mec, name, first_token_ms);
        edge.outlook.samples = samples;
        edge
    };
    snapshot(vec![
        edge("well-known", 10.0, 900.0),
        edge("known", 20.0, 50.0),
        edge("stranger", 40.0, 0.0),
    ])
}

fn with(name: &str, change: impl FnOnce(&mut Policy)) -> Arc<Policy> {
    let mut changed = Policy::clone(&policy(name));
    change(&mut changed);
    Arc::new(changed)
}

fn explored(case: &mut Case, world: &Snapshot, seeds: u64) -> u64 {
    let mut count = 0;
    for seed in 0..seeds {
        case.seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let plan = case.decide(world).unwrap();
        let first = plan.choices[0].candidate(world).node.as_str();
        assert_eq!(plan.explored, first == "stranger", "{first}");
        count += u64::from(plan.explored);
    }
    count
}

#[test]
fn the_share_of_requests_that_explore_is_the_policys() {
    const SEEDS: u64 = 20_000;
    for share in [0.01, 0.05, 0.25, 0.5] {
        let mut case = Case::new(with("interactive", |p| p.explore = share));
        let count = explored(&mut case, &world(), SEEDS) as f64;
        let expected = share * SEEDS as f64;
        // Four deviations of a binomial count.
        let off = 4.0 * (expected * (1.0 - share)).sqrt();
        assert!((count - expected).abs() < off, "{share}: {count}");
    }
}

#[test]
fn built_in_policies_explore_with_nobody_who_drives_or_is_ill() {
    for name in ["automotive", "healthcare"] {
        assert_eq!(policy(name).explore, 0.0, "{name}");
        let mut case = Case::new(policy(name));
        assert_eq!(explored(&mut case, &world(), 5_000), 0, "{name}");
    }
}

#[test]
fn who_would_be_late_is_not_explored() {
    let mut case = Case::new(with("interactive", |p| p.explore = 0.5));
    case.meta = meta(|raw| raw.first_token_ms = Some(60));
    let mut world = world();
    world.candidates[2].state.first_token_ms = 500.0;
    world.candidates[2].state.first_token_p99_ms = 600.0;
    for seed in 0..2_000 {
        case.seed = seed;
        let plan = case.decide(&world).unwrap();
        let first = plan.choices[0].candidate(&world).node.as_str();
        assert_ne!(first, "stranger");
    }
}

proptest! {
    #[test]
    fn exploring_reorders_a_plan_and_adds_nobody(
        seed in any::<u64>(),
        samples in proptest::collection::vec(0.0_f32..1e3, 3),
        private in any::<bool>(),
    ) {
        let mut world = world();
        for (candidate, samples) in world.candidates.iter_mut().zip(samples) {
            candidate.outlook.samples = samples;
        }
        world.candidates.push(candidate(Tier::Cloud, "region", 5.0));
        let plan = |share: f64| -> Plan {
            let mut case = Case::new(with("interactive", |p| p.explore = share));
            case.seed = seed;
            if private {
                case.meta.privacy = Privacy::Edge;
            }
            case.decide(&world).unwrap()
        };
        let (never, often) = (plan(0.0), plan(0.5));
        let places = |plan: &Plan| {
            let mut places: Vec<_> = plan.choices.iter().map(|c| c.index).collect();
            places.sort_unstable();
            places
        };
        prop_assert_eq!(places(&never), places(&often));
        prop_assert!(!never.explored);
        let least = |plan: &Plan| {
            let samples = plan.choices.iter().map(|c| c.candidate(&world).outlook.samples);
            samples.fold(f32::INFINITY, f32::min)
        };
        if often.explored {
            let first = often.choices[0].candidate(&world).outlook.samples;
            prop_assert_eq!(first, least(&often));
        }
    }
}

#[test]
fn a_metered_device_is_spared_where_the_policy_says_so() {
    let mut phone = candidate(Tier::Device, "phone", 1.0);
    phone.model = Arc::new(offer("small", 0.99, 0.0));
    let world = snapshot(vec![phone, candidate(Tier::Mec, "edge-1", 90.0)]);
    let metered = |rule, own: &str| {
        let mut case = Case::new(with("gaming", |p| p.metered = rule));
        case.meta.device.network = Some(NetworkKind::Metered);
        case.own = NodeId::new(own).unwrap();
        case
    };
    assert_eq!(
        metered(Metered::Allow, "gateway").tier(&world),
        Tier::Device
    );
    let spares = metered(Metered::Avoid, "gateway");
    let plan = spares.decide(&world).unwrap();
    assert!(
        plan.choices
            .iter()
            .all(|c| c.candidate(&world).tier != Tier::Device)
    );
    // What a device answers itself crosses no network.
    assert_eq!(metered(Metered::Avoid, "phone").tier(&world), Tier::Device);
    let mut free = metered(Metered::Avoid, "gateway");
    free.meta.device.network = Some(NetworkKind::Unmetered);
    assert_eq!(free.tier(&world), Tier::Device);
    // With nobody else, the error says what to do.
    let alone = snapshot(vec![world.candidates[0].clone()]);
    let none = metered(Metered::Avoid, "gateway")
        .decide(&alone)
        .unwrap_err();
    let error = tiermesh_core::InferError::from(none);
    assert!(error.message.contains("metered_network"), "{error}");
    assert!(error.message.contains("device's own door"), "{error}");
    assert_eq!(policy("batch").metered, Metered::Avoid);
}

#[test]
fn what_leaves_a_metered_device_has_fewer_points_for_energy() {
    let world = snapshot(vec![candidate(Tier::Mec, "edge-1", 10.0)]);
    let mut case = Case::new(policy("interactive"));
    let points = |case: &Case| case.decide(&world).unwrap().choices[0].points.energy;
    assert_eq!(points(&case), 100.0);
    case.meta.device.network = Some(NetworkKind::Metered);
    assert_eq!(points(&case), 50.0);
}

#[test]
fn hard_requests_want_quality_as_far_as_the_policy_says() {
    let mut good = candidate(Tier::Mec, "good", 60.0);
    good.model = Arc::new(offer("large", 0.95, 0.5));
    let mut cheap = candidate(Tier::Mec, "cheap", 50.0);
    cheap.model = Arc::new(offer("small", 0.55, 0.0));
    let world = snapshot(vec![good, cheap]);
    let first = |policy: &Arc<Policy>, complexity: Option<f64>| {
        let case = Case::new(Arc::clone(policy));
        let question = Question {
            complexity,
            ..case.question()
        };
        let plan = decide(&question, &world).unwrap();
        assert!((0.0..=100.0).contains(&plan.choices[0].score));
        plan.choices[0].candidate(&world).node.to_string()
    };
    let moved = with("interactive", |p| p.complexity = 1.0);
    assert_eq!(first(&moved, Some(0.0)), "cheap");
    assert_eq!(first(&moved, Some(1.0)), "good");
    let unmoved = with("interactive", |p| p.complexity = 0.0);
    let usual = first(&unmoved, None);
    for complexity in [0.0, 0.5, 1.0, f64::NAN, -7.0, f64::INFINITY] {
        assert_eq!(first(&unmoved, Some(complexity)), usual);
    }
    // Half-way hard is as if nobody knew; so is what is no number.
    for complexity in [0.5, f64::NAN, f64::INFINITY, -1.0] {
        assert_eq!(first(&moved, Some(complexity)), usual, "{complexity}");
    }
    for builtin in Policies::builtin().iter() {
        assert!((0.0..=1.0).contains(&builtin.complexity));
    }
}
