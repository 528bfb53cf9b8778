//! The traits everything composes through.

use crate::capacity::Snapshot;
use crate::error::{ErrorClass, InferError, Refusal};
use crate::event::{DecisionSummary, Event};
use crate::id::{ModelDigest, ModelId, NodeId, NumericsId};
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

    /// A request for a model was refused that this node has, but not in memory:
    /// others like it may follow.
    fn hint(&self, _node: &NodeId, _model: &ModelId) {}
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

/// What an interrupted answer had said. It is part of the answer, so whoever
/// sends it anywhere holds a permit for its request and that destination.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Continuation {
    /// Ids of the tokens the client has, in order. Empty where they are of no
    /// use to the receiver: then it goes on from [`Self::text`].
    pub emitted_ids: Vec<u32>,
    /// The text of those tokens; a character that was not whole is left out.
    pub text: String,
    /// How many tokens the client has: the next one's number.
    pub tokens: u64,
    /// Whose tokens they are; none where several models said them.
    pub speaker: Option<Speaker>,
}

/// The model that said a text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Speaker {
    /// Its name.
    pub model: Option<ModelId>,
    /// Equal digests have one vocabulary.
    pub digest: Option<ModelDigest>,
    /// Equal ids go on with the very tokens that would have come.
    pub numerics_id: Option<NumericsId>,
}

impl Continuation {
    /// An answer of which only the tokens' ids are known.
    #[must_use]
    pub fn of_ids(emitted_ids: Vec<u32>) -> Self {
        Self {
            tokens: emitted_ids.len() as u64,
            emitted_ids,
            ..Self::default()
        }
    }

    /// How many tokens the client has.
    #[must_use]
    pub fn said(&self) -> u64 {
        self.tokens.max(self.emitted_ids.len() as u64)
    }

    /// Whether nothing was said yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.said() == 0 && self.text.is_empty()
    }

    /// Whether the receiver has the text to go on from, and no ids.
    #[must_use]
    pub fn is_prefill(&self) -> bool {
        self.emitted_ids.is_empty() && !self.is_empty()
    }
}

impl std::fmt::Debug for Continuation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (ids, bytes) = (self.emitted_ids.len(), self.text.len());
        write!(
            f,
            "Continuation({} tokens, {ids} ids, {bytes} bytes)",
            self.said()
        )
    }
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
    /// Who pays, beside the user.
    pub account: Account,
}

/// Who pays for a request, as the door that let it in knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// The API key's name, never the key.
    pub key: Option<String>,
    /// The customer the key belongs to.
    pub tenant: Option<String>,
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
            account: Account::default(),
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
