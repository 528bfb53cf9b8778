//! The traits everything composes through.

use crate::capacity::Snapshot;
use crate::error::{ErrorClass, InferError, Refusal};
use crate::event::{DecisionSummary, Event};
use crate::id::{ModelId, NodeId};
use crate::privacy::{PermitScope, Sealed};
use crate::request::{Request, RequestMeta};
use crate::time::Deadline;
use futures_core::Stream;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// The most hops a request takes.
pub const MAX_HOPS: usize = 3;

/// An answer as it comes. After an `Err` or [`Event::Done`] it ends. Dropping
/// it cancels the work and frees everything it held.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<Event, InferError>> + Send>>;

/// The future of an answer's beginning.
pub type InferFuture<'a> = Pin<Box<dyn Future<Output = Result<EventStream, Refusal>> + Send + 'a>>;

/// Everything that can answer: a local engine, a node behind a link, Bedrock,
/// and the dispatcher that picks among them.
pub trait Infer: Send + Sync + 'static {
    /// Starts an answer, or refuses before anything was sent.
    fn infer(&self, request: Arc<Sealed<Request>>, context: Context) -> InferFuture<'_>;
}

/// Tells where a request would go, and costs nothing.
pub trait Explain: Send + Sync + 'static {
    /// The decision for this request, now.
    ///
    /// # Errors
    /// What [`Infer::infer`] would refuse with.
    fn explain(&self, meta: &RequestMeta, context: &Context) -> Result<DecisionSummary, Refusal>;
}

/// The nodes a dispatcher picks among.
pub trait Fleet: Send + Sync + 'static {
    /// Every candidate at this point of the report log.
    fn snapshot(&self) -> Snapshot;

    /// The way to a node; `None` once it is gone.
    fn node(&self, node: &NodeId) -> Option<Arc<dyn Infer>>;
}

/// The hops a request has taken, in order. No hop is taken twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Via(Vec<NodeId>);

impl Via {
    /// Hops that came over a wire.
    ///
    /// # Errors
    /// As [`Via::then`], for a list that is too long or has a repetition.
    pub fn from_hops(hops: impl IntoIterator<Item = NodeId>) -> Result<Self, Refusal> {
        hops.into_iter()
            .try_fold(Self::default(), |via, hop| via.then(hop))
    }

    /// One hop more.
    ///
    /// # Errors
    /// When the hop was taken already, or three were.
    pub fn then(mut self, hop: NodeId) -> Result<Self, Refusal> {
        if self.contains(&hop) || self.0.len() >= MAX_HOPS {
            return Err(InferError::new(
                ErrorClass::Forbidden,
                "TOO_MANY_HOPS",
                format!(
                    "the request took {} hops and may not go on to `{hop}`: at most {MAX_HOPS}, none twice",
                    self.0.len()
                ),
            ));
        }
        self.0.push(hop);
        Ok(self)
    }

    /// Whether the hop was taken.
    #[must_use]
    pub fn contains(&self, hop: &NodeId) -> bool {
        self.0.contains(hop)
    }

    /// The hops in order.
    #[must_use]
    pub fn hops(&self) -> &[NodeId] {
        &self.0
    }
}

/// What an interrupted answer had said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Continuation {
    /// Ids of the tokens the client has, in order.
    pub emitted_ids: Vec<u32>,
}

/// What travels with a request and is not part of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    /// When it must have answered, on this process's clock.
    pub deadline: Deadline,
    /// The hops so far.
    pub via: Via,
    /// The tiers it may still go to.
    pub scope: PermitScope,
    /// The model a plan chose; `None` leaves it to the receiver.
    pub model: Option<ModelId>,
    /// 0 is the least urgent.
    pub priority: u8,
    /// W3C `traceparent`, when the client sent one.
    pub trace_parent: Option<String>,
    /// What was said before, when this goes on.
    pub continuation: Continuation,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            deadline: Deadline::default(),
            via: Via::default(),
            scope: PermitScope::ALL,
            model: None,
            priority: 0,
            trace_parent: None,
            continuation: Continuation::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hop_is_taken_twice_and_three_are_the_most() {
        let node = |name: &str| NodeId::new(name).unwrap();
        let via = Via::from_hops([node("a"), node("b")]).unwrap();
        assert!(via.clone().then(node("a")).is_err());
        let via = via.then(node("c")).unwrap();
        assert_eq!(via.then(node("d")).unwrap_err().reason, "TOO_MANY_HOPS");
    }
}
