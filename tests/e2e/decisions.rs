//! What a gateway learns of its nodes, what it records, and the same decisions
//! made again.

use crate::support::{at, mesh, run, text};
use std::path::Path;
use tiermesh_harness::client::{ask, prompt};
use tiermesh_proto::v1;

const SECRET: &str = "what nobody but a node may read";

fn request(policy: &str, n: usize) -> v1::InferRequest {
    let mut request = prompt(&format!("{SECRET} {n}"), 6);
    request.policy = policy.to_owned();
    request
}

async fn replay(log: &Path, policy: &Path) -> serde_json::Value {
    let (log, policy) = (log.display().to_string(), policy.display().to_string());
    let arguments = ["route", "replay", "--decisions", &log, "--policy", &policy];
    let ended = run(&[&arguments[..], &["--json"]].concat()).await;
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    serde_json::from_str(text(&ended.stdout).trim()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_own_log_replays_bit_for_bit_and_shows_what_would_change() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("decisions.jsonl");
    let mut mesh = mesh(|spec| {
        spec.edges = 2;
        spec.device = true;
        spec.standin = true;
        spec.decisions = Some(log.clone());
    })
    .await;
    let mut gateway = at(&mesh.gateway).await;
    let policies = ["interactive", "gaming", "iot", "batch", "automotive"];
    let mut answers = 0;
    for n in 0..30 {
        if n == 20 {
            mesh.edges[1].kill().await.unwrap();
        }
        let asked = request(policies[n % policies.len()], n);
        answers += u64::from(ask(&mut gateway, asked).await.is_ok());
    }
    let mut nobodys = request("interactive", 99);
    nobodys.model = "a-model-that-is-nowhere".to_owned();
    assert!(gateway.infer(nobodys).await.is_err());
    // Explaining decides nothing that is recorded.
    gateway.explain(request("gaming", 7)).await.unwrap();
    mesh.stop().await.unwrap();

    let recorded = std::fs::read_to_string(&log).unwrap();
    assert!(!recorded.contains(SECRET), "no prompt is ever recorded");
    let same = folder.path().join("same.toml");
    std::fs::write(&same, "default = \"batch\"\n").unwrap();
    let told = replay(&log, &same).await;
    let count = |key: &str| told[key].as_u64().unwrap();
    assert!(count("decisions") >= 31, "{told}");
    assert_eq!(count("reproduced"), count("decisions"), "{told}");
    assert_eq!((count("changed"), count("lost")), (0, 0), "{told}");
    assert!(count("outcomes") >= answers && answers >= 25, "{told}");
    assert_eq!(told["before"], told["after"]);
    assert_eq!(told["before"]["refused"], 1);

    let builtin = include_str!("../../router/decision/policies/builtin.toml");
    let other = builtin.replace(
        "preference = { DEVICE = 100, MEC = 40, CLOUD = 0 }",
        "preference = { DEVICE = 0, MEC = 40, CLOUD = 100 }",
    );
    assert_ne!(builtin, other);
    let new = folder.path().join("new.toml");
    std::fs::write(&new, other).unwrap();
    let told = replay(&log, &new).await;
    assert!(told["changed"].as_u64().unwrap() >= 4, "{told}");
    let tiers = |side: &str, tier: &str| told[side]["tiers"][tier].as_u64().unwrap();
    assert!(
        tiers("after", "DEVICE") < tiers("before", "DEVICE"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_learns_shows_in_its_list_and_in_what_it_explains() {
    let mesh = mesh(|spec| spec.streams = 5).await;
    let mut gateway = at(&mesh.gateway).await;
    for n in 0..12 {
        ask(&mut gateway, request("interactive", n)).await.unwrap();
    }
    let listed = mesh.nodes().await.unwrap();
    let edge = listed.iter().find(|node| node.node == "edge-1").unwrap();
    assert_eq!(edge.slots, 5, "its report says what its engine may do");
    let known = edge.model_states[0].calibration.expect("it answered");
    assert_eq!(known.answers, 12);
    assert!(known.ratio > 0.0 && known.first_token_p50_ms > 0.0);
    assert!((0.0..=1.0).contains(&known.within_p99) && known.failed_share == 0.0);
    // Six tokens were enough, and hundreds are asked for.
    let mut asked = request("interactive", 1);
    asked.sampling.as_mut().unwrap().max_tokens = Some(800);
    let decision = gateway.explain(asked).await.unwrap().into_inner();
    let per_token_ms = (decision.total_ms - decision.first_token_ms) / 800.0;
    assert!(
        per_token_ms < 1e3 / edge.decode_tokens_per_s as f32,
        "{decision:?}"
    );
    let mut chances = decision.reasons.iter().filter(|r| r.code == "chance");
    let chance = chances.next().expect("one candidate, one chance");
    assert_eq!((chance.node.as_str(), chances.next()), ("edge-1", None));
    assert!((0.0..=1.0).contains(&chance.value.unwrap()));
    let told = decision.calibrations.first().expect("it answered");
    assert_eq!(
        (told.node.as_str(), told.calibration.unwrap().answers),
        ("edge-1", 12)
    );
    let endpoint = mesh.gateway.endpoint().to_owned();
    let table = run(&["nodes", "--endpoint", &endpoint]).await;
    let table = text(&table.stdout);
    assert!(table.contains("OBS/PRED"), "{table}");
    let explained = run(&["route", "explain", "a title", "--endpoint", &endpoint]).await;
    assert!(
        text(&explained.stdout).contains("chance "),
        "{}",
        text(&explained.stdout)
    );
    let json = run(&["nodes", "--json", "--endpoint", &endpoint]).await;
    let json: serde_json::Value = serde_json::from_str(text(&json.stdout).trim()).unwrap();
    assert_eq!(json["model_states"][0]["calibration"]["answers"], 12);
    assert_eq!(json["slots"], 5);
    // The node knows the same of itself.
    let own = mesh.edges[0].endpoint().to_owned();
    let json = run(&["nodes", "--json", "--endpoint", &own]).await;
    let lines = text(&json.stdout);
    let mut nodes = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let own = nodes.find(|node| node["node"] == "edge-1").unwrap();
    assert_eq!(own["slots"], 5, "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_holds_requests_back_until_a_node_has_a_slot() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("decisions.jsonl");
    let mesh = mesh(|spec| {
        spec.edges = 2;
        spec.streams = 1;
        spec.decisions = Some(log.clone());
    })
    .await;
    let gateway = at(&mesh.gateway).await;
    let several = (0..12).map(|n| {
        let mut gateway = gateway.clone();
        async move {
            let mut asked = request("iot", n);
            asked.sampling.as_mut().unwrap().max_tokens = Some(48);
            ask(&mut gateway, asked).await
        }
    });
    let answers = futures::future::join_all(several).await;
    let (mut held, mut at_once) = (0, 0);
    for answer in answers {
        let answer = answer.unwrap();
        assert!(answer.done.is_some());
        let decision = answer.accepted[0].decision.as_ref().unwrap();
        let reasons = decision.reasons.iter();
        // Without a node: that of the request, not of who was looked at.
        let mut waits = reasons.filter(|r| r.code == "held" && r.node.is_empty());
        match waits.next() {
            Some(wait) => {
                assert!(wait.value.unwrap() > 0.0);
                held += 1;
            }
            None => at_once += 1,
        }
    }
    assert!(held >= 4 && at_once >= 2, "{held} held, {at_once} at once");
    mesh.stop().await.unwrap();
    // What was held back is recorded as it was decided in the end.
    let same = folder.path().join("same.toml");
    std::fs::write(&same, "default = \"batch\"\n").unwrap();
    let told = replay(&log, &same).await;
    assert_eq!(told["decisions"], 12, "{told}");
    assert_eq!(told["reproduced"], 12, "{told}");
}
