//! From a trace to the jobs of one run: users, deadlines, and arrivals scaled
//! to a share of what the fleet can do.

use crate::fleet::Fleet;
use crate::network::Network;
use crate::rng::{Rng, mix};
use crate::trace::{Asked, BLOCK_TOKENS};
use std::collections::BTreeSet;

/// Users, where the trace names none.
const USERS: u64 = 64;
/// Bytes of a prompt's token on its way from the client.
const BYTES_PER_TOKEN: f64 = 4.0;

/// One request of a run. Times are microseconds from its beginning.
pub(crate) struct Job {
    /// When it is at the gateway.
    pub(crate) at: u64,
    pub(crate) prompt: u32,
    pub(crate) output: u32,
    pub(crate) user: u32,
    pub(crate) blocks: Vec<u64>,
    /// Tokens that one endless cache would have at hand.
    pub(crate) ceiling: u32,
    pub(crate) due_first: u64,
    pub(crate) due_end: u64,
}

/// Answers a second that the fleet can give of this trace, no prefix at hand:
/// of each node what it can do in time, and of a user's device no more than
/// the user asks for.
pub(crate) fn capacity(fleet: &Fleet, asked: &[Asked]) -> f64 {
    let users: BTreeSet<_> = asked.iter().filter_map(|one| one.user).collect();
    let users = if users.is_empty() {
        USERS as usize
    } else {
        users.len()
    };
    let nodes: Vec<(f64, f64)> = fleet
        .kinds
        .iter()
        .flat_map(|kind| {
            let (mut able, mut total_s) = (0.0, 0.0);
            for one in asked {
                let (read, write) = kind.service_ms(one.prompt, one.output);
                let fits = u64::from(one.prompt + fleet.deadline.max_tokens) <= kind.kv_tokens;
                if fits && read + kind.rtt_ms <= fleet.deadline.of(one.prompt).0 {
                    able += 1.0;
                    total_s += (read + write) / 1e3;
                }
            }
            let rate = f64::from(kind.slots) * able / total_s.max(1e-9);
            let able = able / asked.len().max(1) as f64;
            let share = if kind.owned {
                able / users as f64
            } else {
                able
            };
            let count = if kind.owned {
                kind.count.min(users)
            } else {
                kind.count
            };
            std::iter::repeat_n((rate, share), count)
        })
        .collect();
    // The highest rate at which nobody's share is more than all can take.
    let (mut low, mut high) = (0.0, nodes.iter().map(|(rate, _)| rate).sum::<f64>());
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        let taken: f64 = nodes
            .iter()
            .map(|(rate, share)| rate.min(middle * share))
            .sum();
        if taken >= middle {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The jobs of one run. `warp` bends time for a burst.
pub(crate) fn jobs(
    fleet: &Fleet,
    asked: &[Asked],
    load: f64,
    network: Option<&Network>,
    burst: bool,
    seed: u64,
) -> Vec<Job> {
    let rate = load * capacity(fleet, asked);
    let span = asked.last().map_or(1.0, |last| last.at_us as f64).max(1.0);
    let scaled_span = asked.len() as f64 / rate.max(1e-9) * 1e6;
    let mut rng = Rng::new(seed ^ 0x7573_6572);
    let mut seen = BTreeSet::new();
    let mut jobs: Vec<Job> = asked
        .iter()
        .map(|one| {
            let share = one.at_us as f64 / span;
            let sent = (scaled_span * if burst { warped(share) } else { share }) as u64;
            let bytes = f64::from(one.prompt) * BYTES_PER_TOKEN;
            let upload = network.map_or(0, |network| network.upload_us(sent, bytes));
            let (first_ms, end_ms) = fleet.deadline.of(one.prompt);
            let hit = one
                .blocks
                .iter()
                .take_while(|block| seen.contains(*block))
                .count();
            let ceiling = (hit as u32 * BLOCK_TOKENS).min(one.prompt - 1);
            seen.extend(one.blocks.iter().copied());
            Job {
                at: sent + upload,
                prompt: one.prompt,
                output: one.output.min(fleet.deadline.max_tokens),
                user: one.user.unwrap_or_else(|| (mix(rng.next()) % USERS) as u32),
                blocks: one.blocks.clone(),
                ceiling,
                due_first: sent + (first_ms * 1e3) as u64,
                due_end: sent + (end_ms * 1e3) as u64,
            }
        })
        .collect();
    jobs.sort_by_key(|job| job.at);
    jobs
}

/// Share of the time to share of the time: the tenth in the middle comes two
/// and a half times as fast, and the rest as it was, so that the whole is
/// shorter by six hundredths.
fn warped(share: f64) -> f64 {
    let inside = (share - 0.45).clamp(0.0, 0.1);
    share - 0.6 * inside
}
