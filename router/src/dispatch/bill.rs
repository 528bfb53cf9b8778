//! What a request costs while it runs: one entry over all its attempts.

use super::Shared;
use super::attempt::Attempt;
use super::decided::Decided;
use super::relay;
use super::run::Run;
use crate::budget::{Booking, Payer};
use tiermesh_core::{InferError, RequestMeta, Tier, Time, Usage, Usd};

/// Tokens that are reserved ahead of those that were said.
const STEP: u64 = 32;

/// Opens the entry: the prompt and the first tokens, at the dearest price of
/// the plan, for any of its choices may come to answer.
pub(crate) fn open(
    shared: &Shared,
    meta: &RequestMeta,
    decided: &Decided,
    now: Time,
) -> Result<Booking, InferError> {
    let payer = Payer {
        user: meta.user_id.clone(),
        account: decided.context.account.clone(),
    };
    let read = u64::from(decided.limits.prompt_tokens);
    let write = STEP.min(u64::from(meta.sampling.max_tokens));
    let costs = decided.plan.choices.iter().map(|choice| {
        let offer = &choice.candidate(&decided.snapshot).model;
        offer.cost(read, write)
    });
    let first = costs.max().unwrap_or_default();
    let most = decided.limits.max_cost;
    shared.ledger.reserve(&payer, first, most, now)
}

impl Run {
    /// What an attempt has cost so far, as far as anybody can tell before its
    /// node's own count: it read what it was given, and wrote what was heard.
    fn cost_of(&self, attempt: &Attempt, ahead: u64) -> Usd {
        let prompt = u64::from(self.request.meta().estimated_prompt_tokens());
        let most = u64::from(self.request.meta().sampling.max_tokens);
        let most = most.saturating_sub(attempt.from).max(attempt.said());
        let wrote = (attempt.wrote() + ahead).min(most);
        let usage = Usage {
            input_tokens: prompt + attempt.from,
            output_tokens: attempt.from + wrote,
        };
        relay::part(attempt.asked(), usage, attempt.from)
    }

    /// Books what an attempt cost that did not come to its end.
    pub(super) fn book(&mut self, attempt: &Attempt) {
        // Whoever never spoke bills nothing, but for a provider, who bills
        // what it read.
        let silent = attempt.said() == 0;
        let provider = attempt.asked().tier == Tier::Cloud && attempt.was_opened();
        if silent && !provider {
            return;
        }
        self.spent = self.spent + self.cost_of(attempt, 0);
        let (spent, now) = (self.spent, self.shared.clock.now());
        self.booking.note(spent, now);
    }

    /// Tokens came: reserves more before the next ones are let through.
    pub(super) fn pay(&mut self) -> Result<(), InferError> {
        let lanes = || [&self.current, &self.rival].into_iter().flatten();
        let cost = |ahead| {
            let running = lanes().map(|attempt| self.cost_of(attempt, ahead));
            self.spent + running.sum::<Usd>()
        };
        if self.booking.covers(cost(1)) {
            return Ok(());
        }
        let (used, next, now) = (cost(0), cost(STEP), self.shared.clock.now());
        let last = cost(1);
        let grown = self.booking.grow(used, next, now);
        // A whole step may be too much where the next token is not.
        grown.or_else(|_| self.booking.grow(used, last, now))
    }

    /// What is known to have been used, for an end without a count.
    pub(super) fn note_use(&mut self) {
        let lanes = [&self.current, &self.rival].into_iter().flatten();
        let running: Usd = lanes.map(|attempt| self.cost_of(attempt, 0)).sum();
        let (used, now) = (self.spent + running, self.shared.clock.now());
        self.booking.note(used, now);
    }
}

impl Drop for Run {
    /// The client went away, or the answer broke: what was used is owed.
    fn drop(&mut self) {
        self.note_use();
        let spent = self.spent;
        self.tell_the_journal(None, None, spent);
        let now = self.shared.clock.now();
        for attempt in [self.current.take(), self.rival.take()]
            .into_iter()
            .flatten()
        {
            let (tier, pool) = (attempt.asked().tier, attempt.asked().outlook.pool);
            // The stream goes first: its place is free for the next.
            drop(attempt);
            self.shared.lobby.freed(tier, now);
            self.shared.holding.freed(pool, now);
        }
    }
}
