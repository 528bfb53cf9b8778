//! An answer in one piece.

use super::reply::{finish, logprob, usage};
use super::{Opened, next, no_chat};
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Value, json};
use tiermesh_core::{Event, InferError, SeamKind};

/// Collects the answer. Its length is bounded by the request's `max_tokens`.
/// `logprobs` says whether they were asked for.
pub(super) async fn respond(opened: Opened, logprobs: bool) -> Result<Response, InferError> {
    let Opened {
        mut head,
        first,
        mut rest,
    } = opened;
    let mut text = String::new();
    let mut scores: Vec<Value> = Vec::new();
    let mut event = first;
    let done = loop {
        match event {
            Event::Accepted(decision) => head.accept(&decision),
            Event::Tokens { items, .. } => {
                for token in &items {
                    text.push_str(&token.text);
                    scores.extend(logprob(token));
                }
            }
            Event::Seam(seam) if seam.kind == SeamKind::Restart => {
                text.clear();
                scores.clear();
            }
            Event::Seam(_) => {}
            Event::Result(_) => return Err(no_chat()),
            Event::Done(done) => break done,
        }
        event = next(&mut rest).await.ok_or_else(no_chat)??;
    };
    let body = json!({
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": [{
            "index": 0,
            "message": { "role": "assistant", "content": text, "refusal": null },
            "logprobs": logprobs.then(|| json!({ "content": scores, "refusal": null })),
            "finish_reason": finish(done.finish),
        }],
        "usage": usage(done.usage),
    });
    Ok((head.headers(), Json(body)).into_response())
}
