//! Core's events as Converse's event-stream frames.

use super::errors::exception_frame;
use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde_json::{Value, json};
use std::collections::VecDeque;
use tiermesh_core::{
    Done, ErrorClass, Event, EventStream, FinishReason, InferError, Seam, SeamKind,
};

/// One frame, and whether it is a piece of text.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) bytes: Bytes,
    pub(crate) kind: FrameKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Delta,
    Metadata,
    Other,
}

/// Turns an answer into frames. The first event was taken off to learn whether
/// there is an answer at all.
pub(crate) fn frames(first: Event, rest: EventStream) -> impl Stream<Item = Frame> + Send {
    let framer = Framer {
        events: Some(Box::pin(
            futures::stream::iter([Ok(first)]).chain(rest).fuse(),
        )),
        ready: VecDeque::from([event("messageStart", &json!({ "role": "assistant" }))]),
    };
    futures::stream::unfold(framer, |mut framer| async move {
        framer.next().await.map(|frame| (frame, framer))
    })
}

struct Framer {
    /// `None` once the answer ended.
    events: Option<EventStream>,
    /// At most the four frames of an answer's end.
    ready: VecDeque<Frame>,
}

impl Framer {
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            match self.events.as_mut()?.next().await {
                Some(Ok(event)) => self.take(event),
                Some(Err(error)) => self.fail(&error),
                None => self.fail(&incomplete()),
            }
        }
    }

    fn take(&mut self, taken: Event) {
        match taken {
            Event::Tokens { items, .. } => {
                let text: String = items.into_iter().map(|token| token.text).collect();
                // A token in the middle of a character adds no text yet.
                if !text.is_empty() {
                    let body = json!({ "contentBlockIndex": 0, "delta": { "text": text } });
                    self.ready.push_back(event("contentBlockDelta", &body));
                }
            }
            Event::Done(done) => {
                self.events = None;
                self.ready.extend(ending(&done));
            }
            Event::Seam(seam) => {
                if let Some(error) = unsayable(&seam) {
                    self.fail(&error);
                }
            }
            Event::Result(_) => self.fail(&no_text()),
            Event::Accepted(_) => {}
        }
    }

    fn fail(&mut self, error: &InferError) {
        self.events = None;
        self.ready.push_back(Frame {
            bytes: exception_frame(error),
            kind: FrameKind::Other,
        });
    }
}

fn ending(done: &Done) -> [Frame; 3] {
    let latency = u64::try_from(done.total.as_millis()).unwrap_or(u64::MAX);
    let stop = json!({ "stopReason": stop_reason(done.finish) });
    let metadata = json!({ "usage": usage(done), "metrics": { "latencyMs": latency } });
    [
        event("contentBlockStop", &json!({ "contentBlockIndex": 0 })),
        event("messageStop", &stop),
        event("metadata", &metadata),
    ]
}

pub(crate) const fn stop_reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "end_turn",
        FinishReason::Length => "max_tokens",
        FinishReason::ContentFilter => "content_filtered",
    }
}

pub(crate) fn usage(done: &Done) -> Value {
    // The SDKs read 32-bit counts.
    let most = |n: u64| n.min(i32::MAX.unsigned_abs().into());
    let (input, output) = (done.usage.input_tokens, done.usage.output_tokens);
    json!({
        "inputTokens": most(input),
        "outputTokens": most(output),
        "totalTokens": most(input.saturating_add(output)),
    })
}

/// Converse cannot take text back.
pub(crate) fn unsayable(seam: &Seam) -> Option<InferError> {
    (seam.kind == SeamKind::Restart).then(|| {
        InferError::new(
            ErrorClass::Unavailable,
            "RESTART_NOT_SERVED",
            "the answer started over, which this API cannot express: ask again",
        )
    })
}

pub(crate) fn incomplete() -> InferError {
    InferError::new(
        ErrorClass::Internal,
        "STREAM_CUT",
        "the answer ended before it was complete",
    )
}

pub(crate) fn no_text() -> InferError {
    InferError::new(
        ErrorClass::Internal,
        "NOT_A_TEXT",
        "the answer is not text, and Converse serves text",
    )
}

fn event(kind: &'static str, body: &Value) -> Frame {
    Frame {
        bytes: encode("event", ":event-type", kind, body),
        kind: match kind {
            "contentBlockDelta" => FrameKind::Delta,
            "metadata" => FrameKind::Metadata,
            _ => FrameKind::Other,
        },
    }
}

/// An exception frame by Bedrock's own name.
pub(crate) fn exception(kind: &'static str, message: &str) -> Bytes {
    encode(
        "exception",
        ":exception-type",
        kind,
        &json!({ "message": message }),
    )
}

fn encode(
    message_type: &'static str,
    key: &'static str,
    kind: &'static str,
    body: &Value,
) -> Bytes {
    let text = |value: &'static str| HeaderValue::String(value.into());
    let message = Message::new(body.to_string())
        .add_header(Header::new(key, text(kind)))
        .add_header(Header::new(":content-type", text("application/json")))
        .add_header(Header::new(":message-type", text(message_type)));
    let mut bytes = Vec::with_capacity(256);
    // Fails over 24 MiB; an event of the mesh is bounded far below.
    if let Err(error) = write_message_to(&message, &mut bytes) {
        tracing::error!(%error, "an event does not fit into a frame");
        bytes.clear();
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_smithy_eventstream::frame::read_message_from;
    use tiermesh_core::Token;

    fn tokens(texts: &[&str]) -> Event {
        let token = |text: &&str| Token {
            text: (*text).to_owned(),
            id: None,
            logprob: None,
            detail: None,
        };
        Event::Tokens {
            first_seq: 0,
            items: texts.iter().map(token).collect(),
        }
    }

    async fn kinds(first: Event, rest: Vec<Result<Event, InferError>>) -> Vec<(String, Value)> {
        let rest = Box::pin(futures::stream::iter(rest));
        let frames: Vec<_> = frames(first, rest).collect().await;
        frames
            .into_iter()
            .map(|frame| {
                let message = read_message_from(frame.bytes).unwrap();
                let kind = message.headers()[0].value().as_string().unwrap();
                let body = serde_json::from_slice(message.payload()).unwrap();
                (kind.as_str().to_owned(), body)
            })
            .collect()
    }

    fn done() -> Event {
        Event::Done(Box::new(Done {
            finish: FinishReason::Length,
            usage: tiermesh_core::Usage {
                input_tokens: 3,
                output_tokens: 2,
            },
            cost: tiermesh_core::Usd::ZERO,
            first_token: None,
            total: std::time::Duration::from_millis(12),
            attempts: Vec::new(),
        }))
    }

    #[tokio::test]
    async fn an_answer_has_bedrocks_frames_in_bedrocks_order() {
        let frames = kinds(tokens(&["a", "", "b"]), vec![Ok(tokens(&[""])), Ok(done())]).await;
        let names: Vec<_> = frames.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(
            names,
            [
                "messageStart",
                "contentBlockDelta",
                "contentBlockStop",
                "messageStop",
                "metadata"
            ]
        );
        assert_eq!(frames[1].1["delta"]["text"], "ab");
        assert_eq!(frames[3].1["stopReason"], "max_tokens");
        assert_eq!(frames[4].1["usage"]["totalTokens"], 5);
        assert_eq!(frames[4].1["metrics"]["latencyMs"], 12);
    }

    #[tokio::test]
    async fn an_answer_that_just_ends_is_an_exception() {
        let frames = kinds(tokens(&["a"]), vec![]).await;
        assert_eq!(frames.last().unwrap().0, "internalServerException");
        let broken = InferError::new(ErrorClass::Exhausted, "X", "later");
        let frames = kinds(tokens(&["a"]), vec![Err(broken), Ok(done())]).await;
        assert_eq!(frames.last().unwrap().0, "throttlingException");
    }
}
