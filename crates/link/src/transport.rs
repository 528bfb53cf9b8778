//! quinn's settings for links, and what can go wrong below the session.

use crate::codec::FrameError;
use crate::session::SessionError;
use quinn::{AckFrequencyConfig, EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use quinn_proto::RandomConnectionIdGenerator;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The path to a Wavelength zone's region carries packets of 1,300 bytes.
const INITIAL_MTU: u16 = 1200;
/// Socket buffers that outlast ten thousand reconnects at once.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// A connection nobody hears from is gone: how a node notices a dead gateway.
/// A dead node is noticed by its lease, earlier.
const IDLE: Duration = Duration::from_secs(10);
/// From the node only: a server's keep-alive would hide a dead client.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Inference streams a node may open towards its gateway.
pub(crate) const STREAMS_FROM_MEC: u32 = 64;
/// The same for a device.
pub(crate) const STREAMS_FROM_DEVICE: u32 = 8;
/// Inference streams a gateway may open towards a node, by flow control.
/// Credits bound them further.
pub(crate) const STREAMS_FROM_GATEWAY: u32 = 256;

/// Packets a peer may take before it acknowledges at once, where it knows the
/// extension. QUIC's own rule, every second packet, costs a system call for
/// every second token. Gaps are still told at once, and silence within 25 ms.
const PACKETS_AN_ACK: u32 = 10;

/// Codes in QUIC's reset and close frames.
pub(crate) mod code {
    use quinn::VarInt;

    /// The stream's reader or writer lost interest.
    pub(crate) const CANCELLED: VarInt = VarInt::from_u32(1);
    /// The peer broke the protocol.
    pub(crate) const PROTOCOL: VarInt = VarInt::from_u32(2);
    /// The session ended in order.
    pub(crate) const DONE: VarInt = VarInt::from_u32(3);
    /// The peer is not let in.
    pub(crate) const REFUSED: VarInt = VarInt::from_u32(4);
    /// Its lease expired.
    pub(crate) const LEASE: VarInt = VarInt::from_u32(5);
}

/// Why a link could not be made, or ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The UDP port cannot be had.
    #[error("cannot listen on udp {address}: choose another address with `listen.link`")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// rustls' configuration is not fit for QUIC.
    #[error("the TLS configuration is not fit for QUIC: TLS 1.3 is needed")]
    Tls,
    /// The dial failed before a packet was sent.
    #[error("cannot dial {address}")]
    Dial {
        /// The gateway's address.
        address: SocketAddr,
        /// What is wrong with it.
        #[source]
        source: quinn::ConnectError,
    },
    /// The connection could not be made, or broke.
    #[error("the connection broke")]
    Connection(#[from] quinn::ConnectionError),
    /// The peer's certificate names nobody.
    #[error("the peer has no name")]
    Nameless(#[from] tiermesh_identity::TlsError),
    /// A control frame could not be read.
    #[error("the control stream failed: {0}")]
    Frame(String),
    /// A control frame could not be written.
    #[error("the control stream cannot be written")]
    Write(#[from] quinn::WriteError),
    /// The session ended.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl From<FrameError> for LinkError {
    fn from(error: FrameError) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        Self::Frame(match cause {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        })
    }
}

/// The transport of one end that accepts `streams` streams from its peer.
pub(crate) fn transport(streams: u32, keep_alive: Option<Duration>) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let idle = IdleTimeout::try_from(IDLE).expect("10 s is a QUIC idle timeout");
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(PACKETS_AN_ACK));
    config
        .ack_frequency_config(Some(acks))
        .initial_mtu(INITIAL_MTU)
        .mtu_discovery_config(None)
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(keep_alive)
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(Some(64 * 1024))
        .datagram_send_buffer_size(64 * 1024);
    Arc::new(config)
}

/// Random connection ids: quinn's default hashed ones collide under Retry.
pub(crate) fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.cid_generator(|| Box::new(RandomConnectionIdGenerator::new(8)));
    config
}

/// A UDP socket with room for bursts. A system that grants less is no error.
pub(crate) fn socket(address: SocketAddr) -> Result<std::net::UdpSocket, LinkError> {
    let open = || -> std::io::Result<std::net::UdpSocket> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    open().map_err(|source| LinkError::Bind { address, source })
}

/// An error with its causes, for the one place that logs it.
pub(crate) struct Chain<'a>(pub(crate) &'a LinkError);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
