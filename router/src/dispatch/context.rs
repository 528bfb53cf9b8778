//! What a receiver is told beside the request.

use super::decided::Decided;
use tiermesh_core::{
    CandidateState, Context, Continuation, Deadline, InferError, NodeId, PermitScope, Tier,
};

/// How urgent it is at least to go on with what has begun.
const GOES_ON: u8 = 128;

/// The context a choice is asked with, to go on from `said`.
pub(crate) fn context_for(
    decided: &Decided,
    position: usize,
    own: &NodeId,
    said: Continuation,
) -> Result<Context, InferError> {
    let candidate = decided.candidate(position);
    let mut context = decided.context.clone();
    context.model = Some(candidate.model.id.clone());
    context.scope = scope_for(decided, candidate);
    if !said.is_empty() {
        // The first token was said: its time is no longer anybody's.
        context.deadline = Deadline {
            first_token: None,
            ..context.deadline
        };
        // Somebody reads it already: its silence costs more than a start's.
        context.priority = context.priority.max(GOES_ON);
    }
    context.continuation = said;
    if &candidate.node != own {
        context.via = context.via.then(own.clone())?;
    }
    Ok(context)
}

/// What the receiver may do: answer itself; behind a transit, the transit
/// chooses within the plan's tiers that lie behind it; a cloud node hands on
/// to the cloud. Never more than the sender was allowed.
fn scope_for(decided: &Decided, candidate: &CandidateState) -> PermitScope {
    let wider = match (&candidate.transit, candidate.tier) {
        (Some(transit), tier) => decided
            .plan
            .choices
            .iter()
            .map(|choice| choice.candidate(&decided.snapshot))
            .filter(|other| {
                other
                    .transit
                    .as_ref()
                    .is_some_and(|t| t.node == transit.node)
            })
            .fold(PermitScope::only(tier), |scope, other| {
                scope.with(other.tier)
            }),
        (None, Tier::Cloud) => PermitScope::only(Tier::Cloud),
        (None, Tier::Device | Tier::Mec) => PermitScope::NONE,
    };
    wider.and(decided.context.scope)
}
