//! What nobody could beat: a bound that knows every arrival and service time.
//!
//! Nodes of a kind are one pool of slots; queues, memory, batches and the
//! gateway's ignorance are dropped; a prompt is read as if one endless cache
//! served all. What is left is an interval scheduling problem, whose linear
//! relaxation is bounded from its dual: a price for a slot of each pool at
//! each moment. Any prices give a valid bound, and a subgradient method looks
//! for good ones. Starts are tried wherever the price of an interval can be
//! least, so the bound holds exactly, not only on a grid.
//!
//! How tight it is: [`Bound::reached`] is what a plain schedule made with the
//! same knowledge keeps on the real slots, and `reached_usd` what that costs.

use crate::fleet::Fleet;
use crate::load::Job;
use crate::scenario::Happens;

mod dual;
mod pools;
mod schedule;

use dual::Dual;
use pools::{capacity, way};

/// Moments that prices are kept for, at most.
const MOST_BINS: u64 = 8_000;
/// Microseconds of such a moment at most; at best, an answer takes ten.
const LONGEST_BIN_US: u64 = 500_000;
/// What an answer that is not in time costs in the second bound, as a multiple
/// of the dearest way to give it.
const PENALTY: f64 = 4.0;

/// The bound of one run.
pub(crate) struct Bound {
    /// Nobody has a larger share of answers in time.
    pub(crate) attainment: f64,
    /// Nobody gives as many for less, in dollars.
    pub(crate) usd: f64,
    /// The answers in time of the cheapest such schedule, a share of all.
    pub(crate) served: f64,
    /// The share that a real schedule with all knowledge keeps, and what each
    /// of those costs in it, in dollars.
    pub(crate) reached: f64,
    pub(crate) reached_usd: f64,
    /// What each answer would cost if every node were at its usual speed for
    /// every request: the rest is knowing which request is lucky where.
    pub(crate) usd_without_luck: f64,
}

/// Nodes of a kind; an owned node is a pool of its own.
struct Pool {
    kind: usize,
    owner: Option<u32>,
    nodes: Vec<usize>,
}

/// One way to serve a job: a pool, when it may begin, and for how long.
#[derive(Clone, Copy)]
struct Way {
    pool: usize,
    earliest: u64,
    latest: u64,
    took: u64,
    usd: f64,
}

struct Problem {
    pools: Vec<Pool>,
    /// Slots that are there, by pool and bin.
    slots: Vec<Vec<f64>>,
    bin: u64,
    bins: usize,
    /// By job, its ways.
    ways: Vec<Vec<Way>>,
}

/// Takes as long as in the simulation, noise and all.
pub(crate) type Service<'a> = dyn Fn(usize, usize, u32) -> (f64, f64) + 'a;

impl Bound {
    pub(crate) fn of(
        fleet: &Fleet,
        jobs: &[Job],
        plan: &[(u64, Happens)],
        (service, usual): (&Service<'_>, &Service<'_>),
    ) -> Self {
        let problem = Problem::new(fleet, jobs, plan, service);
        let count = jobs.len().max(1) as f64;
        let able = problem.ways.iter().filter(|ways| !ways.is_empty()).count() as f64;
        let (dual, usd) = problem.least_cost();
        let short = problem.short(&dual);
        let most = problem.dual(&|_| 1.0, &|_| 0.0, Some(short));
        let attainment = (most.worth / count).min(able / count);
        let (reached, reached_usd) = problem.schedule(jobs, &dual.sums);
        let (unlucky, usd_without_luck) = Problem::new(fleet, jobs, plan, usual).least_cost();
        Self {
            attainment,
            usd,
            served: dual.taken / count,
            reached: reached / count,
            reached_usd: reached_usd / reached.max(1.0),
            usd_without_luck: usd_without_luck / unlucky.taken.max(1.0),
        }
    }
}

impl Problem {
    /// Prices that bound the cost of serving whom it is worth to serve, and
    /// that cost in dollars.
    fn least_cost(&self) -> (Dual, f64) {
        let worth = |job: usize| {
            let ways = self.ways[job].iter();
            PENALTY * ways.map(|way| way.usd).fold(1e-9, f64::max)
        };
        let dual = self.dual(&worth, &|way| way.usd, None);
        let total: f64 = (0..self.ways.len())
            .filter(|job| !self.ways[*job].is_empty())
            .map(worth)
            .sum();
        // The least of costs and penalties, less the penalties in it.
        let usd = (total - dual.worth) - (total - dual.taken_worth);
        (dual, usd.max(0.0))
    }

    fn new(fleet: &Fleet, jobs: &[Job], plan: &[(u64, Happens)], service: &Service<'_>) -> Self {
        let mut pools: Vec<Pool> = Vec::new();
        for (node, (kind, number)) in fleet.nodes().enumerate() {
            let owner = fleet.kinds[kind].owned.then_some(number as u32);
            match pools
                .iter_mut()
                .find(|p| p.kind == kind && p.owner == owner)
            {
                Some(pool) => pool.nodes.push(node),
                None => pools.push(Pool {
                    kind,
                    owner,
                    nodes: vec![node],
                }),
            }
        }
        let last = jobs.iter().map(|job| job.at).max().unwrap_or(1);
        let horizon = last + 600_000_000;
        let ways = jobs.iter().enumerate().map(|(at, job)| {
            let of_pool = pools.iter().enumerate();
            let ways = of_pool.filter(|(_, p)| p.owner.is_none_or(|owner| owner == job.user));
            ways.filter_map(|(pool, p)| way(fleet, plan, (at, job), (pool, p), service, horizon))
                .collect()
        });
        let ways: Vec<Vec<Way>> = ways.collect();
        let all = || ways.iter().flatten();
        let end = all().map(|way| way.latest + way.took).max().unwrap_or(1);
        let usual = all().map(|way| way.took).sum::<u64>() / (all().count() as u64).max(1);
        let bin = (usual / 10)
            .min(LONGEST_BIN_US)
            .max(end / MOST_BINS)
            .max(1_000);
        let bins = (end / bin + 2) as usize;
        let slots = pools
            .iter()
            .map(|pool| capacity(fleet, pool, plan, bin, bins));
        let slots = slots.collect();
        Self {
            pools,
            slots,
            bin,
            bins,
            ways,
        }
    }
}
