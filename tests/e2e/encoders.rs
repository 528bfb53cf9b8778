//! Embeddings and labels through the mesh.

use crate::support::{at, mesh};
use std::path::{Path, PathBuf};
use tiermesh_harness::Mesh;
use tiermesh_harness::client::{prompt, reason};
use tiermesh_proto::v1;
use tiermesh_proto::v1::infer_event::Event;
use tiermesh_proto::v1::result::Result as Outcome;

fn family(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/engine/tests/fixtures");
    fixtures.join("families").join(name)
}

/// The one result of a request at the gateway.
async fn outcome(mesh: &Mesh, model: &str, task: v1::Task, text: &str) -> Outcome {
    let request = v1::InferRequest {
        model: model.to_owned(),
        task: task as i32,
        ..prompt(text, 1)
    };
    let mut client = at(&mesh.gateway).await;
    let mut events = client.infer(request).await.unwrap().into_inner();
    let mut found = None;
    while let Some(event) = events.message().await.unwrap() {
        match event.event.unwrap() {
            Event::Result(result) => found = result.result,
            Event::Tokens(tokens) => panic!("an encoder writes no tokens: {tokens:?}"),
            Event::Accepted(_) | Event::Seam(_) | Event::Done(_) => {}
        }
    }
    found.expect("an encoder has a result")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_embeds_and_labels_for_clients_of_the_gateway() {
    let mesh = mesh(|spec| spec.models.extend(["bert", "bert-ner"].map(family))).await;
    let golden = std::fs::read(family("bert").join("golden.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_slice(&golden).unwrap();
    let texts = golden["texts"].as_array().unwrap().iter();
    let embeddings = golden["embeddings"].as_array().unwrap();
    let asked = texts.zip(embeddings).map(async |(text, expected)| {
        let text = text.as_str().unwrap();
        let found = outcome(&mesh, "bert", v1::Task::Embed, text).await;
        let Outcome::Embedding(found) = found else {
            panic!("an embedding of {text:?}: {found:?}");
        };
        let expected: Vec<f32> = serde_json::from_value(expected.clone()).unwrap();
        let cosine: f32 = found.values.iter().zip(&expected).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.98, "{text:?}: {cosine}");
    });
    // All at once: the node takes those of like length together.
    futures::future::join_all(asked).await;
    let text = "Sony headphones in Bangkok";
    let found = outcome(&mesh, "bert-ner", v1::Task::Tag, text).await;
    let Outcome::Tags(tags) = found else {
        panic!("labels of {text:?}: {found:?}");
    };
    assert!(!tags.items.is_empty());
    for tag in &tags.items {
        assert!(tag.start < tag.end && tag.end as usize <= text.len());
        assert!(!tag.label.is_empty());
    }
    // An encoder writes no answers: who asks for one hears which models do.
    let refused = v1::InferRequest {
        model: "bert".to_owned(),
        ..prompt(text, 1)
    };
    let status = at(&mesh.gateway).await.infer(refused).await.unwrap_err();
    assert_eq!(reason(&status), "MODEL_NOT_FOUND");
    assert!(status.message().contains("tiny-llama"), "{status:?}");
}
