//! What becomes of a node's events on their way to the client.

use super::attempt::Failed;
use crate::breaker::Outcome;
use tiermesh_core::{
    Attempt, AttemptOutcome, CandidateState, DecisionSummary, Done, ErrorClass, InferError, NodeId,
    PermitScope, Privacy, Token,
};

/// The most attempts of a remote dispatcher that are passed on.
const MAX_REMOTE_ATTEMPTS: usize = 16;
/// The most reasons of a remote dispatcher that are passed on.
const MAX_REMOTE_REASONS: usize = 16;

/// The number the next token must have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sequence(u64);

impl Sequence {
    /// After so many tokens that the client has already.
    pub(crate) const fn after(tokens: usize) -> Self {
        Self(tokens as u64)
    }

    /// Takes a batch that continues the sequence, and nothing else.
    pub(crate) fn take(
        &mut self,
        node: &NodeId,
        first_seq: u64,
        items: &[Token],
    ) -> Result<(), Failed> {
        if items.is_empty() {
            return Err(broke_protocol(node, "sent a batch without tokens"));
        }
        self.expect(node, first_seq)?;
        self.0 = self.0.saturating_add(items.len() as u64);
        Ok(())
    }

    /// A seam belongs exactly here.
    pub(crate) fn expect(&self, node: &NodeId, seq: u64) -> Result<(), Failed> {
        if seq == self.0 {
            return Ok(());
        }
        let what = format!("went on at token {seq} where {} was due", self.0);
        Err(broke_protocol(node, &what))
    }
}

/// The node's answer is not one: it is to blame.
pub(crate) fn broke_protocol(node: &NodeId, what: &str) -> Failed {
    Failed {
        error: InferError::new(
            ErrorClass::Internal,
            "PROTOCOL_VIOLATION",
            format!("node `{node}` {what}"),
        ),
        outcome: Outcome::Failure,
    }
}

/// Whether a decision that came from the receiver names what we asked for.
pub(crate) fn is_the_same(ours: &CandidateState, theirs: &DecisionSummary) -> bool {
    ours.node == theirs.node && ours.model.id == theirs.model
}

/// A receiver's own decision may only be within what it was allowed.
pub(crate) fn may_hand_on(
    asked: &CandidateState,
    scope: PermitScope,
    privacy: Privacy,
    theirs: &DecisionSummary,
) -> Result<(), Failed> {
    let in_scope = theirs.node == asked.node || scope.contains(theirs.tier);
    if in_scope && privacy.allows(theirs.tier) {
        return Ok(());
    }
    let what = format!("handed the request on to the {} tier", theirs.tier);
    Err(broke_protocol(&asked.node, &what))
}

/// Our decision with the receiver's inside: it names the node that answers
/// and what to expect of it, with the way there added; the scores, the
/// fallbacks and the point of the log stay ours, for ours is what replays.
pub(crate) fn merged(
    mut ours: DecisionSummary,
    theirs: DecisionSummary,
    rtt_ms: f32,
) -> DecisionSummary {
    ours.tier = theirs.tier;
    ours.node = theirs.node;
    ours.model = theirs.model;
    ours.first_token_ms = theirs.first_token_ms + rtt_ms;
    ours.total_ms = theirs.total_ms + rtt_ms;
    ours.cost = theirs.cost;
    let more = theirs.reasons.into_iter().take(MAX_REMOTE_REASONS);
    ours.reasons.extend(more);
    ours
}

/// What the dispatcher knows better than the node whose `Done` this is.
pub(crate) struct Ending<'a> {
    pub(crate) asked: &'a CandidateState,
    /// The receiver handed the request on: its prices and attempts count.
    pub(crate) deeper: bool,
    pub(crate) earlier: Vec<Attempt>,
    pub(crate) first_token: Option<std::time::Duration>,
    pub(crate) total: std::time::Duration,
}

impl Ending<'_> {
    pub(crate) fn rewrite(self, mut done: Done) -> Done {
        let mut attempts = self.earlier;
        if self.deeper && !done.attempts.is_empty() {
            attempts.extend(done.attempts.drain(..).take(MAX_REMOTE_ATTEMPTS));
        } else {
            attempts.push(attempt(self.asked, AttemptOutcome::Answered, None));
        }
        let usage = done.usage;
        // Attempts that failed before their first token told no usage, so the
        // sum over all attempts is the cost of the one that answered.
        if !self.deeper {
            let offer = &self.asked.model;
            done.cost = offer.cost(usage.input_tokens, usage.output_tokens);
        }
        done.attempts = attempts;
        done.first_token = self.first_token;
        done.total = self.total;
        done
    }
}

/// One line of the list of attempts.
pub(crate) fn attempt(
    asked: &CandidateState,
    outcome: AttemptOutcome,
    reason: Option<&str>,
) -> Attempt {
    Attempt {
        node: asked.node.clone(),
        tier: asked.tier,
        model: asked.model.id.clone(),
        outcome,
        reason: reason.map(ToOwned::to_owned),
    }
}
