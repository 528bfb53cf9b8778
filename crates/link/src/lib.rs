//! The link between nodes and gateways: QUIC, dialled by the node.
//!
//! [`session`] holds what is said and when, as state machines without I/O.
//! [`gateway`] and [`node`] drive them over quinn. Either end opens inference
//! streams ([`stream`]); a node's capacity is leased and an expired lease is a
//! dead node.

pub mod gateway;
pub mod node;
pub mod session;
pub mod stream;

mod backoff;
mod codec;
mod transport;

pub use gateway::{
    GatewayLink, GatewayLinkOptions, LinkedNode, NodeTable, NodeWatch, OfferSource, Upward,
};
pub use node::{CapacitySource, NodeLink, NodeLinkOptions, Upstream};
pub use stream::Admit;
pub use transport::LinkError;
