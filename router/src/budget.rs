//! Budgets that hold while answers stream: an upper estimate is reserved
//! before anything is sent, grows in steps as tokens come, and is settled to
//! the actual cost when the answer ends, however it ends. All attempts, hedges
//! and seams of one request are one entry.
//!
//! A reservation that nobody renews expires at what it was known to have used:
//! a process that forgets to settle does not lock money up. Nothing here reads
//! a clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tiermesh_core::{Account, ErrorClass, InferError, Time, Usd, UserId};

mod refusal;

use refusal::{left, number, over_the_request, over_the_window};

/// The most accounts a ledger keeps; beyond it, those whose window is over and
/// who reserve nothing are forgotten, and then nobody new is let in.
const MAX_ACCOUNTS: usize = 65_536;
/// A reservation that was not renewed for so long is over.
const EXPIRES: Duration = Duration::from_secs(120);
/// An expired reservation is remembered for so long, so that a request that goes
/// on after all is booked once and whole.
const FORGOTTEN: Duration = Duration::from_secs(3_600);

/// How much may be spent, and in which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The most, over one window.
    pub most: Usd,
    /// Its length. Windows follow each other on the process's clock.
    pub per: Duration,
}

/// What binds whom. None binds nobody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BudgetLimits {
    /// Every user.
    pub user: Option<Window>,
    /// Every API key.
    pub key: Option<Window>,
    /// Every tenant.
    pub tenant: Option<Window>,
    /// Users with a window of their own in place of every user's.
    pub users: BTreeMap<String, Window>,
    /// API keys, by name, with a window of their own.
    pub keys: BTreeMap<String, Window>,
    /// Tenants with a window of their own.
    pub tenants: BTreeMap<String, Window>,
}

impl BudgetLimits {
    fn of(&self, name: &Name) -> Option<Window> {
        let (own, name, every) = match name {
            Name::User { user, .. } => (&self.users, user, self.user),
            Name::Key(key) => (&self.keys, key, self.key),
            Name::Tenant(tenant) => (&self.tenants, tenant, self.tenant),
        };
        own.get(name).copied().or(every)
    }
}

/// Whose money an answer costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payer {
    /// Who asks.
    pub user: UserId,
    /// With which key, for which tenant.
    pub account: Account,
}

/// One process's budgets.
#[derive(Debug)]
pub struct Ledger {
    limits: BudgetLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    accounts: BTreeMap<Name, Spent>,
    reservations: BTreeMap<u64, Reservation>,
    next: u64,
    swept: Time,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    /// Two tenants' users of one name are two users.
    User {
        tenant: Option<String>,
        user: String,
    },
    Key(String),
    Tenant(String),
}

/// One account in its present window, in billionths of a dollar.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    window: u64,
    /// When that window is over.
    over: Time,
    settled: u64,
    reserved: u64,
}

#[derive(Debug)]
struct Reservation {
    names: Vec<(Name, Window)>,
    reserved: u64,
    used: u64,
    until: Time,
    /// What was settled already when it expired; the rest is booked at the end.
    billed: u64,
    expired: bool,
}

/// One request's entry. Dropped, it settles at what it was known to have used.
#[derive(Debug)]
pub struct Booking {
    /// None where no window binds the payer.
    entry: Option<(Arc<Ledger>, u64)>,
    most: Option<u64>,
    reserved: u64,
    used: u64,
    /// When it was last heard of, for a drop that has no clock.
    seen: Time,
}

impl Ledger {
    /// Nothing spent yet.
    #[must_use]
    pub fn new(limits: BudgetLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            state: Mutex::default(),
        })
    }

    /// Opens a request's entry: `first` is reserved, and never more than
    /// `most` in all.
    ///
    /// # Errors
    /// `BUDGET_EXHAUSTED`, with the time to the next window.
    pub fn reserve(
        self: &Arc<Self>,
        payer: &Payer,
        first: Usd,
        most: Option<Usd>,
        now: Time,
    ) -> Result<Booking, InferError> {
        let mut booking = Booking {
            entry: None,
            most: most.map(Usd::as_nanos),
            reserved: first.as_nanos(),
            used: 0,
            seen: now,
        };
        if most.is_some_and(|most| first > most) {
            return Err(over_the_request(first, most.unwrap_or_default()));
        }
        let names = self.names(payer);
        if names.is_empty() {
            return Ok(booking);
        }
        let mut state = self.lock();
        state.sweep(now);
        state.make_room(&names, now)?;
        state.fits(&names, booking.reserved, now)?;
        for (name, _) in &names {
            let spent = state.accounts.entry(name.clone()).or_default();
            spent.reserved += booking.reserved;
        }
        let id = state.next;
        state.next += 1;
        let reservation = Reservation {
            names,
            reserved: booking.reserved,
            used: 0,
            until: now + EXPIRES,
            billed: 0,
            expired: false,
        };
        state.reservations.insert(id, reservation);
        drop(state);
        booking.entry = Some((Arc::clone(self), id));
        Ok(booking)
    }

    /// What a user has spent and reserved in the present window.
    #[must_use]
    pub fn of_user(&self, user: &UserId, now: Time) -> (Usd, Usd) {
        let state = self.lock();
        let name = Name::User {
            tenant: None,
            user: user.to_string(),
        };
        let spent = state.accounts.get(&name).copied().unwrap_or_default();
        let settled = if spent.over > now { spent.settled } else { 0 };
        (Usd::from_nanos(settled), Usd::from_nanos(spent.reserved))
    }

    /// Reservations that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        let state = self.lock();
        let open = state.reservations.values().filter(|r| !r.expired);
        open.count()
    }

    fn names(&self, payer: &Payer) -> Vec<(Name, Window)> {
        let user = Some(Name::User {
            tenant: payer.account.tenant.clone(),
            user: payer.user.to_string(),
        });
        let key = payer.account.key.clone().map(Name::Key);
        let tenant = payer.account.tenant.clone().map(Name::Tenant);
        let named = [user, key, tenant].into_iter().flatten();
        let bound = named.map(|name| (self.limits.of(&name), name));
        bound
            .filter_map(|(window, name)| Some((name, window?)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Booking {
    /// The answer is known to have cost so much in all, and is about to cost
    /// `next` in all: reserves more where that is over what is reserved.
    ///
    /// # Errors
    /// `BUDGET_EXHAUSTED` when the money is not there. What was used stays
    /// booked.
    pub fn grow(&mut self, used: Usd, next: Usd, now: Time) -> Result<(), InferError> {
        self.used = self.used.max(used.as_nanos());
        self.seen = now;
        let next = next.as_nanos();
        if let Some(most) = self.most.filter(|most| next > *most) {
            return Err(over_the_request(
                Usd::from_nanos(next),
                Usd::from_nanos(most),
            ));
        }
        if let Some((ledger, id)) = &self.entry {
            let mut guard = ledger.lock();
            let state = &mut *guard;
            if let Some(reservation) = state.reservations.get_mut(id) {
                // It is alive, whether or not there is money for more.
                if !reservation.expired {
                    reservation.until = now + EXPIRES;
                }
                // Where it had expired, what was used then is settled, and
                // only the rest is reserved anew.
                let wanted = next.saturating_sub(reservation.billed);
                let more = wanted.saturating_sub(reservation.reserved);
                let names = reservation.names.clone();
                state.fits(&names, more, now)?;
                for (name, _) in &names {
                    state.accounts.entry(name.clone()).or_default().reserved += more;
                }
                if let Some(reservation) = state.reservations.get_mut(id) {
                    reservation.reserved += more;
                    reservation.used = self.used;
                    reservation.until = now + EXPIRES;
                    reservation.expired = false;
                }
            }
        }
        self.reserved = self.reserved.max(next);
        Ok(())
    }

    /// Whether so much in all is within what is reserved already: then
    /// [`Self::grow`] need not be asked.
    #[must_use]
    pub fn covers(&self, next: Usd) -> bool {
        next.as_nanos() <= self.reserved
    }

    /// Notes what the answer is known to have cost, without looking at the
    /// ledger.
    pub fn note(&mut self, used: Usd, now: Time) {
        self.used = self.used.max(used.as_nanos());
        self.seen = now;
    }

    /// The answer ended, and cost so much. What comes after changes nothing.
    pub fn settle(&mut self, actual: Usd, now: Time) {
        self.used = actual.as_nanos();
        self.seen = now;
        self.end();
    }

    fn end(&mut self) {
        if let Some((ledger, id)) = self.entry.take() {
            ledger.lock().end(id, self.used, self.seen);
        }
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        self.end();
    }
}

impl State {
    /// Whether everybody named can pay so much more.
    fn fits(&mut self, names: &[(Name, Window)], more: u64, now: Time) -> Result<(), InferError> {
        for (name, window) in names {
            let spent = self.accounts.entry(name.clone()).or_default();
            spent.turn(*window, now);
            let held = spent.settled.saturating_add(spent.reserved);
            if held.saturating_add(more) > window.most.as_nanos() {
                return Err(over_the_window(name, *window, now));
            }
        }
        Ok(())
    }

    fn end(&mut self, id: u64, actual: u64, now: Time) {
        let Some(reservation) = self.reservations.remove(&id) else {
            return;
        };
        for (name, window) in &reservation.names {
            let Some(spent) = self.accounts.get_mut(name) else {
                continue;
            };
            spent.turn(*window, now);
            spent.reserved = spent.reserved.saturating_sub(reservation.reserved);
            let rest = actual.saturating_sub(reservation.billed);
            spent.settled = spent.settled.saturating_add(rest);
        }
    }

    /// Ends reservations that nobody renewed, at most once a second.
    fn sweep(&mut self, now: Time) {
        if now.since(self.swept) < Duration::from_secs(1) {
            return;
        }
        self.swept = now;
        // An entry whose request is forgotten for good goes after a while more.
        self.reservations
            .retain(|_, r| !r.expired || now.since(r.until) < FORGOTTEN);
        for reservation in self.reservations.values_mut() {
            if reservation.expired || reservation.until > now {
                continue;
            }
            for (name, window) in &reservation.names {
                let Some(spent) = self.accounts.get_mut(name) else {
                    continue;
                };
                spent.turn(*window, now);
                spent.reserved = spent.reserved.saturating_sub(reservation.reserved);
                let new = reservation.used.saturating_sub(reservation.billed);
                spent.settled = spent.settled.saturating_add(new);
            }
            reservation.billed = reservation.used;
            reservation.reserved = 0;
            reservation.expired = true;
        }
    }

    fn make_room(&mut self, names: &[(Name, Window)], now: Time) -> Result<(), InferError> {
        if self.accounts.len() + names.len() <= MAX_ACCOUNTS {
            return Ok(());
        }
        self.accounts
            .retain(|_, spent| spent.reserved > 0 || (spent.over > now && spent.settled > 0));
        if self.accounts.len() + names.len() <= MAX_ACCOUNTS {
            return Ok(());
        }
        Err(InferError::new(
            ErrorClass::Exhausted,
            "BUDGET_EXHAUSTED",
            format!("{MAX_ACCOUNTS} accounts spend at once, and no more are kept"),
        )
        .retry_after(Duration::from_secs(1)))
    }
}

impl Spent {
    /// Begins the present window, if it is another.
    fn turn(&mut self, window: Window, now: Time) {
        let present = number(window, now);
        if self.window != present || self.over == Time::ZERO {
            (self.window, self.settled) = (present, 0);
            self.over = now + left(window, now);
        }
    }
}

#[cfg(test)]
mod tests;
