//! What becomes of a node's events on their way to the client.

use super::attempt::Failed;
use crate::breaker::Outcome;
use tiermesh_core::{
    Attempt, AttemptOutcome, CandidateState, DecisionSummary, Done, ErrorClass, InferError, NodeId,
    PermitScope, Privacy, Token, Usage, Usd,
};

/// The most attempts of a remote dispatcher that are passed on.
const MAX_REMOTE_ATTEMPTS: usize = 16;
/// The most reasons of a remote dispatcher that are passed on.
const MAX_REMOTE_REASONS: usize = 16;

/// Takes a batch that goes on where the answer stands, and nothing else.
pub(crate) fn follows(
    node: &NodeId,
    due: u64,
    first_seq: u64,
    items: &[Token],
) -> Result<(), Failed> {
    if items.is_empty() {
        return Err(broke_protocol(node, "sent a batch without tokens"));
    }
    belongs(node, due, first_seq)
}

/// A seam or a batch belongs exactly here.
pub(crate) fn belongs(node: &NodeId, due: u64, seq: u64) -> Result<(), Failed> {
    if seq == due {
        return Ok(());
    }
    let what = format!("went on at token {seq} where {due} was due");
    Err(broke_protocol(node, &what))
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
    /// Tokens the client had when this node was asked.
    pub(crate) from: u64,
    /// What the attempts before it cost.
    pub(crate) spent: Usd,
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
        if !self.deeper {
            done.cost = part(self.asked, done.usage, self.from);
        }
        done.cost = done.cost + self.spent;
        done.attempts = attempts;
        done.first_token = self.first_token;
        done.total = self.total;
        done
    }
}

/// What a node's part of an answer costs. It tells what it read, the answer
/// so far included, and the whole answer's tokens.
pub(crate) fn part(asked: &CandidateState, usage: Usage, from: u64) -> Usd {
    let wrote = usage.output_tokens.saturating_sub(from);
    asked.model.cost(usage.input_tokens, wrote)
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
