//! One decision with everything it was made from, so that a later choice of
//! the plan can be explained as the first was.

use super::Shared;
use std::sync::Arc;
use tiermesh_core::{
    CandidateState, Context, DecisionSummary, Destination, ErrorClass, InferError, NodeId, Refusal,
    RequestMeta, Snapshot, Time,
};
use tiermesh_decision::{Choice, Limits, Plan, Policy, Question, decide};

pub(crate) struct Decided {
    pub(crate) policy: Arc<Policy>,
    /// As it came, with the deadline filled in.
    pub(crate) context: Context,
    pub(crate) limits: Limits,
    pub(crate) snapshot: Snapshot,
    pub(crate) plan: Plan,
    /// When the request arrived.
    pub(crate) at: Time,
    seed: u64,
}

impl Decided {
    pub(crate) fn new(
        shared: &Shared,
        meta: &RequestMeta,
        context: Context,
    ) -> Result<Self, Refusal> {
        Self::from(shared, meta, context, shared.fleet.snapshot())
    }

    /// Where a request would go if everybody had room.
    pub(crate) fn unhindered(
        shared: &Shared,
        meta: &RequestMeta,
        context: Context,
    ) -> Result<Self, Refusal> {
        let mut snapshot = shared.fleet.snapshot();
        for candidate in &mut snapshot.candidates {
            candidate.credits_free = candidate.credits_free.max(1);
        }
        Self::from(shared, meta, context, snapshot)
    }

    fn from(
        shared: &Shared,
        meta: &RequestMeta,
        mut context: Context,
        mut snapshot: Snapshot,
    ) -> Result<Self, Refusal> {
        let at = shared.clock.now();
        let own = &shared.own.node;
        if context.via.contains(own) {
            return Err(InferError::new(
                ErrorClass::Forbidden,
                "TOO_MANY_HOPS",
                format!("the request came through `{own}` before"),
            ));
        }
        let policy = Arc::clone(shared.policies().require(&meta.policy)?);
        let limits = Limits::of(meta, &context, &policy, at);
        context.deadline = limits.deadline;
        shared.breakers.merge(&mut snapshot, at);
        let seed = lot(meta);
        Self::within(&shared.own, meta, context, policy, snapshot, (at, seed))
    }

    /// Decides once more, among the candidates of a fresh snapshot that `keep`
    /// leaves, for the same request: deadline, hops and scope carry over.
    pub(crate) fn again(
        &self,
        shared: &Shared,
        meta: &RequestMeta,
        snapshot: &Snapshot,
        keep: impl Fn(&CandidateState) -> bool,
    ) -> Result<Self, Refusal> {
        let mut snapshot = snapshot.clone();
        snapshot.candidates.retain(keep);
        let terms = (shared.clock.now(), self.seed);
        let policy = Arc::clone(&self.policy);
        let context = self.context.clone();
        Self::within(&shared.own, meta, context, policy, snapshot, terms)
    }

    fn within(
        own: &Destination,
        meta: &RequestMeta,
        context: Context,
        policy: Arc<Policy>,
        snapshot: Snapshot,
        (at, seed): (Time, u64),
    ) -> Result<Self, Refusal> {
        let limits = Limits::of(meta, &context, &policy, at);
        let question = Question {
            meta,
            context: &context,
            policy: &policy,
            own: &own.node,
            zone: own.region.as_ref(),
            answer: None,
            warm: &[],
            now: at,
            seed,
        };
        let plan = decide(&question, &snapshot)?;
        Ok(Self {
            policy,
            limits,
            snapshot,
            plan,
            at,
            seed,
            context,
        })
    }

    /// Draws the lots of this request's jitter.
    pub(crate) const fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn choice(&self, position: usize) -> Option<&Choice> {
        self.plan.choices.get(position)
    }

    /// The candidate of the choice at a position that is in the plan.
    pub(crate) fn candidate(&self, position: usize) -> &CandidateState {
        self.plan.choices[position].candidate(&self.snapshot)
    }

    pub(crate) fn summary(
        &self,
        meta: &RequestMeta,
        own: &NodeId,
        position: usize,
    ) -> DecisionSummary {
        let question = Question {
            meta,
            context: &self.context,
            policy: &self.policy,
            own,
            zone: None,
            answer: None,
            warm: &[],
            now: self.at,
            seed: self.seed,
        };
        self.plan.summary(&question, &self.snapshot, position)
    }
}

/// Breaks ties by the request's id, so that equal nodes share requests even
/// when clients fix their sampling seed, and `Explain` says what `Infer` does.
fn lot(meta: &RequestMeta) -> u64 {
    let fold = |lot: u64, byte| (lot ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    meta.request_id
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, fold)
}
