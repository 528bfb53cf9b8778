//! The dispatcher: decide, ask, and go on to the next before the first token.

use crate::breaker::Breakers;
use crate::budget::{BudgetLimits, Ledger};
use crate::memory::Memory;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tiermesh_core::{
    BreakerState, Clock, Context, DecisionSummary, Destination, ErrorClass, Explain, Fleet, Infer,
    InferError, InferFuture, NodeId, Refusal, Request, RequestMeta, Sealed, Tier,
};
use tiermesh_decision::record::Journal;
use tiermesh_decision::{Policies, Policy, chances};

mod advice;
mod allowance;
mod attempt;
mod bill;
mod context;
mod decided;
mod elsewhere;
mod failed;
mod holding;
mod learn;
mod lobby;
mod patience;
mod race;
mod recover;
mod relay;
mod run;
mod said;
mod slow;

pub use advice::{Advise, LookFuture};
pub use allowance::Allowance;
use allowance::{Bucket, Shares};
use decided::Decided;
use holding::Holding;
use lobby::Lobby;
pub use race::HedgeRule;
use run::Run;

/// What a dispatcher is made of.
pub struct Setup {
    /// The node it runs on. Its id goes into `via` before a request is handed
    /// to another node, and the candidate of that id is the own engine.
    pub own: Destination,
    /// The nodes it picks among, its own engine included.
    pub fleet: Arc<dyn Fleet>,
    /// The policies it knows.
    pub policies: Policies,
    /// The breakers of this process.
    pub breakers: Arc<Breakers>,
    /// What the time is.
    pub clock: Arc<dyn Clock>,
    /// How patient it is.
    pub options: Options,
}

/// What a dispatcher keeps of what it does.
#[derive(Default)]
pub struct Keeps {
    /// Learns from its answers; without it every request is the first. Its
    /// fleet should keep its candidates in the same one.
    pub memory: Option<Arc<Memory>>,
    /// Takes what was decided, and what became of it.
    pub journal: Option<Arc<dyn Journal>>,
    /// Looks at requests before they are decided.
    pub adviser: Option<Arc<dyn Advise>>,
}

/// How patient a dispatcher is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A node has this many times its predicted 99th percentile to say its
    /// first token, or the floor below, whichever is longer.
    pub first_token_factor: u32,
    /// The least time a node has to its first token.
    pub first_token_floor: Duration,
    /// The time the last choice of a plan has, when that is longer: with
    /// nobody left to ask, late is better than never.
    pub last_first_token: Duration,
    /// The longest pause between two events of an answer, whatever its pace.
    pub stall: Duration,
    /// A pause is taken for a stall no sooner than this, and only if the
    /// node's reports have stopped too.
    pub stall_floor: Duration,
    /// A node that reports and says nothing has this long at least.
    pub stall_alive: Duration,
    /// A node with streams in flight reports every 250 ms: one whose last
    /// report is older than this is silent.
    pub stale_report: Duration,
    /// A pause is suspicious no sooner than this: then another node that
    /// would say the very same is warmed.
    pub rescue_floor: Duration,
    /// The most attempts at one request.
    pub max_attempts: u32,
    /// The most seams in one answer.
    pub max_seams: u32,
    /// How long a request may wait for a place, all in all, between two of its
    /// tokens, where all are full.
    pub place_within: Duration,
    /// The first wait of such a search is up to this, each next up to twice
    /// as long, drawn from the request's seed.
    pub backoff: Duration,
    /// But never longer than this.
    pub backoff_most: Duration,
    /// Retries after failures before the first token.
    pub retries: Allowance,
    /// Hedges and rescues.
    pub hedges: Allowance,
    /// When a request is hedged whose policy does not say.
    pub hedge: HedgeRule,
    /// What answers may cost, and whom.
    pub budgets: BudgetLimits,
    /// The most requests that are held back for a slot of one pool of nodes.
    pub hold_most: usize,
    /// The most requests that wait in front of one tier for a place.
    pub queue_most: usize,
    /// The longest one waits there, whatever its deadline; zero refuses at
    /// once whoever finds no place.
    pub queue_within: Duration,
    /// Where a client should go whose content may not be here, for the error
    /// it gets.
    pub nearer_endpoint: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            first_token_factor: 4,
            first_token_floor: Duration::from_secs(2),
            last_first_token: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            stall_floor: Duration::from_millis(500),
            stall_alive: Duration::from_secs(5),
            stale_report: Duration::from_millis(650),
            rescue_floor: Duration::from_millis(250),
            max_attempts: 16,
            max_seams: 8,
            place_within: Duration::from_secs(3),
            backoff: Duration::from_millis(20),
            backoff_most: Duration::from_millis(250),
            retries: Allowance {
                share_percent: 20,
                floor_per_s: 32,
            },
            hedges: Allowance {
                share_percent: 10,
                floor_per_s: 8,
            },
            hedge: HedgeRule::WHEN_LATE,
            budgets: BudgetLimits::default(),
            hold_most: 256,
            queue_most: 256,
            queue_within: Duration::from_secs(2),
            nearer_endpoint: None,
        }
    }
}

/// An [`Infer`] that picks among the nodes of a fleet.
///
/// A node whose answer it hands on is told to answer itself: it gets the
/// model, and a scope without tiers. A node that is reached through a transit
/// gives the transit the tier to choose within, and a cloud node the cloud.
/// The dispatcher adds its own id to `via` before it hands a request to
/// another node; a receiver never adds the sender.
pub struct Dispatcher {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    own: Destination,
    fleet: Arc<dyn Fleet>,
    policies: RwLock<Arc<Policies>>,
    breakers: Arc<Breakers>,
    clock: Arc<dyn Clock>,
    retries: Bucket,
    hedges: Bucket,
    /// The hedges of policies that name a share.
    shares: Shares,
    ledger: Arc<Ledger>,
    lobby: Lobby,
    holding: Arc<Holding>,
    options: Options,
    keeps: Keeps,
}

impl Dispatcher {
    /// A dispatcher that keeps nothing.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self::keeping(setup, Keeps::default())
    }

    /// A dispatcher that learns and records.
    #[must_use]
    pub fn keeping(setup: Setup, keeps: Keeps) -> Self {
        Self {
            shared: Arc::new(Shared {
                own: setup.own,
                fleet: setup.fleet,
                policies: RwLock::new(Arc::new(setup.policies)),
                breakers: setup.breakers,
                clock: setup.clock,
                retries: Bucket::new(setup.options.retries),
                hedges: Bucket::new(setup.options.hedges),
                shares: Shares::default(),
                ledger: Ledger::new(setup.options.budgets.clone()),
                lobby: Lobby::default(),
                holding: Arc::default(),
                options: setup.options,
                keeps,
            }),
        }
    }

    /// What was spent.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.shared.ledger
    }

    /// The policies in force.
    #[must_use]
    pub fn policies(&self) -> Arc<Policies> {
        self.shared.policies()
    }

    /// Puts other policies in force. Requests under way keep theirs.
    pub fn set_policies(&self, policies: Policies) {
        self.shared.shares.keep(|name| policies.get(name).is_some());
        *self
            .shared
            .policies
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(policies);
    }

    /// How the breaker in front of a node treats the next request.
    #[must_use]
    pub fn breaker_state(&self, node: &NodeId) -> BreakerState {
        let now = self.shared.clock.now();
        self.shared.breakers.state(node, now)
    }
}

impl Infer for Dispatcher {
    fn infer(&self, request: Arc<Sealed<Request>>, context: Context) -> InferFuture<'_> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            shared.is_the_right_door(request.meta())?;
            let (meta, arrived) = (request.meta(), shared.clock.now());
            let context = shared.advised(&request, context, arrived).await;
            let mut decided = match shared.decide(meta, context.clone()).await {
                Ok(decided) => decided,
                Err(refusal) => {
                    shared.hint(meta);
                    shared.record_refusal(meta, context);
                    return Err(refusal);
                }
            };
            shared.record(meta, &decided);
            if shared.keeps.adviser.is_some() {
                // A look before is a part of its time.
                decided.at = arrived;
            }
            Run::start(shared, request, decided).await
        })
    }
}

impl Explain for Dispatcher {
    fn explain(&self, meta: &RequestMeta, context: &Context) -> Result<DecisionSummary, Refusal> {
        let decided = Decided::new(
            &self.shared,
            meta,
            context.clone(),
            self.shared.may_hold(context),
        )?;
        let own = &self.shared.own;
        let mut summary = decided.summary(meta, own, 0);
        let chances = chances(&decided.question(meta, own), &decided.snapshot);
        summary.reasons.extend(chances);
        Ok(summary)
    }
}

impl Shared {
    fn policies(&self) -> Arc<Policies> {
        Arc::clone(&self.policies.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// When requests of a policy are asked of two nodes at once; none for a
    /// policy that wants no hedges.
    fn hedge_rule(&self, policy: &Policy) -> Option<HedgeRule> {
        match &policy.hedge {
            Some(hedge) => hedge.enabled.then(|| HedgeRule {
                always: true,
                after: hedge.after,
                tiers: hedge.tiers.clone(),
            }),
            None => Some(self.options.hedge.clone()),
        }
    }

    /// Refuses content that may not even be on this machine: it should have
    /// gone in at a nearer door. Whose device this is does not matter, for a
    /// door serves whoever came to it; its engine checks again.
    fn is_the_right_door(&self, meta: &RequestMeta) -> Result<(), Refusal> {
        let policies = self.policies();
        let policy = policies.require(&meta.policy)?;
        let privacy = meta.privacy.min(policy.privacy);
        let far = !privacy.allows(self.own.tier);
        let abroad = self.own.tier != Tier::Device
            && meta.residency.is_some()
            && meta.residency != self.own.region;
        if !far && !abroad {
            return Ok(());
        }
        let nearer = self.options.nearer_endpoint.as_deref();
        let (tier, node) = (self.own.tier, &self.own.node);
        let what = if far {
            format!(
                "privacy `{}` keeps content from the {tier} tier",
                privacy.as_str()
            )
        } else {
            "`residency` keeps content out of this region".to_owned()
        };
        let fix = nearer.map_or_else(
            || "use the endpoint of an edge node or of the device".to_owned(),
            |endpoint| format!("use {endpoint}"),
        );
        let error = InferError::new(
            ErrorClass::Forbidden,
            "WRONG_DOOR",
            format!("{what}, where `{node}` stands: {fix}"),
        );
        Err(match nearer {
            Some(endpoint) => error.with("endpoint", endpoint),
            None => error,
        })
    }
}

#[cfg(test)]
mod tests;
