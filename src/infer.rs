//! `tiermesh infer`: one answer, streamed.

use crate::client::{DoorArgs, RequestArgs, explain, inference, tier_name};
use crate::out;
use anyhow::bail;
use serde_json::json;
use tiermesh_proto::v1;
use tiermesh_proto::v1::infer_event::Event;
use tonic::Streaming;

/// Arguments of `tiermesh infer`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tiermesh infer \"sony mdr-zx110 on-ear headphones black\"
  tiermesh infer \"รองเท้า Nike Air Max ของแท้\" --policy iot --json
  tiermesh infer \"patient 7: device da-lite monitor\" --privacy edge --endpoint http://127.0.0.1:8081")]
pub(crate) struct Args {
    #[command(flatten)]
    request: RequestArgs,
    #[command(flatten)]
    door: DoorArgs,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What became of a stream.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// The text, whole.
    pub(crate) text: String,
    /// The last decision the stream told.
    pub(crate) decision: Option<v1::Decision>,
    /// How it ended.
    pub(crate) done: Option<v1::Done>,
    /// Tokens received.
    pub(crate) tokens: u64,
    /// Where it went on from somewhere else.
    pub(crate) seams: Vec<v1::Seam>,
}

/// What is shown of a stream as it comes.
pub(crate) enum Shown<'a> {
    /// A token's text.
    Text(&'a str),
    /// The answer goes on from somewhere else.
    Seam(&'a v1::Seam),
}

/// A seam in words.
pub(crate) fn seam_in_words(seam: &v1::Seam) -> String {
    let how = match v1::seam::Kind::try_from(seam.kind) {
        Ok(v1::seam::Kind::Exact) => "with the very tokens that would have come",
        Ok(v1::seam::Kind::SameModel) => "on the same model, perhaps in other words",
        Ok(v1::seam::Kind::Prefill) => "on another model, from the text so far",
        Ok(v1::seam::Kind::Restart) => "from the beginning: discard what came before",
        _ => "in a way this program does not know",
    };
    format!(
        "{} failed at token {}: {} goes on {how}",
        seam.from, seam.seq, seam.to
    )
}

impl Answer {
    /// Answer tokens a second, over the whole time from the door to the end:
    /// a small model's tokens arrive in one batch, so a rate after the first
    /// would say nothing.
    pub(crate) fn tokens_per_s(&self) -> Option<f64> {
        let done = self.done.as_ref()?;
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = done.output_tokens as f64 / done.total_ms * 1e3;
        (done.output_tokens > 0 && done.total_ms > 0.0).then_some(rate)
    }

    /// Why it went where it went: codes, those about the chosen node.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let Some(decision) = &self.decision else {
            return Vec::new();
        };
        decision
            .reasons
            .iter()
            .map(|reason| match reason.node.as_str() {
                "" => reason.code.clone(),
                node if node == decision.node => reason.code.clone(),
                node => format!("{node}:{}", reason.code),
            })
            .collect()
    }
}

/// Reads a stream to its end, handing what there is to show to `show`.
///
/// # Errors
/// The status that ended it instead of `Done`.
pub(crate) async fn read(
    mut stream: Streaming<v1::InferEvent>,
    mut show: impl FnMut(Shown<'_>),
) -> Result<Answer, tonic::Status> {
    let mut answer = Answer::default();
    while let Some(event) = stream.message().await? {
        match event.event {
            Some(Event::Accepted(accepted)) => answer.decision = accepted.decision,
            Some(Event::Tokens(tokens)) => {
                for token in tokens.items {
                    show(Shown::Text(&token.text));
                    answer.text.push_str(&token.text);
                    answer.tokens += 1;
                }
            }
            Some(Event::Done(done)) => answer.done = Some(done),
            Some(Event::Seam(seam)) => {
                show(Shown::Seam(&seam));
                if seam.kind == v1::seam::Kind::Restart as i32 {
                    answer.text.clear();
                }
                answer.seams.push(seam);
            }
            Some(Event::Result(_)) | None => {}
        }
    }
    if answer.done.is_none() {
        return Err(tonic::Status::unavailable("the stream ended without Done"));
    }
    Ok(answer)
}

/// Runs the command: text to stdout as it comes, the summary to stderr.
///
/// # Errors
/// What the door said instead of answering.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut client = inference(&args.door.endpoint).await?;
    let request = args.door.request(v1::InferRequest::from(args.request))?;
    let call = client.infer(request);
    let streaming = async {
        let stream = call.await?.into_inner();
        read(stream, |shown| match shown {
            Shown::Text(piece) if !args.json => out::text(piece),
            Shown::Text(_) => {}
            // On stderr alone: stdout is what an undisturbed run prints.
            Shown::Seam(seam) => out::note(&format!("[{}]", seam_in_words(seam))),
        })
        .await
    };
    let answer = tokio::select! {
        answer = streaming => answer,
        // Dropping the call cancels it, and the node stops at its next step.
        _ = tokio::signal::ctrl_c() => bail!("cancelled"),
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(status) => {
            if args.json {
                let (code, message) = (format!("{:?}", status.code()), status.message());
                out::line(
                    &json!({"kind": "request", "error": {"code": code, "message": message}})
                        .to_string(),
                );
            }
            return Err(explain(&status));
        }
    };
    if args.json {
        out::line(&record(&answer).to_string());
        return Ok(());
    }
    out::line("");
    out::note(&summary(&answer));
    Ok(())
}

fn record(answer: &Answer) -> serde_json::Value {
    let decision = answer.decision.clone().unwrap_or_default();
    let done = answer.done.clone().unwrap_or_default();
    json!({
        "kind": "request",
        "policy": decision.policy,
        "tier": tier_name(decision.tier),
        "node": decision.node,
        "model": decision.model,
        "ttft_ms": done.first_token_ms,
        "total_ms": done.total_ms,
        "tokens": done.output_tokens,
        "cost_usd": done.cost_usd,
        "text": answer.text,
        "reasons": answer.reasons(),
        "attempts": done.attempts.len(),
        "seams": answer.seams.iter().map(seam_record).collect::<Vec<_>>(),
        "error": null,
    })
}

/// A seam as JSON.
pub(crate) fn seam_record(seam: &v1::Seam) -> serde_json::Value {
    let kind = v1::seam::Kind::try_from(seam.kind).unwrap_or_default();
    json!({
        "seq": seam.seq,
        "from": seam.from,
        "to": seam.to,
        "kind": kind.as_str_name().to_lowercase(),
    })
}

fn summary(answer: &Answer) -> String {
    let decision = answer.decision.clone().unwrap_or_default();
    let done = answer.done.clone().unwrap_or_default();
    let rate = answer
        .tokens_per_s()
        .map_or_else(String::new, |rate| format!(", {rate:.0} tokens/s"));
    let retried = match done.attempts.len() {
        0 | 1 => String::new(),
        n => format!(", {n} attempts"),
    };
    format!(
        "{} {} ({}), policy {}: first token {:.1} ms, {} tokens{rate}, ${:.7}{retried}",
        tier_name(decision.tier),
        decision.node,
        decision.model,
        decision.policy,
        done.first_token_ms.unwrap_or_default(),
        done.output_tokens,
        done.cost_usd,
    )
}
