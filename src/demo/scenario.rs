//! What the demonstration asks, where, and where it must land.

/// The doors of the demonstration's mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// The device agent's.
    Device,
    /// An edge node's, by its position.
    Edge(usize),
    /// The gateway's.
    Gateway,
}

impl Door {
    /// The name in tables and JSON.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Device => "device".to_owned(),
            Self::Edge(index) => format!("edge-{}", index + 1),
            Self::Gateway => "gateway".to_owned(),
        }
    }
}

/// Where a request must land.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// On this tier.
    Tier(&'static str),
    /// Anywhere but on this node.
    NotOn(&'static str),
    /// Nowhere: it must be refused with this reason.
    Refused(&'static str),
    /// Anywhere.
    Anywhere,
}

impl Expect {
    /// Whether that is where it landed: tier and node, or the refusal.
    pub(crate) fn holds(self, landed: Result<(&str, &str), &str>) -> bool {
        match (self, landed) {
            (Self::Tier(wanted), Ok((tier, _))) => tier == wanted,
            (Self::NotOn(node), Ok((_, landed))) => landed != node,
            (Self::Refused(reason), Err(given)) => given == reason,
            (Self::Anywhere, Ok(_)) => true,
            _ => false,
        }
    }

    /// The expectation in words.
    pub(crate) fn words(self) -> String {
        match self {
            Self::Tier(tier) => format!("on {tier}"),
            Self::NotOn(node) => format!("anywhere but on {node}"),
            Self::Refused(reason) => format!("refused with {reason}"),
            Self::Anywhere => "answered".to_owned(),
        }
    }
}

/// One request of the demonstration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// The policy; empty for the door's default.
    pub(crate) policy: &'static str,
    /// The door it enters by.
    pub(crate) door: Door,
    /// The model asked for; empty for any.
    pub(crate) model: &'static str,
    /// Where it must land.
    pub(crate) expect: Expect,
}

const fn step(policy: &'static str, door: Door, expect: Expect) -> Step {
    Step {
        policy,
        door,
        model: "",
        expect,
    }
}

/// Every tier is healthy.
pub(crate) const HEALTHY: &[Step] = &[
    step("gaming", Door::Device, Expect::Tier("DEVICE")),
    step("gaming", Door::Device, Expect::Tier("DEVICE")),
    step("automotive", Door::Edge(0), Expect::Tier("MEC")),
    step("automotive", Door::Edge(1), Expect::Tier("MEC")),
    step("healthcare", Door::Edge(0), Expect::Tier("MEC")),
    step("healthcare", Door::Edge(1), Expect::Tier("MEC")),
    step("iot", Door::Edge(0), Expect::Tier("MEC")),
    step("iot", Door::Edge(1), Expect::Tier("MEC")),
    step("interactive", Door::Gateway, Expect::Anywhere),
    step("interactive", Door::Gateway, Expect::Anywhere),
    step("batch", Door::Gateway, Expect::Anywhere),
    Step {
        policy: "interactive",
        door: Door::Gateway,
        model: tiermesh_harness::CLOUD_MODEL,
        expect: Expect::Tier("CLOUD"),
    },
    Step {
        policy: "interactive",
        door: Door::Device,
        model: tiermesh_harness::CLOUD_MODEL,
        expect: Expect::Tier("CLOUD"),
    },
    step("healthcare", Door::Gateway, Expect::Refused("WRONG_DOOR")),
];

/// The first edge node was just killed, and nobody has been told.
pub(crate) const EDGE_GONE: &[Step] = &[
    step("automotive", Door::Gateway, Expect::NotOn("edge-1")),
    step("iot", Door::Gateway, Expect::NotOn("edge-1")),
    step("automotive", Door::Edge(1), Expect::Tier("MEC")),
    step("interactive", Door::Gateway, Expect::NotOn("edge-1")),
];

/// Every edge node is gone.
pub(crate) const EDGES_GONE: &[Step] = &[
    step("automotive", Door::Device, Expect::Tier("DEVICE")),
    step("healthcare", Door::Device, Expect::Tier("DEVICE")),
    step("healthcare", Door::Gateway, Expect::Refused("WRONG_DOOR")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_hold_for_what_they_say_and_nothing_else() {
        assert!(Expect::Tier("MEC").holds(Ok(("MEC", "edge-1"))));
        assert!(!Expect::Tier("MEC").holds(Ok(("CLOUD", "bedrock"))));
        assert!(!Expect::Tier("MEC").holds(Err("NO_CANDIDATE")));
        assert!(!Expect::NotOn("edge-1").holds(Ok(("MEC", "edge-1"))));
        assert!(Expect::Refused("WRONG_DOOR").holds(Err("WRONG_DOOR")));
        assert!(!Expect::Refused("WRONG_DOOR").holds(Ok(("CLOUD", "bedrock"))));
        assert!(!Expect::Anywhere.holds(Err("NO_CANDIDATE")));
    }
}
