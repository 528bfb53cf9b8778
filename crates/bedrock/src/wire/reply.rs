//! A whole answer as Converse's response body.

use super::frames::{incomplete, no_text, stop_reason, unsayable, usage};
use futures::StreamExt;
use serde_json::{Value, json};
use tiermesh_core::request::MAX_OUTPUT_TOKENS;
use tiermesh_core::{ErrorClass, Event, EventStream, InferError};

/// The longest text a whole answer may grow to: every token as long as the
/// longest one any tokenizer has.
const MAX_TEXT_BYTES: usize = MAX_OUTPUT_TOKENS as usize * 128;

/// Waits for the end.
pub(crate) async fn collect(first: Event, mut rest: EventStream) -> Result<Value, InferError> {
    let mut text = String::new();
    let mut next = Some(Ok(first));
    loop {
        match next.ok_or_else(incomplete)?? {
            Event::Tokens { items, .. } => {
                items.iter().for_each(|token| text.push_str(&token.text));
                if text.len() > MAX_TEXT_BYTES {
                    return Err(InferError::new(
                        ErrorClass::Internal,
                        "ANSWER_TOO_LONG",
                        format!("the answer is over {MAX_TEXT_BYTES} bytes"),
                    ));
                }
            }
            Event::Done(done) => {
                let latency = u64::try_from(done.total.as_millis()).unwrap_or(u64::MAX);
                return Ok(json!({
                    "output": { "message": { "role": "assistant", "content": [{ "text": text }] } },
                    "stopReason": stop_reason(done.finish),
                    "usage": usage(&done),
                    "metrics": { "latencyMs": latency },
                }));
            }
            Event::Seam(seam) => {
                if let Some(error) = unsayable(&seam) {
                    return Err(error);
                }
            }
            Event::Result(_) => return Err(no_text()),
            Event::Accepted(_) => {}
        }
        next = rest.next().await;
    }
}
