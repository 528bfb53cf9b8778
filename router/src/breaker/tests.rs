use super::*;
use proptest::prelude::*;
use tiermesh_core::Outlook;
use tiermesh_core::{ModelOffer, ModelState};

fn candidate(tier: Tier, node: &str, model: &str) -> CandidateState {
    CandidateState {
        node: NodeId::new(node).unwrap(),
        tier,
        region: None,
        owner: None,
        transit: None,
        model: Arc::new(ModelOffer {
            id: ModelId::new(model).unwrap(),
            family: String::new(),
            digest: None,
            numerics_id: None,
            tasks: Vec::new(),
            context_tokens: 0,
            quality: 0.0,
            input_per_million: tiermesh_core::Usd::ZERO,
            output_per_million: tiermesh_core::Usd::ZERO,
        }),
        state: ModelState::default(),
        rtt_ms: 0.0,
        credits_free: 1,
        load: 0.0,
        battery_percent: None,
        report_age: Duration::ZERO,
        breaker: BreakerState::Closed,
        outlook: Outlook::default(),
    }
}

fn at(ms: u64) -> Time {
    Time::from_us(ms * 1_000)
}

fn ends(breakers: &Arc<Breakers>, who: &CandidateState, outcome: Outcome, now: Time) {
    breakers.admit(who, now).unwrap().settle(outcome, now);
}

fn opened(breakers: &Arc<Breakers>, who: &CandidateState, now: Time) {
    for _ in 0..5 {
        ends(breakers, who, Outcome::Failure, now);
    }
    assert!(breakers.admit(who, now).is_err());
}

#[test]
fn five_failures_in_a_row_open_it_and_a_minute_half_opens_it() {
    let breakers = Breakers::new(BreakerConfig::default(), 1);
    let edge = candidate(Tier::Mec, "edge-1", "m");
    opened(&breakers, &edge, at(0));
    let retry_in = breakers.admit(&edge, at(0)).unwrap_err();
    assert!(
        (54_000..=66_000).contains(&retry_in.as_millis()),
        "{retry_in:?}"
    );
    let mut snapshot = Snapshot {
        candidates: vec![edge.clone(), candidate(Tier::Mec, "edge-2", "m")].into(),
        ..Snapshot::default()
    };
    breakers.merge(&mut snapshot, at(0));
    assert_eq!(
        snapshot.candidates[0].breaker,
        BreakerState::Open { retry_in }
    );
    assert_eq!(snapshot.candidates[1].breaker, BreakerState::Closed);
    let later = at(0) + retry_in;
    assert_eq!(breakers.state(&edge.node, later), BreakerState::HalfOpen);
    ends(&breakers, &edge, Outcome::Success, later);
    assert_eq!(breakers.state(&edge.node, later), BreakerState::Closed);
}

#[test]
fn half_open_passes_two_probes_and_a_failed_one_opens_it_again() {
    let breakers = Breakers::new(BreakerConfig::default(), 1);
    let edge = candidate(Tier::Mec, "edge-1", "m");
    opened(&breakers, &edge, at(0));
    let later = at(70_000);
    let first = breakers.admit(&edge, later).unwrap();
    let second = breakers.admit(&edge, later).unwrap();
    assert!(breakers.admit(&edge, later).is_err());
    drop(second);
    let second = breakers.admit(&edge, later).unwrap();
    first.settle(Outcome::Failure, later);
    let state = breakers.state(&edge.node, later);
    assert!(matches!(state, BreakerState::Open { .. }));
    // The other probe passed before that, and says nothing now.
    second.settle(Outcome::Success, later);
    assert_eq!(breakers.state(&edge.node, later), state);
}

#[test]
fn half_of_ten_outcomes_open_it_but_not_once_they_are_old() {
    let breakers = Breakers::new(BreakerConfig::default(), 1);
    let (edge, other) = ("edge-1", "edge-2");
    let [edge, other] = [edge, other].map(|n| candidate(Tier::Mec, n, "m"));
    for turn in 0..5 {
        ends(&breakers, &edge, Outcome::Success, at(turn));
        ends(&breakers, &edge, Outcome::Failure, at(turn));
        ends(&breakers, &other, Outcome::Success, at(turn * 10_000));
        ends(&breakers, &other, Outcome::Failure, at(turn * 10_000));
    }
    assert!(breakers.admit(&edge, at(5)).is_err());
    assert!(breakers.admit(&other, at(40_001)).is_ok());
}

#[test]
fn a_cloud_nodes_models_break_apart_and_the_listing_shows_the_worst() {
    let breakers = Breakers::new(BreakerConfig::default(), 1);
    let bad = candidate(Tier::Cloud, "region", "bad");
    let good = candidate(Tier::Cloud, "region", "good");
    opened(&breakers, &bad, at(0));
    ends(&breakers, &good, Outcome::Success, at(0));
    let state = breakers.state(&bad.node, at(0));
    assert!(matches!(state, BreakerState::Open { .. }));
}

#[test]
fn a_tier_opens_only_when_several_of_its_nodes_fail() {
    let breakers = Breakers::new(BreakerConfig::default(), 1);
    let edge = |n: u32| candidate(Tier::Mec, &format!("edge-{n}"), "m");
    for n in 0..2 {
        opened(&breakers, &edge(n), at(0));
    }
    assert_eq!(breakers.tier_state(Tier::Mec, at(0)), BreakerState::Closed);
    ends(&breakers, &edge(2), Outcome::Failure, at(0));
    assert!(breakers.admit(&edge(3), at(0)).is_err());
    assert!(
        breakers
            .admit(&candidate(Tier::Cloud, "r", "m"), at(0))
            .is_ok()
    );
    let later = at(70_000);
    ends(&breakers, &edge(3), Outcome::Success, later);
    assert_eq!(breakers.tier_state(Tier::Mec, later), BreakerState::Closed);
}

#[test]
fn other_owners_devices_never_close_mine() {
    let breakers = Breakers::new(BreakerConfig::default(), 1);
    for n in 0..50 {
        opened(
            &breakers,
            &candidate(Tier::Device, &format!("phone-{n}"), "m"),
            at(0),
        );
    }
    assert!(
        breakers
            .admit(&candidate(Tier::Device, "mine", "m"), at(0))
            .is_ok()
    );
}

#[test]
fn breakers_are_bounded_and_forget_the_closed_ones_first() {
    let breakers = Breakers::new(BreakerConfig::default(), 1);
    let bad = candidate(Tier::Device, "bad", "m");
    opened(&breakers, &bad, at(0));
    for n in 0..MAX_BREAKERS as u64 + 10 {
        let who = candidate(Tier::Device, &format!("n{n}"), "m");
        ends(&breakers, &who, Outcome::Success, at(n / 1_000));
    }
    assert_eq!(breakers.lock().machines.len(), MAX_BREAKERS);
    assert!(breakers.admit(&bad, at(1)).is_err());
}

#[test]
fn a_breaker_that_closes_lets_few_pass_at_first_and_everybody_later() {
    let breakers = Breakers::new(BreakerConfig::default(), 1);
    let edge = candidate(Tier::Mec, "edge-1", "m");
    opened(&breakers, &edge, at(0));
    let probe = breakers.admit(&edge, at(70_000)).unwrap();
    probe.settle(Outcome::Success, at(70_000));
    assert_eq!(breakers.state(&edge.node, at(70_000)), BreakerState::Closed);
    let admitted = |ms: u64| {
        let mut tickets = Vec::new();
        for _ in 0..500 {
            tickets.extend(breakers.admit(&edge, at(ms)));
        }
        tickets
    };
    let first = admitted(70_001);
    assert_eq!(first.len(), 2, "as many as probes");
    let mut snapshot = Snapshot {
        candidates: vec![edge.clone()].into(),
        ..Snapshot::default()
    };
    breakers.merge(&mut snapshot, at(70_001));
    assert!(matches!(
        snapshot.candidates[0].breaker,
        BreakerState::Open { .. }
    ));
    // Whoever ends, however, makes room.
    drop(first);
    assert_eq!(admitted(73_500).len(), 2 << 3);
    assert_eq!(admitted(80_000).len(), 500, "the ramp is over");
}

#[test]
fn one_models_failures_do_not_close_its_nodes_other_models() {
    let breakers = Breakers::new(BreakerConfig::default(), 1);
    for (tier, node) in [(Tier::Mec, "edge-1"), (Tier::Cloud, "bedrock")] {
        let (bad, good) = (candidate(tier, node, "bad"), candidate(tier, node, "good"));
        opened(&breakers, &bad, at(0));
        ends(&breakers, &good, Outcome::Success, at(1));
        assert!(breakers.admit(&bad, at(2)).is_err());
        assert!(breakers.admit(&good, at(2)).is_ok());
    }
}

#[test]
fn a_node_whose_models_all_fail_is_closed_to_the_others_too() {
    let breakers = Breakers::new(BreakerConfig::default(), 1);
    let model = |name: &str| candidate(Tier::Device, "phone", name);
    for n in 0..5 {
        ends(
            &breakers,
            &model(["a", "b"][n % 2]),
            Outcome::Failure,
            at(0),
        );
    }
    assert!(breakers.admit(&model("never-asked"), at(1)).is_err());
    assert!(breakers.admit(&model("never-asked"), at(70_000)).is_ok());
}

proptest! {
    /// Whatever happens, and whoever never comes back, a breaker passes a
    /// request again once two open periods have gone by.
    #[test]
    fn a_breaker_is_never_stuck(
        steps in proptest::collection::vec((0..4_u8, 0..20_000_u64), 0..200),
        seed in any::<u64>(),
    ) {
        let breakers = Breakers::new(BreakerConfig::default(), seed);
        let nodes = [0, 1, 2, 3].map(|n| candidate(Tier::Mec, &format!("e{n}"), "m"));
        let (mut now, mut kept) = (0, Vec::new());
        for (n, (step, ms)) in steps.iter().enumerate() {
            now += ms;
            let Ok(ticket) = breakers.admit(&nodes[n % 4], at(now)) else { continue };
            match step {
                0 => ticket.settle(Outcome::Success, at(now)),
                1 => ticket.settle(Outcome::Failure, at(now)),
                2 => ticket.settle(Outcome::Neutral, at(now)),
                _ => kept.push(ticket),
            }
        }
        let later = at(now + 140_000);
        for node in &nodes {
            let ticket = breakers.admit(node, later);
            prop_assert!(ticket.is_ok());
            ticket.unwrap().settle(Outcome::Success, later);
            prop_assert_eq!(breakers.state(&node.node, later), BreakerState::Closed);
        }
        drop(kept);
    }

    #[test]
    fn neutral_outcomes_never_open_it(drops in proptest::collection::vec(any::<bool>(), 0..300)) {
        let breakers = Breakers::new(BreakerConfig::default(), 3);
        let edge = candidate(Tier::Mec, "edge-1", "m");
        for dropped in drops {
            let ticket = breakers.admit(&edge, at(0)).unwrap();
            if !dropped {
                ticket.settle(Outcome::Neutral, at(0));
            }
        }
        prop_assert_eq!(breakers.state(&edge.node, at(0)), BreakerState::Closed);
    }
}

#[test]
fn slots_behind_an_open_breaker_are_not_waited_for() {
    let mut nodes = ["full", "sick", "lends-one", "loads", "elsewhere"].map(|name| {
        let mut node = candidate(Tier::Mec, name, "m");
        node.credits_free = 64;
        node.outlook = Outlook {
            slots: 4,
            open: 1,
            pool: 1,
            pool_free: 7,
            ..Outlook::default()
        };
        node
    });
    nodes[0].outlook.open = 4;
    nodes[2].credits_free = 1;
    nodes[3].outlook.ready_at = Some(at(60_000));
    (nodes[4].outlook.pool, nodes[4].outlook.open) = (2, 4);
    // Three are free at the first, one is lent by the next, and whoever loads
    // its model was not counted.
    for (sick, left) in [(1, 4), (2, 6), (3, 7)] {
        let breakers = Breakers::new(BreakerConfig::default(), 1);
        opened(&breakers, &nodes[sick], at(0));
        let mut snapshot = Snapshot {
            candidates: nodes.to_vec().into(),
            ..Snapshot::default()
        };
        breakers.merge(&mut snapshot, at(10));
        assert_eq!(snapshot.candidates[0].outlook.pool_free, left, "{sick}");
        assert_eq!(snapshot.candidates[4].outlook.pool_free, 7, "{sick}");
    }
}
