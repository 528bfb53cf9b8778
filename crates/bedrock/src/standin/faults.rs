//! What can go wrong with Bedrock, on request.

use super::seen::Running;
use crate::wire::errors::plain;
use crate::wire::frames::{Frame, FrameKind, exception};
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderValue, StatusCode, header};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most faults that wait; the oldest gives way.
const MOST_FAULTS: usize = 1_024;
/// Lets what was written leave before the connection breaks.
const BEFORE_RESET: Duration = Duration::from_millis(20);

/// One way a request fails. `u32` counts pieces of text that still arrive.
/// Faults in mid-stream touch `converse-stream` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 429, `ThrottlingException`, with `retry-after: 2`.
    Throttle,
    /// 403, `AccessDeniedException`.
    AccessDenied,
    /// 400, `ValidationException`.
    Validation,
    /// 424, `ModelErrorException`.
    ModelError,
    /// 503, `ServiceUnavailableException`.
    ServiceUnavailable,
    /// After a 200 and so much text, `throttlingException`.
    InStreamThrottle(u32),
    /// After a 200 and so much text, `modelStreamErrorException`.
    InStreamModelError(u32),
    /// A clean end without `messageStop`.
    CutAfter(u32),
    /// A whole answer without its `metadata`, so without usage.
    NoUsage,
    /// The connection breaks.
    ResetAfter(u32),
    /// Nothing more comes, and the connection stays.
    StallAfter(u32),
    /// The request is read and nothing at all comes back.
    Silence,
    /// The first text comes so many milliseconds late.
    SlowFirstToken(u64),
}

impl Fault {
    /// The refusal, for faults that come before a stream.
    pub(super) fn refusal(self) -> Option<Response> {
        let (status, kind, message) = match self {
            Self::Throttle => (
                StatusCode::TOO_MANY_REQUESTS,
                "ThrottlingException",
                "Too many requests, please wait before trying again.",
            ),
            Self::AccessDenied => (
                StatusCode::FORBIDDEN,
                "AccessDeniedException",
                "User: arn:aws:iam::123456789012:user/standin is not authorized to perform: bedrock:InvokeModelWithResponseStream",
            ),
            Self::Validation => (
                StatusCode::BAD_REQUEST,
                "ValidationException",
                "The text field in the ContentBlock object at messages.0.content.0 is blank.",
            ),
            Self::ModelError => (
                StatusCode::FAILED_DEPENDENCY,
                "ModelErrorException",
                "The model returned an error.",
            ),
            Self::ServiceUnavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "ServiceUnavailableException",
                "Bedrock is unable to process your request.",
            ),
            _ => return None,
        };
        let mut response = plain(status, kind, message);
        if self == Self::Throttle {
            let after = HeaderValue::from_static("2");
            response.headers_mut().insert(header::RETRY_AFTER, after);
        }
        Some(response)
    }
}

/// Which fault comes next.
#[derive(Debug, Default)]
pub(super) struct Script {
    plan: Mutex<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    queued: VecDeque<Fault>,
    standing: Option<Fault>,
}

impl Script {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, fault: Fault) {
        let mut plan = self.plan();
        if plan.queued.len() == MOST_FAULTS {
            plan.queued.pop_front();
        }
        plan.queued.push_back(fault);
    }

    pub(super) fn set(&self, fault: Option<Fault>) {
        self.plan().standing = fault;
    }

    pub(super) fn next(&self) -> Option<Fault> {
        let mut plan = self.plan();
        plan.queued.pop_front().or(plan.standing)
    }
}

/// The frames of an answer with a fault in them, as a body's chunks.
pub(super) fn spoil(
    frames: Pin<Box<dyn Stream<Item = Frame> + Send>>,
    fault: Option<Fault>,
    mut running: Running,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    running.begin();
    let spoiler = Spoiler {
        frames: Some(frames),
        fault,
        texts: 0,
        running,
    };
    futures::stream::unfold(spoiler, |mut spoiler| async move {
        spoiler.next().await.map(|chunk| (chunk, spoiler))
    })
}

struct Spoiler {
    /// `None` once the body ended.
    frames: Option<Pin<Box<dyn Stream<Item = Frame> + Send>>>,
    fault: Option<Fault>,
    texts: u32,
    running: Running,
}

impl Spoiler {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let frame = match self.frames.as_mut()?.next().await {
            Some(frame) => frame,
            None => return self.end(None),
        };
        let is_text = frame.kind == FrameKind::Delta;
        // The message opens in any case; its end counts as what comes next.
        let is_due = |after: u32| self.texts >= after && (is_text || self.texts > 0);
        match self.fault {
            Some(Fault::InStreamThrottle(after)) if is_due(after) => {
                let bytes = exception("throttlingException", "Too many tokens per minute.");
                return self.end(Some(Ok(bytes)));
            }
            Some(Fault::InStreamModelError(after)) if is_due(after) => {
                let bytes = exception("modelStreamErrorException", "The model broke off.");
                return self.end(Some(Ok(bytes)));
            }
            Some(Fault::CutAfter(after)) if is_due(after) => return self.end(None),
            Some(Fault::ResetAfter(after)) if is_due(after) => {
                tokio::time::sleep(BEFORE_RESET).await;
                let reset = io::Error::from(io::ErrorKind::ConnectionReset);
                return self.end(Some(Err(reset)));
            }
            Some(Fault::StallAfter(after)) if is_due(after) => futures::future::pending().await,
            Some(Fault::SlowFirstToken(ms)) if is_text && self.texts == 0 => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
            }
            Some(Fault::NoUsage) if frame.kind == FrameKind::Metadata => return self.end(None),
            _ => {}
        }
        self.texts += u32::from(is_text);
        if frame.kind == FrameKind::Metadata {
            // Nothing is lost on a client that leaves now.
            self.running.finish();
        }
        Some(Ok(frame.bytes))
    }

    fn end(&mut self, last: Option<io::Result<Bytes>>) -> Option<io::Result<Bytes>> {
        self.frames = None;
        self.running.finish();
        last
    }
}
