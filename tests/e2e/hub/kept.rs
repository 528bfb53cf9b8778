//! Models that a node keeps at the hub until they are needed.

use super::standin::{FakeHub, REPO, honest};
use crate::models::{Models, names};
use crate::support::{at, mesh, run, text, tiny, until_node};
use std::collections::BTreeMap;
use tiermesh_harness::client::{ask, prompt};
use tiermesh_proto::v1;

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_kept_at_the_hub_is_fetched_when_a_node_is_told_to() {
    let models = Models::new();
    let path = tiny().display().to_string();
    models.good(&["import", &path, "--name", "kept"]).await;
    let artifact = models.path().join("kept");
    let mut files = BTreeMap::new();
    for file in names(&artifact) {
        let bytes = std::fs::read(artifact.join(&file)).unwrap();
        files.insert(file, bytes);
    }
    let hub = FakeHub::start(files, honest(), honest());
    let cache = tempfile::tempdir().unwrap();
    let mesh = mesh(|spec| {
        spec.models.push(format!("hf:{REPO}").into());
        spec.environment = vec![
            ("HF_ENDPOINT".into(), hub.endpoint()),
            ("HF_HUB_CACHE".into(), cache.path().display().to_string()),
            ("HF_HUB_OFFLINE".into(), String::new()),
        ];
    })
    .await;
    let residency = |node: &v1::Node| node.model_states[1].residency.clone();
    let cold = |node: &v1::Node| node.model_states.len() == 2 && residency(node) == "cold";
    until_node(&mesh, "edge-1", "its second model is cold", cold).await;
    assert!(hub.fetched().is_empty(), "the weights stay where they are");
    let preload = async |node: &str, model: &str| {
        let door = ["--endpoint", mesh.gateway.endpoint()];
        run(&[&["nodes", "preload", node, model], &door[..]].concat()).await
    };
    let wrong = preload("edge-1", "no-such-model").await;
    assert!(!wrong.status.success());
    assert!(
        text(&wrong.stderr).contains("kept"),
        "{}",
        text(&wrong.stderr)
    );
    let wrong = preload("edge-9", "kept").await;
    assert!(
        text(&wrong.stderr).contains("edge-9"),
        "{}",
        text(&wrong.stderr)
    );
    let told = preload("edge-1", "kept").await;
    assert!(told.status.success(), "{}", text(&told.stderr));
    let hot = |node: &v1::Node| residency(node) == "hot";
    until_node(&mesh, "edge-1", "the model is in memory", hot).await;
    assert_eq!(hub.fetched().len(), 1, "the weights, once");
    let mut answers = Vec::new();
    for model in ["kept", "tiny-llama"] {
        let request = v1::InferRequest {
            model: model.to_owned(),
            seed: Some(1),
            ..prompt("hello", 12)
        };
        let mut client = at(&mesh.gateway).await;
        answers.push(ask(&mut client, request).await.unwrap().text());
    }
    assert_eq!(answers[0], answers[1], "one checkpoint under two names");
}
