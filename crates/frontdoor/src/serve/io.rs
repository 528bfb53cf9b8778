//! A socket with bounds on its two silences: a client that never speaks, and
//! one that never reads.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Enough to tell HTTP/2's preface from HTTP/1; until then nobody else
/// watches the clock.
const FIRST_BYTES: usize = 24;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// To its first bytes.
    pub(super) first_bytes: Duration,
    /// To take anything once its socket is full.
    pub(super) write: Duration,
}

/// A stream that fails with `TimedOut` when a bound is passed.
pub(super) struct Guarded<S> {
    stream: S,
    bounds: Bounds,
    read: usize,
    /// Runs until the first bytes are in.
    silent: Option<Pin<Box<Sleep>>>,
    /// Runs while the socket is full.
    full: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, bounds: Bounds) -> Self {
        Self {
            stream,
            bounds,
            read: 0,
            silent: Some(Box::pin(tokio::time::sleep(bounds.first_bytes))),
            full: None,
        }
    }

    /// Passes a write's outcome on, and counts the time it stays pending.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.full = None;
            return outcome;
        }
        let bound = self.bounds.write;
        let full = self
            .full
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(bound)));
        ready!(full.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(silent) = &mut this.silent else {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        };
        let before = buffer.filled().len();
        if Pin::new(&mut this.stream).poll_read(cx, buffer)?.is_ready() {
            this.read += buffer.filled().len() - before;
            if this.read >= FIRST_BYTES {
                this.silent = None;
            }
            return Poll::Ready(Ok(()));
        }
        ready!(silent.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.written(cx, outcome)
    }
}
