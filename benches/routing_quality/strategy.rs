//! Who decides: what every strategy sees, and the fixed rules that ours is
//! compared with.

use crate::rng::Rng;
use tiermesh_core::{CapacityReport, Tier, Time};
use tiermesh_decision::Hold;

/// What is known of a node at the gateway, to any strategy.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) tier: Tier,
    /// The only user it serves.
    pub(crate) owner: Option<u32>,
    pub(crate) context: u64,
    /// False once it is known to be away.
    pub(crate) there: bool,
    /// Streams we have open on it.
    pub(crate) open: u32,
    /// First-token time of a short prompt, queue included, and reading speed,
    /// as it last reported.
    pub(crate) reported_ms: f64,
    pub(crate) prefill_tok_s: f64,
    pub(crate) rtt_ms: f64,
    /// Dollars a token read and written.
    pub(crate) prices: (f64, f64),
}

/// A request to be placed.
pub(crate) struct Ask<'a> {
    pub(crate) id: usize,
    pub(crate) prompt: u32,
    pub(crate) user: u32,
    pub(crate) blocks: &'a [u64],
    pub(crate) now: Time,
    /// When its first token is due; none once it has one.
    pub(crate) due_first: Option<Time>,
    pub(crate) due_end: Time,
    pub(crate) max_tokens: u32,
    /// Nodes that refused it.
    pub(crate) refused: &'a [usize],
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pick {
    Node(usize),
    /// Nowhere yet: until somebody of this pool has a slot free.
    Hold {
        pool: u32,
        hold: Hold,
    },
    Nobody,
}

/// Places requests and hears what becomes of them.
pub(crate) trait Strategy {
    /// With `hold` the request may be held back, behind so many at most.
    fn pick(&mut self, ask: &Ask<'_>, nodes: &[Known], hold: Option<u32>) -> Pick;
    /// It is held back for this pool, and can wait until then.
    fn held(&mut self, _pool: u32, _until: Time, _now: Time) {}
    /// It is no more.
    fn let_go(&mut self, _pool: u32, _now: Time) {}
    fn sent(&mut self, _ask: &Ask<'_>, _node: usize) {}
    fn first_token(&mut self, _job: usize, _node: usize, _took_ms: f64, _now: Time) {}
    /// It ended, having written so many tokens, or was lost.
    fn closed(&mut self, _job: usize, _written: Option<u32>, _now: Time) {}
    fn report(&mut self, _node: usize, _report: &CapacityReport, _now: Time) {}
    /// Tokens of running streams came since the last call.
    fn heard(&mut self, _node: usize, _now: Time) {}
    fn tick(&mut self, _now: Time) {}
    fn left(&mut self, _node: usize) {}
    fn joined(&mut self, _node: usize, _now: Time) {}
    /// Its model is loaded by then.
    fn loading(&mut self, _node: usize, _until: Time, _now: Time) {}
    fn prices(&mut self, _node: usize, _input: f64, _output: f64, _now: Time) {}
}

/// The fixed rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Random,
    RoundRobin,
    LeastLoaded,
    P2cEwma,
    AlwaysCloud,
    CheapestFeasible,
}

impl Rule {
    pub(crate) const ALL: [Self; 6] = [
        Self::Random,
        Self::RoundRobin,
        Self::LeastLoaded,
        Self::P2cEwma,
        Self::AlwaysCloud,
        Self::CheapestFeasible,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round_robin",
            Self::LeastLoaded => "least_loaded",
            Self::P2cEwma => "p2c_ewma",
            Self::AlwaysCloud => "always_cloud",
            Self::CheapestFeasible => "cheapest_feasible",
        }
    }
}

/// A fixed rule at work. It keeps the hard limits (whose device it is, what
/// fits) as ours does, and asks somebody else when a node refuses.
pub(crate) struct Fixed {
    rule: Rule,
    rng: Rng,
    next: usize,
    /// Milliseconds to the first token, averaged with more weight on the last.
    ewma: Vec<f64>,
}

/// Weight of the newest in the average.
const EWMA: f64 = 0.2;

impl Fixed {
    pub(crate) fn new(rule: Rule, nodes: usize, seed: u64) -> Self {
        Self {
            rule,
            rng: Rng::new(seed ^ 0x6669_7865),
            next: 0,
            ewma: vec![0.0; nodes],
        }
    }

    fn cheapest(ask: &Ask<'_>, nodes: &[Known], able: &[usize]) -> Option<usize> {
        let first_ms = |node: usize| {
            let known = &nodes[node];
            known.reported_ms + known.rtt_ms + f64::from(ask.prompt) * 1e3 / known.prefill_tok_s
        };
        let cost = |node: usize| {
            let (input, output) = nodes[node].prices;
            input * f64::from(ask.prompt) + output * 200.0
        };
        let slack = ask
            .due_first
            .map_or(f64::INFINITY, |due| due.since(ask.now).as_secs_f64() * 1e3);
        let sooner = |a: &usize, b: &usize| first_ms(*a).total_cmp(&first_ms(*b));
        let in_time = able.iter().copied().filter(|node| first_ms(*node) <= slack);
        in_time
            .min_by(|a, b| cost(*a).total_cmp(&cost(*b)).then(sooner(a, b)))
            .or_else(|| able.iter().copied().min_by(sooner))
    }
}

/// Whether hard limits allow it.
pub(crate) fn may(ask: &Ask<'_>, node: &Known) -> bool {
    node.there
        && node.owner.is_none_or(|owner| owner == ask.user)
        && u64::from(ask.prompt) + u64::from(ask.max_tokens) <= node.context
}

impl Strategy for Fixed {
    fn pick(&mut self, ask: &Ask<'_>, nodes: &[Known], _hold: Option<u32>) -> Pick {
        self.choose(ask, nodes).map_or(Pick::Nobody, Pick::Node)
    }

    fn first_token(&mut self, _job: usize, node: usize, took_ms: f64, _now: Time) {
        let old = &mut self.ewma[node];
        *old = if *old == 0.0 {
            took_ms
        } else {
            *old + EWMA * (took_ms - *old)
        };
    }
}

impl Fixed {
    fn choose(&mut self, ask: &Ask<'_>, nodes: &[Known]) -> Option<usize> {
        let cloud_only = self.rule == Rule::AlwaysCloud;
        let able: Vec<usize> = (0..nodes.len())
            .filter(|node| may(ask, &nodes[*node]) && !ask.refused.contains(node))
            .filter(|node| !cloud_only || nodes[*node].tier == Tier::Cloud)
            .collect();
        if able.is_empty() {
            return None;
        }
        match self.rule {
            Rule::Random => Some(able[self.rng.below(able.len())]),
            Rule::RoundRobin => {
                self.next += 1;
                let after = able.iter().find(|node| **node >= self.next);
                let node = *after.unwrap_or(&able[0]);
                self.next = node;
                Some(node)
            }
            Rule::LeastLoaded | Rule::AlwaysCloud => {
                let begin = self.rng.below(able.len());
                let turned = able[begin..].iter().chain(&able[..begin]);
                turned.copied().min_by_key(|node| nodes[*node].open)
            }
            Rule::P2cEwma => {
                let (a, b) = (self.rng.below(able.len()), self.rng.below(able.len()));
                let (a, b) = (able[a], able[b]);
                let cost = |node: usize| self.ewma[node] * f64::from(nodes[node].open + 1);
                Some(if cost(b) < cost(a) { b } else { a })
            }
            Rule::CheapestFeasible => Self::cheapest(ask, nodes, &able),
        }
    }
}
