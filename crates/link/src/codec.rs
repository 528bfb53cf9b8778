//! Length-delimited protobuf over a QUIC stream: four bytes of length, big
//! endian, then the message. Every kind of message has its bound.

use bytes::{Buf as _, BufMut as _, BytesMut};
use prost::Message;
use quinn::{ReadError, RecvStream};

/// The longest control frame: Hello with its models, or Offers.
pub(crate) const MAX_CONTROL: usize = 64 * 1024;
/// The longest Start: the longest content, the longest answer's ids, and room.
pub(crate) const MAX_START: usize = 512 * 1024;
/// The longest frame of an answer.
pub(crate) const MAX_EVENT: usize = 1024 * 1024;

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The peer announces more than is allowed.
    #[error("a frame of {announced} bytes is over the bound of {bound}")]
    TooLong {
        /// What it announced.
        announced: usize,
        /// What is allowed.
        bound: usize,
    },
    /// The bytes are no message.
    #[error("a frame does not decode")]
    Garbage(#[source] prost::DecodeError),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// The stream was reset or the connection is gone.
    #[error("the stream broke")]
    Broken(#[source] ReadError),
}

/// Reads frames of one stream.
pub(crate) struct FrameReader {
    stream: RecvStream,
    buffer: BytesMut,
    bound: usize,
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream, bound: usize) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            bound,
        }
    }

    /// The next frame; `None` at a clean end. Safe to drop half-way: what was
    /// read stays in the buffer.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        loop {
            if let Some(message) = decode(&mut self.buffer, self.bound)? {
                return Ok(Some(message));
            }
            match self.stream.read_chunk(64 * 1024, true).await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                Ok(None) if self.buffer.is_empty() => return Ok(None),
                Ok(None) => return Err(FrameError::Truncated),
                Err(error) => return Err(FrameError::Broken(error)),
            }
        }
    }

    /// The stream itself, to stop it.
    pub(crate) const fn stream_mut(&mut self) -> &mut RecvStream {
        &mut self.stream
    }
}

/// Takes one whole frame off the front of `buffer`.
pub(crate) fn decode<M: Message + Default>(
    buffer: &mut BytesMut,
    bound: usize,
) -> Result<Option<M>, FrameError> {
    let Some(head) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let announced = u32::from_be_bytes(*head) as usize;
    if announced > bound {
        return Err(FrameError::TooLong { announced, bound });
    }
    if buffer.len() < 4 + announced {
        return Ok(None);
    }
    buffer.advance(4);
    let body = buffer.split_to(announced).freeze();
    M::decode(body).map(Some).map_err(FrameError::Garbage)
}

/// Appends one frame to `buffer`.
pub(crate) fn encode<M: Message>(message: &M, buffer: &mut BytesMut) {
    let length = message.encoded_len();
    buffer.reserve(4 + length);
    buffer.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message
        .encode(buffer)
        .expect("a BytesMut grows as it is written");
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiermesh_proto::link::CreditAsk;

    #[test]
    fn frames_come_back_whole_however_they_are_cut() {
        let mut wire = BytesMut::new();
        for want in 0..20 {
            encode(&CreditAsk { want }, &mut wire);
        }
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        for byte in wire {
            buffer.put_u8(byte);
            while let Some(ask) = decode::<CreditAsk>(&mut buffer, MAX_CONTROL).unwrap() {
                seen.push(ask.want);
            }
        }
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn an_announcement_over_the_bound_is_refused_before_it_is_buffered() {
        let mut buffer = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        let error = decode::<CreditAsk>(&mut buffer, MAX_CONTROL).unwrap_err();
        assert!(matches!(error, FrameError::TooLong { .. }), "{error}");
    }

    #[test]
    fn garbage_is_an_error_and_no_panic() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2000 {
            let length = random.usize(0..64);
            let mut buffer = BytesMut::new();
            buffer.put_u32(u32::try_from(length).unwrap());
            buffer.extend((0..length).map(|_| random.u8(..)));
            let _ = decode::<tiermesh_proto::link::ControlFrame>(&mut buffer, MAX_CONTROL);
        }
    }
}
