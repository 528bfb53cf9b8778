//! What a scenario does to nodes.

use super::{Event, LEASE_US, Sim};
use crate::scenario::Happens;
use crate::strategy::Strategy;
use std::cmp::Reverse;
use tiermesh_core::{Tier, Time};

impl<S: Strategy> Sim<'_, S> {
    pub(super) fn scenario(&mut self, at: usize) {
        match self.plan[at].1.clone() {
            Happens::Die(nodes) => {
                for node in nodes {
                    self.servers[node].dead = true;
                    self.servers[node].lose_all();
                    let known = Event::Known { node, there: false };
                    self.at(self.now + LEASE_US, known);
                }
            }
            Happens::Return(nodes) => {
                for node in nodes {
                    self.servers[node].dead = false;
                    self.at(self.now, Event::Known { node, there: true });
                }
            }
            Happens::Stall(nodes, us) => {
                for node in nodes {
                    self.stall(node, us);
                }
            }
            Happens::Unload(nodes) => {
                for node in nodes {
                    self.servers[node].lose_all();
                    // It loads its model as it restarts, and the gateway sees
                    // its connections end.
                    let load_ms = self.fleet.kinds[self.servers[node].kind].load_ms;
                    let loaded = self.now + (load_ms * 1e3) as u64;
                    self.servers[node].stalled_until = loaded;
                    self.learn(node, false);
                    self.learn(node, true);
                    let now = Time::from_us(self.now);
                    self.strategy.loading(node, Time::from_us(loaded), now);
                }
            }
            Happens::Prices { cloud, edge } => {
                for node in 0..self.known.len() {
                    let by = match self.known[node].tier {
                        Tier::Cloud => cloud,
                        Tier::Mec => edge,
                        Tier::Device => 1.0,
                    };
                    let (input, output) = self.known[node].prices;
                    self.known[node].prices = (input * by, output * by);
                    let (input, output) = self.known[node].prices;
                    self.strategy
                        .prices(node, input, output, Time::from_us(self.now));
                }
            }
        }
    }

    /// Nothing moves there for so long: what is under way ends that much later.
    fn stall(&mut self, node: usize, us: u64) {
        let until = &mut self.servers[node].stalled_until;
        let from = self.now.max(*until);
        *until = from.max(self.now + us);
        // A stall within another delays only by what it lasts longer.
        let us = *until - from;
        for held in &self.servers[node].running {
            if let Some((begun, ..)) = &mut self.fates[held.job].begun {
                *begun += us;
            }
        }
        let events = std::mem::take(&mut self.events).into_iter();
        let later = |Reverse((when, order, event))| match event {
            Event::First { node: at, .. } | Event::End { node: at, .. } if at == node => {
                Reverse((when + us, order, event))
            }
            _ => Reverse((when, order, event)),
        };
        self.events = events.map(later).collect();
    }
}
