//! A node dies under a running answer, and the answer goes on.

use crate::client::{inference, tier_name};
use crate::infer::{seam_in_words, seam_record};
use crate::out;
use anyhow::{Context as _, bail};
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tiermesh_harness::Mesh;
use tiermesh_proto::v1;
use tiermesh_proto::v1::infer_event::Event;
use tokio::time::Instant;
use tonic::Streaming;
use tonic::transport::Channel;

type Client = v1::inference_client::InferenceClient<Channel>;

/// The answer's length: all that fits the shipped model's context.
const TOKENS: u32 = 400;
/// The node dies when the client has so many of them.
const KILLED_AFTER: usize = 8;
/// Requests until the first edge gets one: two equal edges take turns.
const TRIES: usize = 32;
/// The answer must be there by then.
const WITHIN: Duration = Duration::from_secs(20);
/// The edge that dies.
const VICTIM: usize = 0;

/// What became of the answer.
pub(crate) struct Survived {
    node: String,
    seams: Vec<v1::Seam>,
    tokens: usize,
    /// Every token, and the text, is the undisturbed run's.
    pub(crate) identical: bool,
    /// The longest time without a token.
    gap: Duration,
}

impl Survived {
    /// As a line of JSON.
    pub(crate) fn record(&self) -> serde_json::Value {
        json!({
            "kind": "survived",
            "node": self.node,
            "tokens": self.tokens,
            "seams": self.seams.iter().map(seam_record).collect::<Vec<_>>(),
            "identical": self.identical,
            "gap_ms": self.gap.as_secs_f64() * 1e3,
        })
    }

    /// For people.
    pub(crate) fn words(&self) -> String {
        let seams: Vec<_> = self.seams.iter().map(seam_in_words).collect();
        let seams = match seams.is_empty() {
            true => format!("{} was done before it died", self.node),
            false => seams.join("; "),
        };
        let verdict = match self.identical {
            true => "the answer is, token for token, that of an undisturbed run",
            false => "! the answer is NOT that of an undisturbed run",
        };
        format!(
            "    {seams}\n    {} tokens, the longest pause {:.0} ms: {verdict}",
            self.tokens,
            self.gap.as_secs_f64() * 1e3
        )
    }
}

/// Asks twice for the same answer, and kills the first edge under the second.
///
/// # Errors
/// When the answer does not come to its end.
pub(crate) async fn play(mesh: &mut Mesh, model: &Path, json: bool) -> anyhow::Result<Survived> {
    let mut door = inference(mesh.gateway.endpoint()).await?;
    let asked = request(model)?;
    let undisturbed = begin(&mut door, &asked, None).await?;
    let undisturbed = tokio::time::timeout(WITHIN, undisturbed.read(None)).await??;
    let victim = mesh.edges[VICTIM].name.clone();
    if !json {
        out::line(&format!(
            "[iot at gateway] an answer of {} tokens; {victim} dies under it",
            undisturbed.ids.len()
        ));
    }
    let running = begin(&mut door, &asked, Some(&victim)).await?;
    let read = running.read(Some(mesh));
    let survived = tokio::time::timeout(WITHIN, read)
        .await
        .context("the answer hangs")??;
    Ok(Survived {
        node: victim,
        identical: survived.ids == undisturbed.ids && survived.text == undisturbed.text,
        tokens: survived.ids.len(),
        seams: survived.seams,
        gap: survived.gap,
    })
}

/// A long answer: the shipped model would end after a few words, so its end is
/// not let through.
fn request(model: &Path) -> anyhow::Result<v1::InferRequest> {
    let config = std::fs::read(model.join("config.json")).context("a model has a config.json")?;
    let config: serde_json::Value = serde_json::from_slice(&config)?;
    let ends = match &config["eos_token_id"] {
        serde_json::Value::Array(ids) => ids.clone(),
        id => vec![id.clone()],
    };
    let ids = ends
        .iter()
        .filter_map(|id| u32::try_from(id.as_u64()?).ok());
    Ok(v1::InferRequest {
        policy: "iot".to_owned(),
        content: Some(v1::infer_request::Content::Prompt(
            "sony mdr-zx110 on-ear headphones black".to_owned(),
        )),
        seed: Some(7),
        sampling: Some(v1::Sampling {
            max_tokens: Some(TOKENS),
            temperature: Some(0.9),
            logit_bias: ids.map(|id| (id, -100.0)).collect(),
            ..v1::Sampling::default()
        }),
        ..v1::InferRequest::default()
    })
}

/// An answer that has begun.
struct Running {
    stream: Streaming<v1::InferEvent>,
}

/// What an answer came to.
#[derive(Default)]
struct Whole {
    ids: Vec<Option<u32>>,
    text: String,
    seams: Vec<v1::Seam>,
    gap: Duration,
}

/// Asks until `node` takes the request; any node does without one.
async fn begin(
    door: &mut Client,
    asked: &v1::InferRequest,
    node: Option<&str>,
) -> anyhow::Result<Running> {
    for _ in 0..TRIES {
        let mut stream = door.infer(asked.clone()).await?.into_inner();
        let first = stream.message().await?.and_then(|event| event.event);
        let Some(Event::Accepted(accepted)) = first else {
            bail!("an answer begins with where it is from");
        };
        let decision = accepted.decision.unwrap_or_default();
        let edge = tier_name(decision.tier) == "MEC";
        if node.map_or(edge, |node| node == decision.node) {
            return Ok(Running { stream });
        }
    }
    bail!("no request came to {}", node.unwrap_or("an edge"))
}

impl Running {
    /// Reads to the end; kills the victim of `mesh` on the way.
    async fn read(mut self, mut mesh: Option<&mut Mesh>) -> anyhow::Result<Whole> {
        let mut whole = Whole::default();
        let mut last = Instant::now();
        while let Some(event) = self.stream.message().await? {
            match event.event {
                Some(Event::Tokens(tokens)) => {
                    anyhow::ensure!(
                        tokens.first_seq == whole.ids.len() as u64,
                        "a gap or a repetition at token {}",
                        tokens.first_seq
                    );
                    whole.gap = whole.gap.max(last.elapsed());
                    last = Instant::now();
                    for token in tokens.items {
                        whole.ids.push(token.id);
                        whole.text.push_str(&token.text);
                    }
                    if whole.ids.len() >= KILLED_AFTER
                        && let Some(mesh) = mesh.take()
                    {
                        mesh.edges[VICTIM].kill().await?;
                        last = Instant::now();
                    }
                }
                Some(Event::Seam(seam)) => whole.seams.push(seam),
                Some(Event::Done(_)) => return Ok(whole),
                Some(Event::Accepted(_) | Event::Result(_)) | None => {}
            }
        }
        bail!("the answer ended without its end")
    }
}
