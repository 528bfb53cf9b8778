//! One decision with everything it was made from, so that a later choice of
//! the plan can be explained as the first was.

use super::Shared;
use super::holding::Turned;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    CandidateState, Context, DecisionSummary, Destination, ErrorClass, InferError, Reason,
    ReasonRecord, Refusal, RequestMeta, Snapshot, Time,
};
use tiermesh_decision::analysis::Analysis;
use tiermesh_decision::record::{leaving_out, placed};
use tiermesh_decision::{Choice, Limits, Plan, Policy, Question, Warm, decide};

pub(crate) struct Decided {
    pub(crate) policy: Arc<Policy>,
    /// As it came, with the deadline filled in.
    pub(crate) context: Context,
    pub(crate) limits: Limits,
    pub(crate) snapshot: Snapshot,
    pub(crate) plan: Plan,
    /// When the request arrived.
    pub(crate) at: Time,
    terms: Terms,
    /// How long it was held back for a slot.
    pub(crate) held: Option<Duration>,
    /// Its turn, until it was asked for: meanwhile nobody else takes the slot.
    pub(crate) turn: Option<Turned>,
    /// Where it is not a decision among all: what all were, and the places of
    /// those that were left out.
    pub(crate) among: Option<(Snapshot, Vec<usize>)>,
}

/// What a decision is made with, beside the request and the candidates.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// Who has how much of the prompt at hand, by their places in the snapshot
    /// that is decided from.
    warm: Vec<Warm>,
    /// When it was made.
    now: Time,
    seed: u64,
    analysis: Option<Analysis>,
    /// It may be held back for a slot.
    hold: Option<u32>,
}

impl Decided {
    /// A decision among all there are. With `hold` it may be that the request
    /// is to be held back until a slot comes free, behind so many at most.
    pub(crate) fn new(
        shared: &Shared,
        meta: &RequestMeta,
        context: Context,
        hold: Option<u32>,
    ) -> Result<Self, Refusal> {
        Self::from(shared, meta, context, shared.fleet.snapshot(), hold)
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
        Self::from(shared, meta, context, snapshot, None)
    }

    fn from(
        shared: &Shared,
        meta: &RequestMeta,
        mut context: Context,
        mut snapshot: Snapshot,
        hold: Option<u32>,
    ) -> Result<Self, Refusal> {
        let now = shared.clock.now();
        let own = &shared.own.node;
        if context.via.contains(own) {
            return Err(InferError::new(
                ErrorClass::Forbidden,
                "TOO_MANY_HOPS",
                format!("the request came through `{own}` before"),
            ));
        }
        let tenant = context.account.tenant.as_deref();
        let policy = Arc::clone(shared.policies().permitted(&meta.policy, tenant)?);
        context.deadline = Limits::of(meta, &context, &policy, now).deadline;
        context.priority = context.priority.max(policy.priority);
        shared.breakers.merge(&mut snapshot, now);
        let terms = Terms {
            hold,
            ..Terms::of(shared, (meta, &context), now)
        };
        Self::within(shared, (meta, context, policy), snapshot, terms)
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
        let left_out = placed(snapshot).filter(|(_, candidate)| !keep(candidate));
        let left_out: Vec<_> = left_out.map(|(place, _)| place).collect();
        let terms = Terms {
            now: shared.clock.now(),
            warm: Vec::new(),
            hold: None,
            ..self.terms
        };
        let asked = (meta, self.context.clone(), Arc::clone(&self.policy));
        if left_out.is_empty() {
            return Self::within(shared, asked, snapshot.clone(), terms);
        }
        let rest = leaving_out(snapshot, &left_out);
        let mut decided = Self::within(shared, asked, rest, terms)?;
        decided.among = Some((snapshot.clone(), left_out));
        Ok(decided)
    }

    fn within(
        shared: &Shared,
        (meta, context, policy): (&RequestMeta, Context, Arc<Policy>),
        snapshot: Snapshot,
        mut terms: Terms,
    ) -> Result<Self, Refusal> {
        terms.look(shared, (meta, &context), &snapshot);
        let question = terms.question(meta, &context, &policy, &shared.own);
        let limits = Limits::asked(&question);
        let plan = decide(&question, &snapshot)?;
        Ok(Self {
            policy,
            limits,
            snapshot,
            plan,
            at: terms.now,
            terms,
            context,
            held: None,
            turn: None,
            among: None,
        })
    }

    /// How much of the prompt whoever has this place has at hand.
    pub(crate) fn warm_tokens(&self, index: usize) -> u32 {
        let found = self.terms.warm.iter().find(|warm| warm.index == index);
        found.map_or(0, |warm| warm.tokens)
    }

    /// Draws the lots of this request's jitter.
    pub(crate) const fn seed(&self) -> u64 {
        self.terms.seed
    }

    /// What was asked.
    pub(crate) fn question<'a>(
        &'a self,
        meta: &'a RequestMeta,
        own: &'a Destination,
    ) -> Question<'a> {
        self.terms.question(meta, &self.context, &self.policy, own)
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
        own: &Destination,
        position: usize,
    ) -> DecisionSummary {
        let question = self.question(meta, own);
        let mut summary = self.plan.summary(&question, &self.snapshot, position);
        if let Some(held) = self.held {
            let wait_ms = held.as_secs_f32() * 1e3;
            summary.reasons.push(ReasonRecord {
                node: None,
                model: None,
                reason: Reason::Held { wait_ms },
            });
        }
        summary
    }
}

impl Terms {
    pub(crate) fn of(
        shared: &Shared,
        (meta, context): (&RequestMeta, &Context),
        now: Time,
    ) -> Self {
        let memory = shared.keeps.memory.as_ref();
        Self {
            now,
            seed: lot(meta),
            analysis: memory.map(|memory| memory.analysis(meta, context)),
            hold: None,
            warm: Vec::new(),
        }
    }

    /// Looks who of a snapshot has the prompt at hand.
    pub(crate) fn look(
        &mut self,
        shared: &Shared,
        (meta, context): (&RequestMeta, &Context),
        snapshot: &Snapshot,
    ) {
        if let Some(memory) = &shared.keeps.memory {
            self.warm = memory.warm(meta, context, snapshot);
        }
    }

    pub(crate) fn question<'a>(
        &'a self,
        meta: &'a RequestMeta,
        context: &'a Context,
        policy: &'a Policy,
        own: &'a Destination,
    ) -> Question<'a> {
        Question {
            meta,
            context,
            policy,
            own: &own.node,
            zone: own.region.as_ref(),
            complexity: self.analysis.map(|known| known.complexity),
            prompt_tokens: self.analysis.and_then(|known| known.prompt_tokens),
            answer: self.analysis.and_then(|known| known.answer),
            warm: &self.warm,
            hold: self.hold,
            now: self.now,
            seed: self.seed,
        }
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
