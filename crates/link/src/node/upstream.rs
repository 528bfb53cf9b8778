//! The way from a node up to its gateway.

use crate::session::SessionError;
use crate::stream;
use quinn::Connection;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tiermesh_core::{
    Clock, Context, Destination, ErrorClass, Infer, InferError, InferFuture, ModelOffer,
    ModelState, NodeId, Region, Request, Sealed, Tier,
};
use tiermesh_identity::TicketVerifier;
use tiermesh_proto::WireError;
use tiermesh_proto::link::{Offer, Welcome};

/// The most offers a gateway may make.
const MAX_OFFERS: usize = 64;

/// Something the gateway can reach for this node.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamOffer {
    /// Where it would be answered.
    pub tier: Tier,
    /// By whom.
    pub node: NodeId,
    /// In which region.
    pub region: Option<Region>,
    /// By which model.
    pub model: Arc<ModelOffer>,
    /// How fast, as the gateway sees it.
    pub state: ModelState,
    /// Busy share, 0 to 1.
    pub load: f32,
    /// Streams it may still take.
    pub credits_free: u32,
    /// From the gateway to there.
    pub rtt_ms: f32,
}

/// What a node knows of its gateway.
#[derive(Debug, Clone)]
pub struct UpstreamStatus {
    /// Where content goes when it goes up.
    pub destination: Destination,
    /// What can be reached there.
    pub offers: Vec<UpstreamOffer>,
    /// Round trip as QUIC measures it.
    pub rtt: Duration,
    /// Streams that may still be opened upward.
    pub credits_free: u32,
    /// Checks the tickets that the gateway signs.
    pub tickets: TicketVerifier,
}

/// A gateway we are linked to.
pub(super) struct Joined {
    connection: Connection,
    destination: Destination,
    tickets: TicketVerifier,
    streams_max: u32,
    offers: Vec<UpstreamOffer>,
    draining: bool,
}

impl Joined {
    pub(super) fn new(connection: Connection, welcome: Welcome) -> Result<Self, SessionError> {
        let region = (!welcome.region.is_empty()).then(|| Region::new(&welcome.region));
        Ok(Self {
            connection,
            destination: Destination {
                tier: Tier::Cloud,
                region: region.transpose().map_err(WireError::from)?,
                node: NodeId::new(&welcome.gateway).map_err(WireError::from)?,
                owner: None,
            },
            tickets: TicketVerifier::new(welcome.ticket_key),
            streams_max: welcome.streams_max,
            offers: Vec::new(),
            draining: false,
        })
    }
}

/// The gateway as something that can answer. Present or not, it never blocks:
/// without a link it refuses at once.
pub struct Upstream {
    clock: Arc<dyn Clock>,
    joined: Mutex<Option<Joined>>,
    streams: Arc<AtomicU32>,
}

impl Upstream {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            joined: Mutex::default(),
            streams: Arc::default(),
        }
    }

    /// What is known of the gateway; `None` while there is no link.
    #[must_use]
    pub fn status(&self) -> Option<UpstreamStatus> {
        let joined = self.lock();
        let joined = joined.as_ref().filter(|joined| !joined.draining)?;
        let open = self.streams.load(Ordering::Acquire);
        Some(UpstreamStatus {
            destination: joined.destination.clone(),
            offers: joined.offers.clone(),
            rtt: joined.connection.rtt(),
            credits_free: joined.streams_max.saturating_sub(open),
            tickets: joined.tickets.clone(),
        })
    }

    pub(super) fn set(&self, joined: Option<Joined>) {
        *self.lock() = joined;
    }

    pub(super) fn drains(&self) {
        if let Some(joined) = self.lock().as_mut() {
            joined.draining = true;
        }
    }

    pub(super) fn offers(&self, offers: Vec<Offer>) -> Result<(), SessionError> {
        if offers.len() > MAX_OFFERS {
            return Err(SessionError::Protocol("more than 64 offers"));
        }
        let offers: Result<Vec<_>, WireError> = offers.into_iter().map(offer).collect();
        if let Some(joined) = self.lock().as_mut() {
            joined.offers = offers?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Joined>> {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection and whom it leads to, with one stream taken.
    fn take(&self) -> Result<(Connection, Destination, Held), InferError> {
        let joined = self.lock();
        let Some(joined) = joined.as_ref().filter(|joined| !joined.draining) else {
            return Err(InferError::unavailable("there is no link to a gateway now"));
        };
        let taken = self
            .streams
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| {
                (open < joined.streams_max).then_some(open + 1)
            });
        if taken.is_err() {
            let message = format!(
                "all {} streams to the gateway are in use",
                joined.streams_max
            );
            let full = InferError::new(ErrorClass::Exhausted, "QUEUE_FULL", message);
            return Err(full.retry_after(Duration::from_millis(100)));
        }
        let held = Held(self.streams.clone());
        Ok((joined.connection.clone(), joined.destination.clone(), held))
    }
}

/// One of the streams the gateway allows us.
struct Held(Arc<AtomicU32>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Infer for Upstream {
    fn infer(&self, request: Arc<Sealed<Request>>, context: Context) -> InferFuture<'_> {
        Box::pin(async move {
            let (connection, destination, held) = self.take()?;
            stream::open(
                &connection,
                &destination,
                &request,
                &context,
                &*self.clock,
                held,
            )
            .await
        })
    }
}

fn offer(wire: Offer) -> Result<UpstreamOffer, WireError> {
    let tier = match tiermesh_proto::v1::Tier::try_from(wire.tier) {
        Ok(tiermesh_proto::v1::Tier::Device) => Tier::Device,
        Ok(tiermesh_proto::v1::Tier::Mec) => Tier::Mec,
        Ok(tiermesh_proto::v1::Tier::Cloud) => Tier::Cloud,
        _ => return Err(WireError::Missing("offer.tier")),
    };
    let region = (!wire.region.is_empty()).then(|| Region::new(&wire.region));
    Ok(UpstreamOffer {
        tier,
        node: NodeId::new(&wire.node)?,
        region: region.transpose()?,
        model: Arc::new(
            wire.model
                .ok_or(WireError::Missing("offer.model"))?
                .try_into()?,
        ),
        state: wire.state.unwrap_or_default().into(),
        load: wire.load,
        credits_free: wire.credits_free,
        rtt_ms: wire.rtt_ms,
    })
}
