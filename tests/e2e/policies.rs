//! A policy's name decides nothing.

use crate::support::{at, mesh};
use tiermesh_harness::client::{prompt, reason};
use tiermesh_proto::v1;

const NAMES: [&str; 6] = [
    "gaming",
    "automotive",
    "healthcare",
    "iot",
    "interactive",
    "batch",
];

#[tokio::test(flavor = "multi_thread")]
async fn renamed_policies_decide_the_same() {
    let builtin = include_str!("../../router/decision/policies/builtin.toml");
    let mut renamed = builtin.to_owned();
    for (at, name) in NAMES.iter().enumerate() {
        let (section, other) = (format!("[policy.{name}]"), format!("[policy.p{at}]"));
        assert!(renamed.contains(&section), "{name} is built in");
        renamed = renamed.replace(&section, &other);
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policies.toml");
    std::fs::write(&file, renamed).unwrap();
    let mesh = mesh(|spec| {
        spec.standin = true;
        spec.device = true;
        spec.policies = Some(file);
    })
    .await;
    let mut gateway = at(&mesh.gateway).await;
    for (at, name) in NAMES.iter().enumerate() {
        let mut decided = Vec::new();
        for policy in [(*name).to_owned(), format!("p{at}")] {
            let mut request = prompt("sony mdr-zx110", 64);
            request.policy = policy;
            let explained = gateway.explain(request).await;
            decided.push(explained.map_or_else(|e| vec![reason(&e)], |d| order(d.into_inner())));
        }
        assert_eq!(decided[0], decided[1], "{name}");
    }
}

fn order(decision: v1::Decision) -> Vec<String> {
    let first = format!("{} {} {}", decision.tier, decision.node, decision.model);
    let fallbacks = decision.fallbacks.into_iter();
    let rest = fallbacks.map(|f| format!("{} {} {}", f.tier, f.node, f.model));
    [first].into_iter().chain(rest).collect()
}
