//! Streams that begin with what was kept.

use futures_core::Stream;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tiermesh_core::{Event, EventStream, InferError};

/// What is told from memory alone.
pub(super) struct Told(pub(super) VecDeque<Event>);

impl Stream for Told {
    type Item = Result<Event, InferError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

/// Tells what was missed behind the stream's `Accepted`, and then the rest.
pub(crate) fn after_accepted(events: Vec<Event>, rest: EventStream) -> EventStream {
    Box::pin(Behind {
        missed: events.into(),
        held: None,
        accepted: false,
        rest,
    })
}

struct Behind {
    missed: VecDeque<Event>,
    held: Option<Result<Event, InferError>>,
    accepted: bool,
    rest: EventStream,
}

impl Stream for Behind {
    type Item = Result<Event, InferError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.accepted
            && let Some(event) = self.missed.pop_front()
        {
            return Poll::Ready(Some(Ok(event)));
        }
        if let Some(held) = self.held.take() {
            return Poll::Ready(Some(held));
        }
        let event = ready!(self.rest.as_mut().poll_next(cx));
        if self.accepted {
            return Poll::Ready(event);
        }
        self.accepted = true;
        if matches!(event, Some(Ok(Event::Accepted(_)))) {
            return Poll::Ready(event);
        }
        self.held = event;
        match self.missed.pop_front() {
            Some(event) => Poll::Ready(Some(Ok(event))),
            None => Poll::Ready(self.held.take()),
        }
    }
}
