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

mod pools;
mod schedule;

use pools::{capacity, way};

/// Steps of the subgradient method.
const STEPS: usize = 300;
/// Moments that prices are kept for, at most.
const MOST_BINS: usize = 8_000;
/// Starts that are tried for one job on one pool, at most: with more, the
/// whole range is priced at its cheapest moment, which bounds it from below.
const MOST_STARTS: u64 = 48;
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
        service: &Service<'_>,
    ) -> Self {
        let problem = Problem::new(fleet, jobs, plan, service);
        let count = jobs.len().max(1) as f64;
        let able = problem.ways.iter().filter(|ways| !ways.is_empty()).count() as f64;
        let most = problem.dual(&|_| 1.0, &|_| 0.0);
        let attainment = (most.worth / count).min(able / count);
        let worth = |job: usize| {
            let ways = problem.ways[job].iter();
            PENALTY * ways.map(|way| way.usd).fold(1e-9, f64::max)
        };
        let dual = problem.dual(&worth, &|way| way.usd);
        let total: f64 = (0..jobs.len())
            .filter(|job| !problem.ways[*job].is_empty())
            .map(worth)
            .sum();
        // The least of costs and penalties, less the penalties in it.
        let usd = (total - dual.worth) - (total - dual.taken_worth);
        let (reached, reached_usd) = problem.schedule(jobs, &dual.prices);
        Self {
            attainment,
            usd: usd.max(0.0),
            served: dual.taken / count,
            reached: reached / count,
            reached_usd: reached_usd / reached.max(1.0),
        }
    }
}

/// What the dual says.
struct Dual {
    /// The least upper bound found of worth less cost.
    worth: f64,
    /// Jobs served, and their worth, on average over the later steps.
    taken: f64,
    taken_worth: f64,
    /// The prices behind it, summed up by pool.
    prices: Vec<Vec<f64>>,
}

impl Problem {
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
        let end = jobs.iter().map(|job| job.due_end).max().unwrap_or(1);
        let last = jobs.iter().map(|job| job.at).max().unwrap_or(1);
        let horizon = end.min(last + 600_000_000);
        let bin = (horizon / MOST_BINS as u64).max(500_000);
        let bins = (horizon / bin + 2) as usize;
        let slots = pools
            .iter()
            .map(|pool| capacity(fleet, pool, plan, bin, bins));
        let slots = slots.collect();
        let ways = jobs.iter().enumerate().map(|(at, job)| {
            let of_pool = pools.iter().enumerate();
            let ways = of_pool.filter(|(_, p)| p.owner.is_none_or(|owner| owner == job.user));
            ways.filter_map(|(pool, p)| way(fleet, plan, (at, job), (pool, p), service, horizon))
                .collect()
        });
        let ways = ways.collect();
        Self {
            pools,
            slots,
            bin,
            bins,
            ways,
        }
    }

    /// Looks for prices that bound the worth of all that can be served, less
    /// its cost.
    fn dual(&self, worth: &dyn Fn(usize) -> f64, cost: &dyn Fn(&Way) -> f64) -> Dual {
        let pools = self.pools.len();
        let mut prices = vec![vec![0.0_f64; self.bins]; pools];
        let mut best = Dual {
            worth: f64::INFINITY,
            taken: 0.0,
            taken_worth: 0.0,
            prices: vec![vec![0.0; self.bins + 1]; pools],
        };
        let bin_s = self.bin as f64 / 1e6;
        // Where costs differ, a slot-second is worth about as much as the cost
        // of one; where nothing costs, about what it serves.
        let (mut sum_usd, mut sum_worth, mut sum_s) = (0.0, 0.0, 0.0);
        for (job, ways) in self.ways.iter().enumerate() {
            for way in ways {
                sum_usd += cost(way);
                sum_worth += worth(job);
                sum_s += way.took as f64 / 1e6;
            }
        }
        let sum = if sum_usd > 0.0 { sum_usd } else { sum_worth };
        let additive = if sum_usd > 0.0 { 0.3 } else { 1.0 };
        let scale = sum / sum_s.max(1e-9);
        let mut averaged = (0.0, 0.0, 0.0);
        for step in 0..STEPS {
            let sums: Vec<Vec<f64>> = prices.iter().map(|p| summed(p, bin_s)).collect();
            let mut used = vec![vec![0.0_f64; self.bins]; pools];
            let (mut value, mut taken, mut taken_worth) = (0.0, 0.0, 0.0);
            for (job, ways) in self.ways.iter().enumerate() {
                let mut found: Option<(f64, &Way, u64)> = None;
                for way in ways {
                    let (price, start) = self.cheapest(way, &sums[way.pool]);
                    let gain = worth(job) - cost(way) - price;
                    if found.is_none_or(|(most, ..)| gain > most) {
                        found = Some((gain, way, start));
                    }
                }
                if let Some((gain, way, start)) = found.filter(|(gain, ..)| *gain > 0.0) {
                    value += gain;
                    taken += 1.0;
                    taken_worth += worth(job);
                    self.occupy(&mut used[way.pool], start, way.took);
                }
            }
            for (slots, prices) in self.slots.iter().zip(&prices) {
                let parts = slots.iter().zip(prices);
                value += parts
                    .map(|(slots, price)| slots * price * bin_s)
                    .sum::<f64>();
            }
            if value < best.worth {
                best.worth = value;
                best.prices = sums;
            }
            if step >= STEPS / 2 {
                averaged.0 += taken;
                averaged.1 += taken_worth;
                averaged.2 += 1.0;
            }
            // Costs differ by orders of magnitude, so their prices grow by a
            // factor; worth is the same for all, so its prices by a sum.
            let (stride, factor) = match sum_usd > 0.0 {
                true => (0.6 / (1.0 + step as f64 * 0.1), 1.0),
                false => (0.06 / (1.0 + step as f64 * 0.03), 0.0),
            };
            for ((prices, used), slots) in prices.iter_mut().zip(&used).zip(&self.slots) {
                let most = slots.iter().copied().fold(1.0, f64::max);
                for ((price, used), slots) in prices.iter_mut().zip(used).zip(slots) {
                    let change = ((used - slots) / most).clamp(-1.0, 1.0);
                    *price =
                        (*price + stride * change * (additive * scale + factor * *price)).max(0.0);
                }
            }
        }
        best.taken = averaged.0 / averaged.2;
        best.taken_worth = averaged.1 / averaged.2;
        best
    }

    /// The least price of an interval that a way allows, and where it begins.
    /// Prices are constant within a bin, so the least is where an end of the
    /// interval meets a bin's edge, or at an end of the range.
    fn cheapest(&self, way: &Way, sums: &[f64]) -> (f64, u64) {
        let price = |start: u64| self.value(sums, start + way.took) - self.value(sums, start);
        let mut best = (price(way.earliest), way.earliest);
        if best.0 <= 0.0 {
            return best;
        }
        let bin = self.bin;
        let span = (way.latest - way.earliest) / bin + 1;
        let every = span.div_ceil(MOST_STARTS).max(1);
        let mut consider = |start: u64| {
            if start >= way.earliest && start <= way.latest {
                let this = price(start);
                if this < best.0 {
                    best = (this, start);
                }
            }
        };
        consider(way.latest);
        let mut edge = way.earliest.div_ceil(bin) * bin;
        while edge <= way.latest {
            consider(edge);
            edge += bin * every;
        }
        let mut edge = (way.earliest + way.took).div_ceil(bin) * bin;
        while edge <= way.latest + way.took {
            consider(edge - way.took);
            edge += bin * every;
        }
        if every > 1 {
            // Edges were left out: between two tried ones the price falls at
            // most by what the dearest skipped bins cost.
            let skipped = bin * (every - 1);
            let most =
                self.value(sums, way.latest + way.took + skipped) - self.value(sums, way.earliest);
            let dearest = most / (way.latest + way.took + skipped - way.earliest) as f64;
            best.0 = (best.0 - dearest * skipped as f64).max(0.0);
        }
        best
    }

    fn value(&self, sums: &[f64], at: u64) -> f64 {
        let place = (at / self.bin) as usize;
        if place >= self.bins {
            return sums[self.bins];
        }
        let within = (at % self.bin) as f64 / self.bin as f64;
        sums[place] + within * (sums[place + 1] - sums[place])
    }

    fn occupy(&self, used: &mut [f64], start: u64, took: u64) {
        let (from, to) = (start / self.bin, (start + took) / self.bin);
        for bin in from..=to {
            let Some(used) = used.get_mut(bin as usize) else {
                break;
            };
            let begin = start.max(bin * self.bin);
            let end = (start + took).min((bin + 1) * self.bin);
            *used += end.saturating_sub(begin) as f64 / self.bin as f64;
        }
    }
}

/// What intervals from the beginning to each edge cost.
fn summed(prices: &[f64], bin_s: f64) -> Vec<f64> {
    let mut sum = 0.0;
    let mut sums = vec![0.0];
    sums.extend(prices.iter().map(|price| {
        sum += price * bin_s;
        sum
    }));
    sums
}
