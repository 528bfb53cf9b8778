//! What goes wrong, and when.

use crate::fleet::Fleet;
use tiermesh_core::Tier;

/// What happens during a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// Nothing.
    Normal,
    /// A tenth of the requests comes two and a half times as fast.
    Burst,
    /// The largest edge node dies at a third and stays away.
    NodeDeath,
    /// The largest edge node says nothing for twenty seconds, three times.
    Stall,
    /// The largest zone of the edge is out of reach for a tenth of the time.
    Partition,
    /// Half of the edge nodes restart at a third, and load their model anew.
    ColdModel,
    /// At half, the cloud's prices triple and the edge's fall to a half.
    PriceChange,
}

/// One thing that happens to nodes.
#[derive(Debug, Clone)]
pub(crate) enum Happens {
    Die(Vec<usize>),
    Return(Vec<usize>),
    Stall(Vec<usize>, u64),
    Unload(Vec<usize>),
    Prices { cloud: f64, edge: f64 },
}

const STALL_US: u64 = 20_000_000;

impl Scenario {
    /// What happens in a run of `span` microseconds, in order of time.
    pub(crate) fn plan(self, fleet: &Fleet, span: u64) -> Vec<(u64, Happens)> {
        let nodes: Vec<_> = fleet.nodes().collect();
        let edges: Vec<usize> = (0..nodes.len())
            .filter(|node| fleet.kinds[nodes[*node].0].tier() == Tier::Mec)
            .collect();
        let strength = |node: &usize| {
            let kind = &fleet.kinds[nodes[*node].0];
            f64::from(kind.slots) * kind.decode_tok_s
        };
        let largest: Vec<_> = edges
            .iter()
            .copied()
            .max_by(|a, b| strength(a).total_cmp(&strength(b)))
            .into_iter()
            .collect();
        let third = span / 3;
        match self {
            Self::Normal | Self::Burst => Vec::new(),
            Self::NodeDeath => vec![(third, Happens::Die(largest))],
            Self::Stall => (1..4)
                .map(|n| (span * n / 4, Happens::Stall(largest.clone(), STALL_US)))
                .collect(),
            Self::Partition => {
                let zone = |node: &usize| fleet.kinds[nodes[*node].0].zone.as_str();
                let of = |name: &str| -> f64 {
                    edges.iter().filter(|n| zone(n) == name).map(strength).sum()
                };
                let lost = edges
                    .iter()
                    .map(zone)
                    .max_by(|a, b| of(a).total_cmp(&of(b)).then(b.cmp(a)));
                let lost: Vec<_> = edges
                    .iter()
                    .copied()
                    .filter(|node| Some(zone(node)) == lost)
                    .collect();
                vec![
                    (third, Happens::Die(lost.clone())),
                    (third + span / 10, Happens::Return(lost)),
                ]
            }
            Self::ColdModel => {
                let half = edges.into_iter().step_by(2).collect();
                vec![(third, Happens::Unload(half))]
            }
            Self::PriceChange => {
                let prices = Happens::Prices {
                    cloud: 3.0,
                    edge: 0.5,
                };
                vec![(span / 2, prices)]
            }
        }
    }
}
