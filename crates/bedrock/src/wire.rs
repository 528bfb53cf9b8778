//! Bedrock's Converse API as the doors serve it: `POST /model/{id}/converse`
//! and `/converse-stream`, JSON in, JSON or event-stream frames out.
//!
//! The mesh's own fields travel in Converse's `requestMetadata`, a map of
//! strings that every AWS SDK can set: `policy`, `privacy`, `user_id`,
//! `residency`, `continuity`, `seed`, `max_cost_usd`, `first_token_ms`,
//! `total_ms`. Other keys are the application's and are let be.
//!
//! Text is served. Whatever would change the answer and is not served (images,
//! documents, tools, guardrails) is refused by name and never dropped.

pub(crate) mod errors;
pub(crate) mod frames;
pub(crate) mod reply;
pub mod request;
mod routes;

pub use errors::error_response;
pub(crate) use routes::{Asked, answer, read};
pub use routes::{ConverseDoor, DoorFuture, routes};

/// The header by which the mesh's own Bedrock client is known: the hops of its
/// request, the gateway last. A door refuses it.
pub const VIA_HEADER: &str = "x-tiermesh-via";
/// The largest request body, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// The media type of event-stream frames.
pub const EVENT_STREAM: &str = "application/vnd.amazon.eventstream";
