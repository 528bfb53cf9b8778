//! What dispatch tells: its memory how attempts went, and its journal what was
//! decided and what became of it.

use super::Shared;
use super::attempt::{Attempt, Step};
use super::decided::{Decided, Terms};
use super::run::Run;
use crate::memory::Sight;
use std::time::Duration;
use tiermesh_core::{
    Context, Done, Event, InferError, ModelSelector, NodeId, RequestMeta, Residency, Time, Usd,
};
use tiermesh_decision::record::{Made, Outcome};
use tiermesh_decision::state::Opened;
use tiermesh_decision::{Limits, decide};

/// Follows an attempt, to learn from it.
pub(super) fn follow(
    shared: &Shared,
    meta: &RequestMeta,
    decided: &Decided,
    position: usize,
    now: Time,
) -> Option<Sight> {
    let memory = shared.keeps.memory.as_ref()?;
    let (choice, limits) = (decided.choice(position)?, &decided.limits);
    let candidate = decided.candidate(position);
    let opened = Opened {
        index: choice.index,
        estimate: choice.estimate,
        cold_tokens: limits
            .likely_prompt
            .saturating_sub(decided.warm_tokens(choice.index)),
        likely_tokens: limits.answer.0,
    };
    let asked = (&candidate.node, &candidate.model.id);
    memory.sent(asked, opened, (meta, &decided.context), now)
}

impl Attempt {
    /// Notes a first token, once.
    pub(super) fn look_at(&mut self, shared: &Shared, step: &Result<Step, InferError>) {
        if let Some(sight) = &mut self.sight
            && !sight.has_spoken()
            && let Ok(Step::Event(Event::Tokens { .. } | Event::Result(_))) = step
        {
            sight.spoke(shared.clock.now());
        }
    }
}

impl Run {
    /// What an answer that came to its end teaches.
    pub(super) fn learn(&self, attempt: &mut Attempt, done: &Done, now: Time) {
        if let Some(sight) = attempt.sight.take() {
            let wrote = done.usage.output_tokens.saturating_sub(attempt.from);
            sight.ended(wrote, now);
        }
        if let Some(memory) = &self.shared.keeps.memory {
            let alone = attempt.kind.is_none() && self.earlier.is_empty() && !attempt.deeper;
            let model = &attempt.asked().model.id;
            let asked = (self.request.meta(), &self.first.context);
            memory.answered(asked, model, alone, done);
        }
    }

    /// What became of the request; told once.
    pub(super) fn tell_the_journal(
        &mut self,
        node: Option<NodeId>,
        total: Option<Duration>,
        cost: Usd,
    ) {
        let journal = self.shared.keeps.journal.as_ref();
        let Some(journal) = journal.filter(|_| !std::mem::replace(&mut self.told, true)) else {
            return;
        };
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let first_token = self.first_token.map(|at| at.since(self.first.at));
        journal.outcome(Outcome {
            request_id: self.request.meta().request_id.to_string(),
            node,
            first_token_us: first_token.map(us),
            total_us: total.map(us),
            cost_nanos: cost.as_nanos(),
        });
    }
}

impl Shared {
    /// Records a decision that is acted on.
    pub(crate) fn record(&self, meta: &RequestMeta, decided: &Decided) {
        let Some(journal) = &self.keeps.journal else {
            return;
        };
        let question = decided.question(meta, &self.own);
        let (all, without) = match &decided.among {
            Some((all, without)) => (all, &without[..]),
            None => (&decided.snapshot, &[][..]),
        };
        journal.made(Made::of(&question, all, without, Ok(&decided.plan)));
    }

    /// A request for a model was refused: whoever has it, but not in memory, is
    /// told, so that the next one like it may be answered.
    pub(crate) fn hint(&self, meta: &RequestMeta) {
        let ModelSelector::Named(_) = &meta.model else {
            return;
        };
        let snapshot = self.fleet.snapshot();
        let sleeping = snapshot.candidates.iter().find(|candidate| {
            let away = matches!(candidate.state.residency, Residency::Warm | Residency::Cold);
            away && meta
                .model
                .matches(&candidate.model.id, &candidate.model.family)
                && meta.privacy.allows(candidate.tier)
        });
        if let Some(candidate) = sleeping {
            self.fleet.hint(&candidate.node, &candidate.model.id);
        }
    }

    /// Records that nobody was left for a request, by deciding once more: those
    /// that waited for a place were decided on time and again.
    pub(crate) fn record_refusal(&self, meta: &RequestMeta, mut context: Context) {
        let Some(journal) = &self.keeps.journal else {
            return;
        };
        let policies = self.policies();
        let Some(policy) = policies.get(&meta.policy) else {
            return;
        };
        let now = self.clock.now();
        context.deadline = Limits::of(meta, &context, policy, now).deadline;
        let mut snapshot = self.fleet.snapshot();
        self.breakers.merge(&mut snapshot, now);
        let mut terms = Terms::of(self, (meta, &context), now);
        terms.look(self, (meta, &context), &snapshot);
        let question = terms.question(meta, &context, policy, &self.own);
        if let Err(none) = decide(&question, &snapshot) {
            let removed_by = none.constraint.map(|by| by.code());
            journal.made(Made::of(&question, &snapshot, &[], Err(removed_by)));
        }
    }
}
