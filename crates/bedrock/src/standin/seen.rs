//! What the stand-in remembers of its requests: names and counts, no content
//! unless a test asks for it.

use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The most requests remembered.
const MOST_REQUESTS: usize = 1_000;

/// A request as the stand-in saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRequest {
    /// The Bedrock model id of its path, decoded.
    pub model_id: String,
    /// The mesh's via header, when there was one.
    pub via: Option<String>,
    /// Whether it asked for frames.
    pub is_streaming: bool,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    requests: Mutex<VecDeque<(SeenRequest, Option<Bytes>)>>,
    count: AtomicU64,
    active: AtomicUsize,
    abandoned: AtomicU64,
    connections: AtomicU64,
}

impl Seen {
    pub(super) fn record(&self, request: SeenRequest, body: Option<Bytes>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.len() == MOST_REQUESTS {
            requests.pop_front();
        }
        requests.push_back((request, body));
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    pub(super) fn abandoned(&self) -> u64 {
        self.abandoned.load(Ordering::Relaxed)
    }

    pub(super) fn list(&self) -> Vec<SeenRequest> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().map(|(seen, _)| seen.clone()).collect()
    }

    pub(super) fn saw_bytes(&self, text: &str) -> bool {
        let escaped = serde_json::Value::from(text).to_string();
        let needles = [text.as_bytes(), escaped.trim_matches('"').as_bytes()];
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bodies = requests.iter().filter_map(|(_, body)| body.as_ref());
        bodies.any(|body| needles.iter().any(|needle| contains(body, needle)))
    }
}

fn contains(body: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && body.windows(needle.len()).any(|window| window == needle)
}

/// Counts an answer from its first byte until it ends or is dropped.
#[derive(Debug)]
pub(super) struct Running {
    seen: Arc<Seen>,
    is_streaming: bool,
}

impl Running {
    pub(super) fn new(seen: Arc<Seen>) -> Self {
        seen.active.fetch_add(1, Ordering::Relaxed);
        Self {
            seen,
            is_streaming: false,
        }
    }

    /// From here on a drop means that the client went away.
    pub(super) const fn begin(&mut self) {
        self.is_streaming = true;
    }

    /// The answer is whole, or broken on purpose.
    pub(super) const fn finish(&mut self) {
        self.is_streaming = false;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.seen.active.fetch_sub(1, Ordering::Relaxed);
        if self.is_streaming {
            self.seen.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}
