//! The node's end of a session.

use super::{
    GREETING, LEASE_REFRESHES, PRELOAD, REFRESH_BUSY, REFRESH_IDLE_DEVICE, REFRESH_IDLE_MEC,
    SessionError, VERSIONS,
};
use std::collections::VecDeque;
use std::time::Duration;
use tiermesh_core::{ModelId, NodeId, Region, Tier, Time};
use tiermesh_proto::WireError;
use tiermesh_proto::link::control_frame::Frame;
use tiermesh_proto::link::{ControlFrame, CreditGrant, Goodbye, Hello, ModelOffer, Offer, Welcome};

/// What a node says of itself.
#[derive(Debug, Clone)]
pub struct NodeSessionConfig {
    /// Its id, as its certificate has it.
    pub node: NodeId,
    /// Its tier.
    pub tier: Tier,
    /// Its region or zone.
    pub region: Option<Region>,
    /// Its owner, for a device.
    pub owner: Option<tiermesh_core::UserId>,
    /// Where clients reach its door.
    pub endpoint: String,
    /// What it can run.
    pub models: Vec<ModelOffer>,
    /// Program and version.
    pub software: String,
}

/// What the node's driver must act on.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeEvent {
    /// The gateway took us in.
    Welcomed(Welcome),
    /// What the gateway can reach for us.
    Offers(Vec<Offer>),
    /// The gateway expects requests for this model.
    Preload(ModelId),
    /// The gateway drains: dial another, or again later.
    GatewayDrains,
}

enum State {
    /// Hello is out, Welcome is not in.
    Greeting { until: Time },
    /// Both sides know each other.
    Up { next_report: Time },
    /// Over, and why.
    Closed(SessionError),
}

/// A node's session with one gateway, from dial to end.
pub struct NodeSession {
    state: State,
    idle_refresh: Duration,
    frames: VecDeque<ControlFrame>,
    events: VecDeque<NodeEvent>,
    granted: u32,
    sequence: u64,
    streams: u32,
    /// Reports still to be sent at the busy pace after the last stream ended:
    /// they carry the idle lease, and any one of them may get through.
    lingering: u32,
}

impl NodeSession {
    /// A session whose connection has just been made. Hello goes out first.
    #[must_use]
    pub fn new(config: NodeSessionConfig, now: Time) -> Self {
        let hello = Hello {
            versions: VERSIONS.to_vec(),
            features: vec![PRELOAD.to_owned()],
            node: config.node.to_string(),
            tier: tiermesh_proto::v1::Tier::from(config.tier) as i32,
            region: config.region.map_or_else(String::new, |r| r.to_string()),
            owner: config.owner.map_or_else(String::new, |o| o.to_string()),
            endpoint: config.endpoint,
            models: config.models,
            software: config.software,
        };
        Self {
            state: State::Greeting {
                until: now + GREETING,
            },
            idle_refresh: match config.tier {
                Tier::Device => REFRESH_IDLE_DEVICE,
                Tier::Mec | Tier::Cloud => REFRESH_IDLE_MEC,
            },
            frames: VecDeque::from([frame(Frame::Hello(hello))]),
            events: VecDeque::new(),
            granted: 0,
            sequence: 0,
            streams: 0,
            lingering: 0,
        }
    }

    /// A frame from the gateway. `capacity` is how many streams the node could
    /// serve at once, and so the most it grants.
    pub fn handle_frame(&mut self, received: ControlFrame, capacity: u32, now: Time) {
        if let Err(error) = self.apply(received, capacity, now) {
            self.state = State::Closed(error);
        }
    }

    fn apply(
        &mut self,
        received: ControlFrame,
        capacity: u32,
        now: Time,
    ) -> Result<(), SessionError> {
        let received = received
            .frame
            .ok_or(SessionError::Protocol("an empty control frame"))?;
        match (&mut self.state, received) {
            (State::Closed(_), _) => {}
            (State::Greeting { .. }, Frame::Welcome(welcome)) => {
                if !VERSIONS.contains(&welcome.version) {
                    return Err(SessionError::Version {
                        theirs: vec![welcome.version],
                    });
                }
                // The first report goes out at once: without one the gateway
                // has nothing to decide on.
                self.state = State::Up { next_report: now };
                self.events.push_back(NodeEvent::Welcomed(welcome));
            }
            (State::Greeting { .. }, Frame::Reject(reject)) => {
                return Err(SessionError::Rejected {
                    code: reject.code.chars().take(32).collect(),
                    message: reject.message.chars().take(300).collect(),
                });
            }
            (State::Greeting { .. }, _) => {
                return Err(SessionError::Protocol("a frame before Welcome"));
            }
            (State::Up { next_report }, Frame::CreditAsk(ask)) => {
                self.granted = ask.want.min(capacity);
                // The grant travels reliably; the report renews its lease.
                *next_report = now;
                self.frames.push_back(frame(Frame::CreditGrant(CreditGrant {
                    credits: self.granted,
                    lease_ms: millis(self.lease()),
                })));
            }
            (State::Up { .. }, Frame::CreditReturn(given_back)) => {
                self.granted = self.granted.saturating_sub(given_back.credits);
            }
            (State::Up { .. }, Frame::Offers(offers)) => {
                self.events.push_back(NodeEvent::Offers(offers.items));
            }
            (State::Up { .. }, Frame::Preload(preload)) => {
                let model = ModelId::new(&preload.model).map_err(WireError::from)?;
                self.events.push_back(NodeEvent::Preload(model));
            }
            (State::Up { .. }, Frame::Goodbye(_)) => {
                self.events.push_back(NodeEvent::GatewayDrains);
            }
            (State::Up { .. }, _) => {
                return Err(SessionError::Protocol("a frame only a node sends"));
            }
        }
        Ok(())
    }

    /// Streams of the link that are open now. The first one brings the next
    /// report forward: the gateway holds a busy node to a busy lease.
    pub const fn set_streams(&mut self, streams: u32, now: Time) {
        let begins = self.streams == 0 && streams > 0;
        if self.streams > 0 && streams == 0 {
            self.lingering = LEASE_REFRESHES;
        }
        self.streams = streams;
        if begins && let State::Up { next_report } = &mut self.state {
            *next_report = now;
        }
    }

    /// Says goodbye: the node drains.
    pub fn drain(&mut self, reason: &str) {
        if matches!(self.state, State::Up { .. }) {
            self.frames.push_back(frame(Frame::Goodbye(Goodbye {
                reason: reason.to_owned(),
            })));
        }
    }

    /// Time passes.
    pub fn handle_timeout(&mut self, now: Time) {
        if matches!(self.state, State::Greeting { until } if until <= now) {
            self.state = State::Closed(SessionError::Silent);
        }
    }

    /// When to call again, at the latest.
    #[must_use]
    pub const fn next_timeout(&self) -> Option<Time> {
        match self.state {
            State::Greeting { until } => Some(until),
            State::Up { next_report } => Some(next_report),
            State::Closed(_) => None,
        }
    }

    /// Whether a report is due; then its number, its credits and its lease.
    pub fn poll_report(&mut self, capacity: u32, now: Time) -> Option<(u64, u32, Duration)> {
        let interval = self.refresh();
        let lease = self.lease();
        let State::Up { next_report } = &mut self.state else {
            return None;
        };
        if *next_report > now {
            return None;
        }
        *next_report = now + interval;
        self.lingering = self.lingering.saturating_sub(1);
        self.sequence += 1;
        Some((self.sequence, self.granted.min(capacity), lease))
    }

    /// The next frame to send.
    pub fn poll_frame(&mut self) -> Option<ControlFrame> {
        self.frames.pop_front()
    }

    /// The next thing to act on.
    pub fn poll_event(&mut self) -> Option<NodeEvent> {
        self.events.pop_front()
    }

    /// Why the session is over, once it is.
    #[must_use]
    pub const fn closed(&self) -> Option<&SessionError> {
        match &self.state {
            State::Closed(error) => Some(error),
            _ => None,
        }
    }

    const fn refresh(&self) -> Duration {
        if self.streams > 0 || self.lingering > 0 {
            REFRESH_BUSY
        } else {
            self.idle_refresh
        }
    }

    const fn lease(&self) -> Duration {
        let refresh = if self.streams > 0 {
            REFRESH_BUSY
        } else {
            self.idle_refresh
        };
        refresh.saturating_mul(LEASE_REFRESHES)
    }
}

pub(super) const fn frame(frame: Frame) -> ControlFrame {
    ControlFrame { frame: Some(frame) }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
