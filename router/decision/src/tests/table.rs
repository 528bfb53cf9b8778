//! The policy table of the design, over a grid of plausible numbers, and the
//! same grid with every policy renamed.

use super::world::{Case, candidate, meta, offer, policy, snapshot};
use crate::Policies;
use std::sync::Arc;
use tiermesh_core::{Snapshot, Tier};

/// Healthy, capable worlds: what loopback measures and what a carrier zone
/// and its region do.
fn grid() -> Vec<Snapshot> {
    let mut worlds = Vec::new();
    for mec_ms in [3.0, 10.0, 30.0] {
        for ratio in [0.3, 1.0, 3.0] {
            for (mec_rtt, cloud_rtt) in [(0.2, 0.2), (1.0, 1.0), (5.0, 20.0), (15.0, 150.0)] {
                for cloud_ms in [20.0, 80.0, 400.0] {
                    for loads in [[0.0, 0.7], [0.7, 0.0], [0.3, 0.3], [0.7, 0.7]] {
                        for variant in [0, 1] {
                            let rtt = [mec_rtt, cloud_rtt];
                            let ms = [mec_ms * ratio, mec_ms, cloud_ms];
                            worlds.push(world(ms, rtt, loads, variant));
                        }
                    }
                }
            }
        }
    }
    worlds
}

fn world(ms: [f32; 3], rtt: [f32; 2], loads: [f32; 2], variant: u8) -> Snapshot {
    let mut device = candidate(Tier::Device, "phone", ms[0]);
    let mut edge = candidate(Tier::Mec, "edge-1", ms[1]);
    let mut region = candidate(Tier::Cloud, "region", ms[2]);
    (device.rtt_ms, edge.rtt_ms, region.rtt_ms) = (0.0, rtt[0], rtt[1]);
    (device.load, edge.load) = (loads[0], loads[1]);
    if variant == 1 {
        // A smaller model on a phone that runs on its battery; an edge that
        // has a price, and a cheap cloud.
        device.battery_percent = Some(35);
        device.model = Arc::new(offer("tiny", 0.5, 0.0));
        edge.model = Arc::new(offer("small", 0.65, 0.05));
        region.model = Arc::new(offer("micro", 0.8, 0.1));
    }
    snapshot(vec![region, device, edge])
}

fn without(tier: Tier, world: &Snapshot) -> Snapshot {
    let mut world = world.clone();
    world.candidates.retain(|c| c.tier != tier);
    world
}

#[test]
fn gaming_goes_to_the_device() {
    let case = Case::new(policy("gaming"));
    for world in grid() {
        assert_eq!(case.tier(&world), Tier::Device, "{world:#?}");
    }
}

#[test]
fn gaming_leaves_a_device_that_is_far_too_slow() {
    let case = Case::new(policy("gaming"));
    let world = world([400.0, 15.0, 80.0], [1.0, 20.0], [0.0, 0.0], 0);
    assert_eq!(case.tier(&world), Tier::Mec);
}

#[test]
fn automotive_goes_to_the_edge_and_with_edges_gone_to_the_device() {
    let case = Case::new(policy("automotive"));
    for world in grid() {
        assert_eq!(case.tier(&world), Tier::Mec, "{world:#?}");
        let world = without(Tier::Mec, &world);
        assert_eq!(case.tier(&world), Tier::Device, "{world:#?}");
    }
}

#[test]
fn healthcare_goes_to_the_edge_else_to_the_device_and_never_to_the_cloud() {
    let case = Case::new(policy("healthcare"));
    for world in grid() {
        let plan = case.decide(&world).unwrap();
        let tiers: Vec<_> = plan
            .choices
            .iter()
            .map(|choice| choice.candidate(&world).tier)
            .collect();
        assert_eq!(tiers, [Tier::Mec, Tier::Device], "{world:#?}");
        let only_cloud = without(Tier::Mec, &without(Tier::Device, &world));
        assert!(case.decide(&only_cloud).is_err());
    }
}

#[test]
fn iot_goes_to_the_edge() {
    let case = Case::new(policy("iot"));
    for world in grid() {
        assert_eq!(case.tier(&world), Tier::Mec, "{world:#?}");
    }
}

#[test]
fn interactive_takes_the_best_score() {
    let case = Case::new(policy("interactive"));
    let mut chosen = [0; 3];
    for world in grid() {
        let plan = case.decide(&world).unwrap();
        let best = plan.scores.iter().copied().fold(0.0, f64::max);
        assert_eq!(plan.choices[0].score, best);
        chosen[case.tier(&world) as usize] += 1;
    }
    assert!(chosen.iter().all(|times| *times > 0), "{chosen:?}");
}

#[test]
fn batch_takes_the_cheapest_that_ends_in_time() {
    let mut case = Case::new(policy("batch"));
    case.meta = meta(|r| r.total_ms = Some(30_000));
    for mut world in grid() {
        let plan = case.decide(&world).unwrap();
        let cost = |choice: &crate::Choice| choice.estimate.cost + choice.estimate.energy;
        let first = cost(&plan.choices[0]);
        let others = plan.choices.iter().map(cost);
        assert!(others.into_iter().all(|other| first <= other), "{world:#?}");
        // The cheapest would end too late: the next cheapest is taken.
        let cheapest = plan.choices[0].index;
        world.candidates[cheapest].state.decode_tok_s = 1.0;
        let plan = case.decide(&world).unwrap();
        assert_ne!(plan.choices[0].index, cheapest);
    }
}

#[test]
fn policies_renamed_decide_the_same() {
    let text = include_str!("../../policies/builtin.toml");
    let builtin = Policies::builtin();
    let text = builtin.names().fold(text.to_owned(), |text, name| {
        text.replace(
            &format!("[policy.{name}]"),
            &format!("[policy.{}]", renamed(name.as_str())),
        )
        .replace(
            &format!("\"{name}\""),
            &format!("\"{}\"", renamed(name.as_str())),
        )
    });
    let other = Policies::parse(&text).unwrap();
    for policy in builtin.iter() {
        let name = renamed(policy.name.as_str()).parse().unwrap();
        assert!(builtin.get(&name).is_none());
        let before = Case::new(Arc::clone(policy));
        let after = Case::new(Arc::clone(other.require(&name).unwrap()));
        for world in grid() {
            assert_eq!(before.decide(&world), after.decide(&world), "{name}");
        }
    }
}

fn renamed(name: &str) -> String {
    format!("x{}", name.chars().rev().collect::<String>())
}
