//! An answer as server-sent events.

use super::reply::{Head, RESUME, body, finish, logprob, usage};
use super::{Opened, no_chat};
use crate::answer::Answer;
use crate::status::log;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_core::Stream;
use http::{HeaderValue, header};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context as Poller, Poll};
use tiermesh_core::{Done, ErrorClass, Event, InferError, Seam, SeamKind, Token};

/// Events that are ready together leave together, up to about this many bytes.
const FRAME_BYTES: usize = 16 * 1024;

pub(super) fn respond(opened: Opened, include_usage: bool, resumable: bool) -> Response {
    let mut headers = opened.head.headers();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let mut chunks = Chunks::new(opened, include_usage);
    chunks.lines.numbered = resumable;
    (headers, Body::from_stream(chunks)).into_response()
}

/// The events of one answer, as bytes. It is polled by the connection: no
/// task and no queue stand between the model and the socket.
struct Chunks {
    answer: Answer,
    first: Option<Event>,
    lines: Lines,
    ended: bool,
}

impl Chunks {
    fn new(opened: Opened, include_usage: bool) -> Self {
        let mut lines = Lines::new(&opened.head, include_usage);
        lines.chunk(&json!({ "role": "assistant", "content": "" }), None);
        Self {
            answer: opened.rest,
            first: Some(opened.first),
            lines,
            ended: false,
        }
    }

    fn poll_event(&mut self, cx: &mut Poller<'_>) -> Poll<Option<Result<Event, InferError>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => Pin::new(&mut self.answer).poll_next(cx),
        }
    }

    /// After a seam the token in the headers may no longer say who speaks. A
    /// comment tells the new one: other clients do not see it.
    fn tell_token(&mut self, seam: &Seam) {
        let same = matches!(seam.kind, SeamKind::Exact | SeamKind::SameModel);
        let issuer = self.answer.issuer.as_mut();
        let told = issuer.filter(|_| self.lines.numbered && seam.kind != SeamKind::Exact);
        if let Some(issuer) = told {
            let token = issuer.after_seam(&seam.to, same);
            let line = format!(": {RESUME}: {token}\n\n");
            self.lines.buffer.put_slice(line.as_bytes());
        }
    }

    fn write(&mut self, event: Result<Event, InferError>) {
        let refused = match event {
            Ok(Event::Tokens { first_seq, items }) => {
                return self.lines.tokens(first_seq, &items);
            }
            Ok(Event::Done(done)) => {
                self.ended = true;
                return self.lines.done(&done);
            }
            Ok(Event::Seam(seam)) if seam.kind == SeamKind::Restart && self.lines.spoken => {
                // What was sent cannot be taken back over this API.
                InferError::new(
                    ErrorClass::Unavailable,
                    "RESTARTED",
                    "the answer starts over, which this API cannot say: ask again",
                )
            }
            Ok(Event::Seam(seam)) => return self.tell_token(&seam),
            Ok(Event::Accepted(_)) => return,
            Ok(Event::Result(_)) => no_chat(),
            Err(error) => error,
        };
        log(&refused);
        self.ended = true;
        self.lines.event(&body(&refused));
    }
}

impl Stream for Chunks {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<Option<Self::Item>> {
        let chunks = &mut *self;
        while !chunks.ended && chunks.lines.buffer.len() < FRAME_BYTES {
            match chunks.poll_event(cx) {
                Poll::Ready(Some(event)) => chunks.write(event),
                Poll::Ready(None) => chunks.ended = true,
                Poll::Pending if chunks.lines.buffer.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        let buffer = &mut chunks.lines.buffer;
        if buffer.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(buffer.split().freeze())))
    }
}

/// Writes `data:` lines. What every chunk has in common is made once.
struct Lines {
    buffer: BytesMut,
    /// Up to the delta's content.
    before: String,
    /// From the end of the log-probabilities.
    after: &'static str,
    head: Value,
    include_usage: bool,
    spoken: bool,
    /// Each chunk of text has an id: the number of the next token.
    numbered: bool,
}

impl Lines {
    fn new(head: &Head, include_usage: bool) -> Self {
        let (id, model) = (json!(head.id), json!(head.model));
        let before = format!(
            "data: {{\"id\":{id},\"object\":\"chat.completion.chunk\",\"created\":{},\"model\":{model},\
             \"choices\":[{{\"index\":0,\"delta\":{{\"content\":",
            head.created
        );
        let after = if include_usage {
            ",\"finish_reason\":null}],\"usage\":null}\n\n"
        } else {
            ",\"finish_reason\":null}]}\n\n"
        };
        let head = json!({
            "id": id,
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": model,
        });
        Self {
            buffer: BytesMut::with_capacity(1024),
            before,
            after,
            head,
            include_usage,
            spoken: false,
            numbered: false,
        }
    }

    /// One chunk for tokens that came together; none when they add no text
    /// and nothing else is known of them.
    fn tokens(&mut self, first_seq: u64, items: &[Token]) {
        let joined: String;
        let text = match items {
            [token] => token.text.as_str(),
            tokens => {
                joined = tokens.iter().map(|token| token.text.as_str()).collect();
                &joined
            }
        };
        let scores: Vec<Value> = items.iter().filter_map(logprob).collect();
        if text.is_empty() && scores.is_empty() {
            return;
        }
        self.spoken = true;
        if self.numbered {
            let next = first_seq + items.len() as u64;
            self.buffer.put_slice(format!("id: {next}\n").as_bytes());
        }
        self.buffer.put_slice(self.before.as_bytes());
        self.json(text);
        self.buffer.put_slice(b"},\"logprobs\":");
        if scores.is_empty() {
            self.buffer.put_slice(b"null");
        } else {
            self.json(&json!({ "content": scores, "refusal": null }));
        }
        self.buffer.put_slice(self.after.as_bytes());
    }

    fn done(&mut self, done: &Done) {
        self.chunk(&json!({}), Some(finish(done.finish)));
        if self.include_usage {
            let mut last = self.head.clone();
            last["choices"] = json!([]);
            last["usage"] = usage(done.usage);
            self.event(&last);
        }
        self.buffer.put_slice(b"data: [DONE]\n\n");
    }

    fn chunk(&mut self, delta: &Value, finish: Option<&str>) {
        let mut chunk = self.head.clone();
        chunk["choices"] = json!([{
            "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish,
        }]);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        self.event(&chunk);
    }

    fn event(&mut self, value: &Value) {
        self.buffer.put_slice(b"data: ");
        self.json(value);
        self.buffer.put_slice(b"\n\n");
    }

    fn json<T: serde::Serialize + ?Sized>(&mut self, value: &T) {
        serde_json::to_writer((&mut self.buffer).writer(), value)
            .expect("text and JSON values always serialise into memory");
    }
}
