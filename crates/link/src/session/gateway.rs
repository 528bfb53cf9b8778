//! The gateway's end of a session.

use super::node::frame;
use super::{GREETING, LEASE_BUSY, LEASE_MAX, MAX_MODELS, PRELOAD, SessionError, VERSIONS};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{CapacityReport, ModelId, ModelOffer, NodeId, Region, Tier, Time, UserId};
use tiermesh_identity::Principal;
use tiermesh_proto::WireError;
use tiermesh_proto::link::control_frame::Frame;
use tiermesh_proto::link::{
    ControlFrame, CreditAsk, CreditReturn, Goodbye, Hello, Offer, Offers, Preload, Reject, Welcome,
};

/// The fewest credits a gateway keeps, so that a first request never waits
/// for a grant.
const CREDITS_FLOOR: u32 = 4;
/// How often the gateway looks whether it holds more than it uses.
const CREDITS_REVIEW: Duration = Duration::from_secs(30);

/// A node as its Hello and its certificate describe it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeHello {
    /// Its id, as certified.
    pub node: NodeId,
    /// Its tier, as certified.
    pub tier: Tier,
    /// Its owner, as certified.
    pub owner: Option<UserId>,
    /// Its region, as told.
    pub region: Option<Region>,
    /// Where clients reach its door.
    pub endpoint: Option<String>,
    /// What it can run.
    pub models: Vec<Arc<ModelOffer>>,
    /// Whether it brings a model into memory when it is told to.
    pub preloads: bool,
    /// Program and version.
    pub software: String,
}

/// What the gateway's driver must act on.
#[derive(Debug, Clone, PartialEq)]
pub enum GatewayEvent {
    /// The node is who it says and is in.
    Joined(NodeHello),
    /// The node reported; `credits` in it are good until the lease ends.
    Reported(CapacityReport),
    /// The node drains: nothing new goes there.
    NodeDrains,
}

enum State {
    /// Hello is not in.
    Greeting { until: Time },
    /// The node lives while its lease does.
    Up { lease_until: Time, review: Time },
    /// Over, and why.
    Closed(SessionError),
}

/// A gateway's session with one node, from connection to end.
pub struct GatewaySession {
    state: State,
    peer: Principal,
    welcome: Welcome,
    frames: VecDeque<ControlFrame>,
    events: VecDeque<GatewayEvent>,
    want: u32,
    want_max: u32,
    credits: u32,
    streams: u32,
    peak_streams: u32,
    last_report: u64,
}

impl GatewaySession {
    /// A session with the peer that the certificate names. `welcome` is what
    /// it gets to hear, its version yet to be chosen; `want` and `want_max`
    /// are the streams the gateway asks for at first and at most.
    #[must_use]
    pub fn new(peer: Principal, welcome: Welcome, want: u32, want_max: u32, now: Time) -> Self {
        Self {
            state: State::Greeting {
                until: now + GREETING,
            },
            peer,
            welcome,
            frames: VecDeque::new(),
            events: VecDeque::new(),
            want,
            want_max,
            credits: 0,
            streams: 0,
            peak_streams: 0,
            last_report: 0,
        }
    }

    /// A control frame from the node.
    pub fn handle_frame(&mut self, received: ControlFrame, now: Time) {
        if let Err(error) = self.apply(received, now) {
            if let Some(code) = reject_code(&error) {
                self.frames.push_back(frame(Frame::Reject(Reject {
                    code: code.to_owned(),
                    message: error.to_string(),
                })));
            }
            self.state = State::Closed(error);
        }
    }

    fn apply(&mut self, received: ControlFrame, now: Time) -> Result<(), SessionError> {
        let received = received
            .frame
            .ok_or(SessionError::Protocol("an empty control frame"))?;
        match (&mut self.state, received) {
            (State::Closed(_), _) => {}
            (State::Greeting { .. }, Frame::Hello(hello)) => self.greet(hello, now)?,
            (State::Greeting { .. }, _) => {
                return Err(SessionError::Protocol("a frame before Hello"));
            }
            (State::Up { lease_until, .. }, Frame::CreditGrant(grant)) => {
                self.credits = grant.credits.min(self.want_max);
                let lease = Duration::from_millis(grant.lease_ms).min(LEASE_MAX);
                // A grant only ever lengthens: the reports shorten again.
                *lease_until = (*lease_until).max(now + lease);
            }
            (State::Up { .. }, Frame::Goodbye(_)) => {
                self.credits = 0;
                self.events.push_back(GatewayEvent::NodeDrains);
            }
            (State::Up { .. }, _) => {
                return Err(SessionError::Protocol("a frame only a gateway sends"));
            }
        }
        Ok(())
    }

    fn greet(&mut self, hello: Hello, now: Time) -> Result<(), SessionError> {
        let version = VERSIONS
            .iter()
            .copied()
            .find(|version| hello.versions.contains(version))
            .ok_or_else(|| SessionError::Version {
                theirs: hello.versions.iter().copied().take(8).collect(),
            })?;
        let joined = self.check(hello)?;
        self.welcome.version = version;
        self.frames
            .push_back(frame(Frame::Welcome(self.welcome.clone())));
        self.frames
            .push_back(frame(Frame::CreditAsk(CreditAsk { want: self.want })));
        self.state = State::Up {
            lease_until: now + GREETING,
            review: now + CREDITS_REVIEW,
        };
        self.events.push_back(GatewayEvent::Joined(joined));
        Ok(())
    }

    /// The certificate decides who the node is; Hello must agree.
    fn check(&self, hello: Hello) -> Result<NodeHello, SessionError> {
        let tier_agrees = hello.tier == tiermesh_proto::v1::Tier::from(self.peer.tier()) as i32;
        let owner_agrees = hello.owner == self.peer.owner().map_or("", |owner| owner.as_str());
        let agrees = hello.node == self.peer.node().as_str() && tier_agrees && owner_agrees;
        if !agrees || matches!(self.peer, Principal::Gateway { .. }) {
            return Err(SessionError::Identity {
                certified: self.peer.to_string(),
                claimed: format!("{}/{}", hello.node, hello.owner)
                    .chars()
                    .take(200)
                    .collect(),
            });
        }
        if hello.models.len() > MAX_MODELS {
            return Err(SessionError::Protocol("more than 32 models"));
        }
        let models: Result<Vec<_>, WireError> = hello
            .models
            .into_iter()
            .map(|offer| Ok(Arc::new(ModelOffer::try_from(offer)?)))
            .collect();
        let region = (!hello.region.is_empty()).then(|| Region::new(&hello.region));
        Ok(NodeHello {
            node: self.peer.node().clone(),
            tier: self.peer.tier(),
            owner: self.peer.owner().cloned(),
            region: region.transpose().map_err(WireError::from)?,
            endpoint: (!hello.endpoint.is_empty() && hello.endpoint.len() <= 300)
                .then_some(hello.endpoint),
            models: models?,
            preloads: hello.features.iter().any(|feature| feature == PRELOAD),
            software: hello.software.chars().take(80).collect(),
        })
    }

    /// A capacity report from the node. Older ones than the last are dropped.
    pub fn handle_report(&mut self, report: CapacityReport, now: Time) {
        let State::Up { lease_until, .. } = &mut self.state else {
            return;
        };
        if report.sequence <= self.last_report {
            return;
        }
        self.last_report = report.sequence;
        self.credits = report.credits.min(self.want_max);
        // A report that crossed our Start on the way knows nothing of it.
        let longest = if self.streams > 0 {
            LEASE_BUSY
        } else {
            LEASE_MAX
        };
        *lease_until = now + report.lease.min(longest);
        self.events.push_back(GatewayEvent::Reported(report));
    }

    /// Streams the gateway has open on the node. Opening one puts the node on
    /// a busy lease; using most of the credits asks for more.
    pub fn set_streams(&mut self, streams: u32, now: Time) {
        let opened = streams > self.streams;
        self.streams = streams;
        self.peak_streams = self.peak_streams.max(streams);
        let State::Up { lease_until, .. } = &mut self.state else {
            return;
        };
        if opened {
            *lease_until = (*lease_until).min(now + LEASE_BUSY);
        }
        let nearly_all = u64::from(streams) * 4 >= u64::from(self.credits) * 3;
        if opened && nearly_all && self.want < self.want_max && self.credits >= self.want {
            self.want = self.want.saturating_mul(2).min(self.want_max);
            self.frames
                .push_back(frame(Frame::CreditAsk(CreditAsk { want: self.want })));
        }
    }

    /// Tells the node that requests for a model are expected.
    pub fn preload(&mut self, model: &ModelId) {
        if matches!(self.state, State::Up { .. }) {
            self.frames.push_back(frame(Frame::Preload(Preload {
                model: model.to_string(),
            })));
        }
    }

    /// Tells the node what can be reached through this gateway.
    pub fn offer(&mut self, items: Vec<Offer>) {
        if matches!(self.state, State::Up { .. }) {
            self.frames
                .push_back(frame(Frame::Offers(Offers { items })));
        }
    }

    /// Says goodbye: the gateway drains.
    pub fn drain(&mut self, reason: &str) {
        if matches!(self.state, State::Up { .. }) {
            self.frames.push_back(frame(Frame::Goodbye(Goodbye {
                reason: reason.to_owned(),
            })));
        }
    }

    /// Time passes.
    pub fn handle_timeout(&mut self, now: Time) {
        match &mut self.state {
            State::Greeting { until } if *until <= now => {
                self.state = State::Closed(SessionError::Silent);
            }
            State::Up { lease_until, .. } if *lease_until <= now => {
                self.state = State::Closed(SessionError::LeaseExpired);
            }
            State::Up { review, .. } if *review <= now => {
                *review = now + CREDITS_REVIEW;
                self.return_unused();
            }
            _ => {}
        }
    }

    /// Gives back what a whole review period did not need.
    fn return_unused(&mut self) {
        let keep = self.peak_streams.saturating_mul(2).max(CREDITS_FLOOR);
        self.peak_streams = self.streams;
        if self.credits > keep {
            let credits = self.credits - keep;
            self.credits = keep;
            self.want = keep;
            self.frames
                .push_back(frame(Frame::CreditReturn(CreditReturn { credits })));
        }
    }

    /// When to call again, at the latest.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        match self.state {
            State::Greeting { until } => Some(until),
            State::Up {
                lease_until,
                review,
            } => Some(lease_until.min(review)),
            State::Closed(_) => None,
        }
    }

    /// The next frame to send.
    pub fn poll_frame(&mut self) -> Option<ControlFrame> {
        self.frames.pop_front()
    }

    /// The next thing to act on.
    pub fn poll_event(&mut self) -> Option<GatewayEvent> {
        self.events.pop_front()
    }

    /// Streams the node lets us have open at once.
    #[must_use]
    pub const fn credits(&self) -> u32 {
        self.credits
    }

    /// Why the session is over, once it is.
    #[must_use]
    pub const fn closed(&self) -> Option<&SessionError> {
        match &self.state {
            State::Closed(error) => Some(error),
            _ => None,
        }
    }
}

/// The code a refused peer hears; none when there is nobody to hear it.
const fn reject_code(error: &SessionError) -> Option<&'static str> {
    match error {
        SessionError::Version { .. } => Some("version"),
        SessionError::Identity { .. } => Some("identity"),
        SessionError::Protocol(_) | SessionError::Wire(_) => Some("limits"),
        _ => None,
    }
}
