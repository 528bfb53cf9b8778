//! Prices that bound what can be served, by a subgradient method.

use super::{Problem, Way};

/// Steps of the method. Ten times as many find a bound that is a tenth of a
/// percent better.
const STEPS: usize = 1_000;
/// How much of a step's direction is that of the steps before it: prices of
/// neighbouring moments swing against each other, and the swings cancel.
const MOMENTUM: f64 = 0.9;

/// Prices of slots by pool and bin, or their sums.
pub(super) type Prices = Vec<Vec<f64>>;

/// What the dual says.
pub(super) struct Dual {
    /// The least upper bound found of worth less cost.
    pub(super) worth: f64,
    /// Jobs served, and their worth, on average over the later steps.
    pub(super) taken: f64,
    pub(super) taken_worth: f64,
    /// The prices behind it, in dollars a second, and what intervals from the
    /// beginning to each bin's edge cost at these.
    prices: Prices,
    pub(super) sums: Prices,
}

impl Problem {
    /// Looks for prices that bound the worth of all that can be served, less
    /// its cost. Given prices to begin with, it looks only for better ones
    /// where those are not nothing.
    pub(super) fn dual(
        &self,
        worth: &dyn Fn(usize) -> f64,
        cost: &dyn Fn(&Way) -> f64,
        begin: Option<Prices>,
    ) -> Dual {
        let nothing = || vec![vec![0.0_f64; self.bins]; self.pools.len()];
        let only_there = begin.is_some();
        let mut prices = begin.unwrap_or_else(nothing);
        let mut best = Dual {
            worth: f64::INFINITY,
            taken: 0.0,
            taken_worth: 0.0,
            prices: nothing(),
            sums: vec![vec![0.0; self.bins + 1]; self.pools.len()],
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
        let scale = sum / f64::max(sum_s, 1e-9);
        let mut averaged = (0.0, 0.0, 0.0);
        let mut direction = nothing();
        for step in 0..STEPS {
            let sums: Prices = prices.iter().map(|p| summed(p, bin_s)).collect();
            let mut used = nothing();
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
                best.prices.clone_from(&prices);
                best.sums = sums;
            }
            if step >= STEPS / 2 {
                averaged.0 += taken;
                averaged.1 += taken_worth;
                averaged.2 += 1.0;
            }
            // Costs differ by orders of magnitude, so their prices grow by a
            // factor; worth is the same for all, so its prices by a sum.
            let (stride, factor) = match sum_usd > 0.0 {
                true => (0.6 / (1.0 + step as f64 * 0.03), 1.0),
                false => (0.06 / (1.0 + step as f64 * 0.03), 0.0),
            };
            let pools = prices.iter_mut().zip(&mut direction).zip(&used);
            for (((prices, direction), used), slots) in pools.zip(&self.slots) {
                let most = slots.iter().copied().fold(1.0, f64::max);
                let moves = prices.iter_mut().zip(direction).zip(used.iter().zip(slots));
                for ((price, change), (used, slots)) in moves {
                    let newest = ((used - slots) / most).clamp(-1.0, 1.0);
                    *change = MOMENTUM * *change + (1.0 - MOMENTUM) * newest;
                    if !only_there || *price > 0.0 {
                        let by = stride * *change * (additive * scale + factor * *price);
                        *price = (*price + by).max(0.0);
                    }
                }
            }
        }
        best.taken = averaged.0 / averaged.2;
        best.taken_worth = averaged.1 / averaged.2;
        best
    }

    /// Prices to begin with where answers come too late for want of slots:
    /// where, at what they cost at best, one costs something in every pool
    /// that anybody may use. Elsewhere nobody is kept from being in time, and
    /// a price would only loosen the bound.
    pub(super) fn short(&self, dual: &Dual) -> Prices {
        let pools = self.pools.iter().zip(&dual.prices);
        let shared: Vec<_> = pools.filter(|(pool, _)| pool.owner.is_none()).collect();
        let least = |bin: usize| {
            let of_pools = shared.iter().map(|(_, prices)| prices[bin]);
            of_pools.reduce(f64::min).unwrap_or(0.0)
        };
        let least: Vec<f64> = (0..self.bins).map(least).collect();
        let most = least.iter().copied().fold(1e-12, f64::max);
        // What a slot serves in a second.
        let ways = self.ways.iter().flatten();
        let sum_s: f64 = ways.clone().map(|way| way.took as f64 / 1e6).sum();
        let typical = ways.count() as f64 / sum_s.max(1e-9);
        let begin: Vec<f64> = least.iter().map(|p| typical * p.min(most) / most).collect();
        vec![begin; self.pools.len()]
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
            edge += bin;
        }
        let mut edge = (way.earliest + way.took).div_ceil(bin) * bin;
        while edge <= way.latest + way.took {
            consider(edge - way.took);
            edge += bin;
        }
        best
    }

    pub(super) fn value(&self, sums: &[f64], at: u64) -> f64 {
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
