//! One inference over one bidirectional stream.
//!
//! The opener sends Start and reads frames; the other end answers. Dropping
//! the answer resets the stream, which drops the work behind it.

use crate::codec::{FrameError, FrameReader, MAX_EVENT, MAX_START, encode};
use crate::transport::code;
use bytes::BytesMut;
use futures::StreamExt as _;
use quinn::{Connection, RecvStream, SendStream};
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    Clock, Context, Destination, ErrorClass, Event, EventStream, Infer, InferError, Request,
    RequestMeta, Sealed, privacy,
};
use tiermesh_proto::link::stream_frame::Frame;
use tiermesh_proto::link::{Start, StreamFrame};
use tiermesh_proto::{failure_from_wire, failure_to_wire, start_from_wire, start_to_wire, v1};

/// How long an opener may take to send its Start.
const START_WITHIN: Duration = Duration::from_secs(10);
/// An answer's frames are gathered into one write up to this size.
const GATHER: usize = 16 * 1024;

/// The opener's half while an answer is read. Dropping it before the end
/// resets both directions.
struct Opened<G> {
    reader: FrameReader,
    send: SendStream,
    ended: bool,
    /// Credit or count held for as long as the stream lives.
    _held: G,
}

impl<G> Drop for Opened<G> {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.send.reset(code::CANCELLED);
            let _ = self.reader.stream_mut().stop(code::CANCELLED);
        }
    }
}

/// Opens an inference on `connection` towards `to`. `held` is released when
/// the answer ends, however it ends.
///
/// # Errors
/// When no permit can be had for `to`, or the connection does not carry the
/// Start.
pub(crate) async fn open<G: Send + 'static>(
    connection: &Connection,
    to: &Destination,
    request: &Sealed<Request>,
    context: &Context,
    clock: &dyn Clock,
    held: G,
) -> Result<EventStream, InferError> {
    let permit = privacy::permit(request, to)?;
    let content = request.open(&permit, &to.node)?;
    let start = start_to_wire(request.meta(), content, context, clock.now());
    let lost = || {
        InferError::new(
            ErrorClass::Unavailable,
            "NODE_LOST",
            format!("the link to `{}` is down", to.node),
        )
    };
    let (mut send, recv) = connection.open_bi().await.map_err(|_| lost())?;
    let mut bytes = BytesMut::new();
    encode(&start, &mut bytes);
    send.write_all(&bytes).await.map_err(|_| lost())?;
    let opened = Opened {
        reader: FrameReader::new(recv, MAX_EVENT),
        send,
        ended: false,
        _held: held,
    };
    let node = to.node.clone();
    let frames = futures::stream::try_unfold(opened, move |mut opened| {
        let node = node.clone();
        async move {
            if opened.ended {
                return Ok(None);
            }
            let frame = opened.reader.next::<StreamFrame>().await;
            let event = event_of(frame, node.as_str());
            opened.ended = matches!(event, Ok(Event::Done(_)) | Err(_));
            Ok(Some((event?, opened)))
        }
    });
    Ok(Box::pin(frames))
}

fn event_of(
    frame: Result<Option<StreamFrame>, FrameError>,
    node: &str,
) -> Result<Event, InferError> {
    let broken = |reason, message| InferError::new(ErrorClass::Unavailable, reason, message);
    let frame = match frame {
        Ok(Some(frame)) => frame.frame,
        Ok(None) => {
            let message = format!("`{node}` ended the answer without completing it");
            return Err(broken("NODE_LOST", message));
        }
        Err(FrameError::Broken(_)) => {
            return Err(broken("NODE_LOST", format!("the link to `{node}` broke")));
        }
        Err(error) => {
            let message = format!("`{node}` broke the link's protocol: {error}");
            return Err(InferError::new(ErrorClass::Internal, "NODE_LOST", message));
        }
    };
    match frame {
        Some(Frame::Event(event)) => Event::try_from(event).map_err(|error| {
            let message = format!("`{node}` sent an event that makes no sense: {error}");
            InferError::new(ErrorClass::Internal, "NODE_LOST", message)
        }),
        Some(Frame::Failure(failure)) => Err(failure_from_wire(failure)),
        None => Err(broken("NODE_LOST", format!("`{node}` sent an empty frame"))),
    }
}

/// Looks at a request that a peer sent, before it is sealed.
pub trait Admit: Send + Sync + 'static {
    /// Refuses what may not be asked here; may make the request stricter, and
    /// takes away from the context what the peer has no say in.
    ///
    /// # Errors
    /// Why not.
    fn admit(&self, request: &mut RequestMeta, context: &mut Context) -> Result<(), InferError>;
}

/// Answers one stream that the peer opened, until the answer or the peer's
/// interest ends.
pub(crate) async fn answer(
    mut send: SendStream,
    recv: RecvStream,
    infer: Arc<dyn Infer>,
    admit: Arc<dyn Admit>,
    clock: Arc<dyn Clock>,
) {
    let mut reader = FrameReader::new(recv, MAX_START);
    let start = tokio::time::timeout(START_WITHIN, reader.next::<Start>()).await;
    let Ok(Ok(Some(start))) = start else {
        // Garbage or silence costs the peer its stream and nobody anything.
        if let Ok(Err(error)) = &start {
            tracing::warn!(%error, "an inference stream began with garbage");
        }
        let _ = send.reset(code::PROTOCOL);
        return;
    };
    let answering = respond(&mut send, start, &*infer, &*admit, &*clock);
    tokio::select! {
        () = answering => {}
        // The opener keeps its half open: anything here is its cancellation.
        _ = reader.next::<StreamFrame>() => {
            let _ = send.reset(code::CANCELLED);
        }
    }
}

async fn respond(
    send: &mut SendStream,
    start: Start,
    infer: &dyn Infer,
    admit: &dyn Admit,
    clock: &dyn Clock,
) {
    let mut buffer = BytesMut::new();
    match begin(start, infer, admit, clock).await {
        Err(error) => encode(&failure(&error), &mut buffer),
        Ok(mut events) => {
            let mut ended = false;
            while !ended {
                let Some(first) = events.next().await else {
                    break;
                };
                ended = put(first, &mut buffer);
                // What is ready now goes out in the same write.
                while !ended && buffer.len() < GATHER {
                    let Some(Some(more)) = futures::FutureExt::now_or_never(events.next()) else {
                        break;
                    };
                    ended = put(more, &mut buffer);
                }
                if send.write_all(&buffer).await.is_err() {
                    return;
                }
                buffer.clear();
            }
        }
    }
    if send.write_all(&buffer).await.is_ok() {
        let _ = send.finish();
        // The last bytes are with the peer, or the peer is gone.
        let _ = send.stopped().await;
    }
}

async fn begin(
    start: Start,
    infer: &dyn Infer,
    admit: &dyn Admit,
    clock: &dyn Clock,
) -> Result<EventStream, InferError> {
    let mut parts = start_from_wire(start, clock.now()).map_err(|error| {
        InferError::new(
            ErrorClass::InvalidArgument,
            "INVALID_FIELD",
            format!("the Start frame does not fit: {error}"),
        )
    })?;
    admit.admit(&mut parts.request.meta, &mut parts.context)?;
    let sealed = Arc::new(Sealed::new(parts.request));
    infer.infer(sealed, parts.context).await
}

/// Appends one item; true when it was the last.
fn put(item: Result<Event, InferError>, buffer: &mut BytesMut) -> bool {
    match item {
        Ok(event) => {
            let last = matches!(event, Event::Done(_));
            let frame = Frame::Event(v1::InferEvent::from(event));
            encode(&StreamFrame { frame: Some(frame) }, buffer);
            last
        }
        Err(error) => {
            encode(&failure(&error), buffer);
            true
        }
    }
}

fn failure(error: &InferError) -> StreamFrame {
    StreamFrame {
        frame: Some(Frame::Failure(failure_to_wire(error))),
    }
}
