//! Streams that note when they go: the dispatcher's, and the node's.

use futures::{Stream, StreamExt as _, stream};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as Poller, Poll};
use std::time::{Duration, Instant};
use tiermesh_core::privacy::permit;
use tiermesh_core::{
    CapacityReport, Context, Destination, Event, EventStream, Infer, InferError, InferFuture,
    ModelId, ModelOffer, ModelState, Request, Residency, Sealed, Task, Token, Usd,
};
use tiermesh_link::CapacitySource;
use tiermesh_router::Dispatcher;

/// Streams the node takes at once.
pub(crate) const CAPACITY: u32 = 256;
/// Between two tokens.
const PAUSE: Duration = Duration::from_millis(5);

/// Who held something for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Held {
    Gateway,
    Node,
}

/// When what was held for a request went.
#[derive(Default)]
pub(crate) struct Notes(pub(crate) Mutex<BTreeMap<(Held, String), Instant>>);

/// Notes the moment it goes.
struct Note(Arc<Notes>, Held, String);

impl Drop for Note {
    fn drop(&mut self) {
        let key = (self.1, std::mem::take(&mut self.2));
        let mut notes = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.insert(key, Instant::now());
    }
}

/// The dispatcher, and a note when one of its streams goes.
pub(crate) struct Watched {
    pub(crate) notes: Arc<Notes>,
    pub(crate) inner: Arc<Dispatcher>,
}

/// Fields go in order: the stream, with all it holds, and then the note.
struct Kept {
    stream: EventStream,
    _note: Note,
}

impl Stream for Kept {
    type Item = Result<Event, InferError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(cx)
    }
}

impl Infer for Watched {
    fn infer(&self, request: Arc<Sealed<Request>>, context: Context) -> InferFuture<'_> {
        let id = request.meta().request_id.to_string();
        let note = Note(self.notes.clone(), Held::Gateway, id);
        Box::pin(async move {
            let stream = self.inner.infer(request, context).await?;
            Ok(Box::pin(Kept {
                stream,
                _note: note,
            }) as EventStream)
        })
    }
}

/// The node: a token every few milliseconds until it is stopped.
pub(crate) struct Endless {
    pub(crate) notes: Arc<Notes>,
    pub(crate) own: Destination,
    pub(crate) offer: Arc<ModelOffer>,
}

impl Infer for Endless {
    fn infer(&self, request: Arc<Sealed<Request>>, _: Context) -> InferFuture<'_> {
        let id = request.meta().request_id.to_string();
        let note = Note(self.notes.clone(), Held::Node, id);
        Box::pin(async move {
            let permit = permit(&request, &self.own)?;
            request.open(&permit, &self.own.node)?;
            let tokens = stream::unfold((0_u64, note), |(n, note)| async move {
                tokio::time::sleep(PAUSE).await;
                let token = Token {
                    text: " word".to_owned(),
                    id: u32::try_from(n).ok(),
                    logprob: None,
                    detail: None,
                };
                let event = Event::Tokens {
                    first_seq: n,
                    items: vec![token],
                };
                Some((Ok(event), (n + 1, note)))
            });
            Ok(Box::pin(tokens) as EventStream)
        })
    }
}

const STATE: ModelState = ModelState {
    prefill_tok_s: 10_000.0,
    decode_tok_s: 200.0,
    first_token_ms: 5.0,
    first_token_p99_ms: 10.0,
    residency: Residency::Hot,
    load_ms: 0,
    kv_tokens_free: 0,
    calibration_error: 0.0,
};

impl CapacitySource for Endless {
    fn capacity(&self) -> u32 {
        CAPACITY
    }

    fn report(&self) -> CapacityReport {
        CapacityReport {
            sequence: 0,
            credits: 0,
            slots: 0,
            lease: Duration::ZERO,
            active: 0,
            queued: 0,
            load: 0.0,
            battery_percent: None,
            engine: Default::default(),
            models: vec![STATE],
        }
    }
}

/// What the node has.
pub(crate) fn offer() -> anyhow::Result<ModelOffer> {
    Ok(ModelOffer {
        id: ModelId::new("endless")?,
        family: "script".into(),
        digest: None,
        numerics_id: None,
        tasks: vec![Task::Generate],
        context_tokens: 32_768,
        quality: 0.7,
        input_per_million: Usd::from_nanos(1_000_000),
        output_per_million: Usd::from_nanos(1_000_000),
    })
}
