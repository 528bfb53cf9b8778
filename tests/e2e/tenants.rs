//! A customer's requests run under its own policies.

use crate::support::{at, mesh};
use tiermesh_harness::client::{ask, prompt, reason};
use tiermesh_identity::{KeyDigest, generate_key};
use tiermesh_proto::v1;
use tonic::{Code, Request};

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_key_brings_its_default_policy_and_no_other_than_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies.toml");
    let tenants = "[tenants.acme]\ndefault = \"iot\"\nmay_use = [\"iot\", \"batch\"]\n";
    std::fs::write(&policies, tenants).unwrap();
    let (acme, other) = (generate_key(), generate_key());
    let digest = |key: &str| KeyDigest::of(key).unwrap();
    let mesh = mesh(|spec| {
        spec.policies = Some(policies);
        spec.api_key = Some(other.clone());
        spec.gateway_tables = format!(
            "[[keys]]\nname = 'a'\ndigest = '{}'\ntenant = 'acme'\n\
             [[keys]]\nname = 'o'\ndigest = '{}'\noperator = true\n",
            digest(&acme),
            digest(&other),
        );
    })
    .await;
    let mut gateway = at(&mesh.gateway).await;
    let with = |key: &str, policy: &str| {
        let mut wire = prompt("a title", 4);
        wire.policy = policy.to_owned();
        let mut request = Request::new(wire);
        let value = format!("Bearer {key}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        request
    };
    for (key, named, runs_under) in [
        (&acme, "", "iot"),
        (&acme, "batch", "batch"),
        (&other, "", "interactive"),
        (&other, "gaming", "gaming"),
    ] {
        let answer = ask(&mut gateway, with(key, named)).await.unwrap();
        assert_eq!(answer.decision().policy, runs_under, "`{named}`");
        let explained = gateway.explain(with(key, named)).await.unwrap();
        let explained: v1::Decision = explained.into_inner();
        assert_eq!(explained.policy, runs_under, "`{named}`");
    }
    let (status, _) = ask(&mut gateway, with(&acme, "gaming")).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert_eq!(reason(&status), "POLICY_NOT_ALLOWED");
    assert!(status.message().contains("batch, iot"), "{status:?}");
}
