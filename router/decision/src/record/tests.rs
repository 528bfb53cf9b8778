use super::*;
use crate::Policies;
use crate::decide;
use crate::tests::world::{Case, candidate, meta, policy, snapshot};
use tiermesh_core::{BreakerState, Tier};

fn log() -> String {
    let mut recorder = Recorder::default();
    let mut world = snapshot(vec![
        candidate(Tier::Device, "phone", 20.0),
        candidate(Tier::Mec, "edge-1", 10.0),
        candidate(Tier::Mec, "edge-2", f32::NAN),
        candidate(Tier::Cloud, "region", 80.0),
    ]);
    let mut log = String::new();
    for (step, name) in ["interactive", "gaming", "healthcare", "batch"]
        .into_iter()
        .enumerate()
    {
        let mut case = Case::new(policy(name));
        case.meta = meta(|r| {
            r.policy = name.into();
            r.first_token_ms = Some(90);
        });
        case.seed = step as u64;
        world.sequence += 1;
        world.candidates[1].load = 0.1 * step as f32;
        if step == 3 {
            world.candidates[1].breaker = BreakerState::HalfOpen;
            world.candidates.remove(3);
        }
        let plan = decide(&case.question(), &world);
        let plan = plan
            .as_ref()
            .map_err(|none| none.constraint.map(|c| c.code()));
        log += &recorder.decision(&case.question(), &world, plan);
        // A second one at the same point: its candidates are not repeated.
        log += &recorder.decision(&case.question(), &world, plan);
    }
    log + &recorder.outcome(Outcome {
        request_id: "r".into(),
        node: None,
        first_token_us: Some(9_000),
        total_us: Some(90_000),
        cost_nanos: 12,
    })
}

#[test]
fn a_log_replays_bit_for_bit_and_holds_each_report_once() {
    let log = log();
    let states: Vec<_> = log
        .lines()
        .filter(|l| l.contains("\"kind\":\"state\""))
        .collect();
    assert_eq!(states.len(), 4);
    let policies = Policies::builtin();
    let same = replay(log.as_bytes(), &policies, &policies).unwrap();
    assert_eq!((same.decisions, same.reproduced, same.outcomes), (8, 8, 1));
    assert_eq!(same.changed, 0);
    assert_eq!(same.sides[0], same.sides[1]);
}

#[test]
fn another_policy_shows_what_it_would_change() {
    let old = Policies::builtin();
    let new = include_str!("../../policies/builtin.toml").replace(
        "preference = { DEVICE = 100, MEC = 40, CLOUD = 0 }",
        "preference = { DEVICE = 0, MEC = 100, CLOUD = 0 }",
    );
    let new = Policies::parse(&new).unwrap();
    let compared = replay(log().as_bytes(), &old, &new).unwrap();
    assert_eq!(compared.reproduced, 8);
    assert_eq!(compared.changed, 2, "{compared:?}");
    let [before, after] = compared.sides;
    assert_eq!(before.by_tier[0], after.by_tier[0] + 2);
    assert_eq!(after.kept_private, 2);
}

#[test]
fn a_log_that_is_none_says_which_line() {
    let policies = Policies::builtin();
    let log = log();
    let broken = format!("{log}{{\"kind\":\"other\"}}\n");
    let error = replay(broken.as_bytes(), &policies, &policies).unwrap_err();
    let last = broken.lines().count();
    assert!(
        error.to_string().contains(&format!("line {last}")),
        "{error}"
    );
    let headless: String = log.lines().skip(1).collect::<Vec<_>>().join("\n");
    let error = replay(headless.as_bytes(), &policies, &policies).unwrap_err();
    assert!(error.to_string().contains("line 1"), "{error}");
}

#[test]
fn a_breaker_that_opens_between_two_reports_is_in_the_log() {
    let mut recorder = Recorder::default();
    let case = Case::new(policy("interactive"));
    let mut world = snapshot(vec![
        candidate(Tier::Mec, "edge-1", 10.0),
        candidate(Tier::Mec, "edge-2", 20.0),
    ]);
    let mut log = String::new();
    for breaker in [
        BreakerState::Closed,
        BreakerState::Open {
            retry_in: std::time::Duration::from_secs(9),
        },
        BreakerState::Closed,
    ] {
        world.candidates.update(0, |c| c.breaker = breaker);
        let plan = decide(&case.question(), &world).unwrap();
        log += &recorder.decision(&case.question(), &world, Ok(&plan));
    }
    let policies = Policies::builtin();
    let same = replay(log.as_bytes(), &policies, &policies).unwrap();
    assert_eq!((same.decisions, same.reproduced), (3, 3));
    assert_eq!(log.matches("\"kind\":\"state\"").count(), 3);
    assert_eq!(log.matches("edge-2").count(), 1, "what stays is told once");
}

#[test]
fn a_decision_among_the_rest_replays_and_losses_are_told() {
    let mut recorder = Recorder::default();
    let mut case = Case::new(policy("interactive"));
    let world: Vec<_> = (0..200)
        .map(|n| candidate(Tier::Mec, &format!("edge-{n}"), 10.0 + n as f32))
        .collect();
    let world = snapshot(world);
    let without: Vec<_> = (0..90).collect();
    let rest = leaving_out(&world, &without);
    case.context.continuation.tokens = 7;
    case.context.continuation.text = "a secret".into();
    let question = Question {
        complexity: Some(0.3),
        prompt_tokens: Some(77),
        ..case.question()
    };
    let plan = decide(&question, &rest).unwrap();
    let node = &plan.choices[0].candidate(&rest).node;
    let named: usize = node.as_str().trim_start_matches("edge-").parse().unwrap();
    assert!(named >= 90, "{node}");
    let all = decide(&question, &world).unwrap();
    let mut log = recorder.decision(&question, &world, Ok(&all));
    log += &recorder.lines(Made::of(&question, &world, &without, Ok(&plan)));
    log += &recorder.lost(12);
    assert!(!log.contains("secret"), "there is no content in a log");
    let policies = Policies::builtin();
    let same = replay(log.as_bytes(), &policies, &policies).unwrap();
    assert_eq!((same.decisions, same.reproduced, same.lost), (2, 2, 12));
}
