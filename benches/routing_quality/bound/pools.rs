//! What pools have, and what jobs need of them.

use super::{Pool, Service, Way};
use crate::fleet::Fleet;
use crate::load::Job;
use crate::scenario::Happens;

/// Slots of a pool that are there, bin by bin.
pub(super) fn capacity(
    fleet: &Fleet,
    pool: &Pool,
    plan: &[(u64, Happens)],
    bin: u64,
    bins: usize,
) -> Vec<f64> {
    let each = f64::from(fleet.kinds[pool.kind].slots);
    let mut slots = vec![each * pool.nodes.len() as f64; bins];
    for node in &pool.nodes {
        let mut away: Vec<(u64, u64)> = Vec::new();
        for (at, happens) in plan {
            match happens {
                Happens::Die(nodes) if nodes.contains(node) => away.push((*at, u64::MAX)),
                Happens::Return(nodes) if nodes.contains(node) => {
                    if let Some(last) = away.last_mut() {
                        last.1 = *at;
                    }
                }
                Happens::Stall(nodes, us) if nodes.contains(node) => away.push((*at, at + us)),
                Happens::Unload(nodes) if nodes.contains(node) => {
                    let load_us = fleet.kinds[pool.kind].load_ms * 1e3;
                    away.push((*at, at + load_us as u64));
                }
                _ => {}
            }
        }
        away.sort_unstable();
        let mut gone_until = 0;
        for (from, to) in away {
            // It is away once, however many reasons it has.
            let from = from.max(gone_until);
            gone_until = gone_until.max(to);
            // A bin that is lost in part counts as whole.
            let first = from.div_ceil(bin) as usize;
            let last = (to / bin).min(bins as u64) as usize;
            for slots in slots.iter_mut().take(last).skip(first) {
                *slots -= each;
            }
        }
    }
    slots
}

/// How a pool may serve a job, if it may in time.
pub(super) fn way(
    fleet: &Fleet,
    plan: &[(u64, Happens)],
    (at, job): (usize, &Job),
    (pool, p): (usize, &Pool),
    service: &Service<'_>,
    horizon: u64,
) -> Option<Way> {
    let kind = &fleet.kinds[p.kind];
    let needs = u64::from(job.prompt) + u64::from(fleet.deadline.max_tokens);
    if needs > kind.kv_tokens {
        return None;
    }
    let (read_ms, write_ms) = service(p.kind, at, job.prompt - job.ceiling);
    let half = (kind.rtt_ms * 500.0) as u64;
    let (read, took) = ((read_ms * 1e3) as u64, ((read_ms + write_ms) * 1e3) as u64);
    let earliest = job.at + half;
    let latest = job.due_first.checked_sub(read + half)?;
    let latest = latest
        .min(job.due_end.checked_sub(took + half)?)
        .min(horizon);
    if latest < earliest {
        return None;
    }
    let mut by = 1.0_f64;
    for (when, happens) in plan {
        if let Happens::Prices { cloud, edge } = happens {
            let changed = match kind.tier() {
                tiermesh_core::Tier::Cloud => *cloud,
                tiermesh_core::Tier::Mec => *edge,
                tiermesh_core::Tier::Device => 1.0,
            };
            // Charged at its end, which is early enough for either price only
            // around the change: the lower one bounds it.
            if latest + took >= *when {
                by = if earliest + took >= *when {
                    changed
                } else {
                    changed.min(1.0)
                };
            }
        }
    }
    let (input, output) = kind.prices();
    let usd =
        input.as_dollars() * f64::from(job.prompt) + output.as_dollars() * f64::from(job.output);
    Some(Way {
        pool,
        earliest,
        latest,
        took,
        usd: by * usd / 1e6,
    })
}
