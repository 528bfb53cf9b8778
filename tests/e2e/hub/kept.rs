//! Models that a node keeps at the hub until they are needed.

use super::standin::{FakeHub, REPO, honest};
use crate::models::{Models, names};
use crate::support::{at, mesh, run, text, tiny, until_node};
use std::collections::BTreeMap;
use std::time::Duration;
use tiermesh_harness::Mesh;
use tiermesh_harness::client::{ask, prompt};
use tiermesh_proto::v1;
use tonic::Code;

/// The tiny model as an artifact in a repository, and a cache for it.
struct Kept {
    hub: FakeHub,
    cache: tempfile::TempDir,
}

impl Kept {
    async fn new() -> Self {
        let models = Models::new();
        let path = tiny().display().to_string();
        models.good(&["import", &path, "--name", "kept"]).await;
        let artifact = models.path().join("kept");
        let mut files = BTreeMap::new();
        for file in names(&artifact) {
            let bytes = std::fs::read(artifact.join(&file)).unwrap();
            files.insert(file, bytes);
        }
        Self {
            hub: FakeHub::start(files, honest(), honest()),
            cache: tempfile::tempdir().unwrap(),
        }
    }

    /// A mesh whose edge serves the tiny model from disk and from the hub.
    async fn mesh(&self) -> Mesh {
        edge_with(&self.hub.endpoint(), &self.cache, "").await
    }
}

async fn edge_with(endpoint: &str, cache: &tempfile::TempDir, offline: &str) -> Mesh {
    mesh(|spec| {
        spec.models.push(format!("hf:{REPO}").into());
        spec.environment = vec![
            ("HF_ENDPOINT".into(), endpoint.to_owned()),
            ("HF_HUB_CACHE".into(), cache.path().display().to_string()),
            ("HF_HUB_OFFLINE".into(), offline.to_owned()),
        ];
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_a_model_fetched_and_whoever_comes_again_is_answered() {
    let kept = Kept::new().await;
    let mesh = kept.mesh().await;
    let mut gateway = at(&mesh.gateway).await;
    let wanted = || v1::InferRequest {
        model: "kept".to_owned(),
        ..prompt("hello", 12)
    };
    // Sooner than it is fetched, and as often as would open a breaker.
    let mut refused = Vec::new();
    let answer = loop {
        match ask(&mut gateway, wanted()).await {
            Ok(answer) => break answer,
            Err((status, _)) => refused.push(status),
        }
        assert!(refused.len() < 600, "{:?}", refused.last());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(!refused.is_empty(), "it was cold");
    assert_eq!(refused[0].code(), Code::Unavailable, "{:?}", refused[0]);
    assert_eq!(answer.done.unwrap().output_tokens, 12);
    assert_eq!(kept.hub.fetched().len(), 1, "the weights, once");
    drop(mesh);
    // The hub is gone, and the edge starts with what was fetched.
    let Kept { hub, cache } = kept;
    let endpoint = hub.endpoint();
    drop(hub);
    let mesh = edge_with(&endpoint, &cache, "1").await;
    let hot =
        |node: &v1::Node| node.model_states.len() == 2 && node.model_states[1].residency == "hot";
    until_node(&mesh, "edge-1", "the fetched model is there", hot).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_kept_at_the_hub_is_fetched_when_a_node_is_told_to() {
    let kept = Kept::new().await;
    let (hub, mesh) = (&kept.hub, kept.mesh().await);
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
