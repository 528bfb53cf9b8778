use super::*;
use crate::session::node::millis;
use tiermesh_core::{CapacityReport, NodeId, Tier, Time};
use tiermesh_identity::Principal;
use tiermesh_proto::link::control_frame::Frame;
use tiermesh_proto::link::{ControlFrame, Hello, Welcome};

fn principal() -> Principal {
    "spiffe://tiermesh/mec/edge-1".parse().unwrap()
}

fn node(now: Time) -> NodeSession {
    let config = NodeSessionConfig {
        node: NodeId::new("edge-1").unwrap(),
        tier: Tier::Mec,
        region: None,
        owner: None,
        endpoint: String::new(),
        models: Vec::new(),
        software: "test".into(),
    };
    NodeSession::new(config, now)
}

fn gateway(now: Time) -> GatewaySession {
    let welcome = Welcome {
        gateway: "gw".into(),
        ..Welcome::default()
    };
    GatewaySession::new(principal(), welcome, 8, 64, now)
}

fn report(sequence: u64, credits: u32, lease: Duration) -> CapacityReport {
    CapacityReport {
        sequence,
        credits,
        slots: 4,
        lease,
        active: 0,
        queued: 0,
        load: 0.0,
        battery_percent: None,
        engine: Default::default(),
        models: Vec::new(),
    }
}

/// Carries control frames both ways until neither end has more to say.
fn exchange(node: &mut NodeSession, gateway: &mut GatewaySession, now: Time) {
    loop {
        let mut moved = false;
        while let Some(frame) = node.poll_frame() {
            gateway.handle_frame(frame, now);
            moved = true;
        }
        while let Some(frame) = gateway.poll_frame() {
            node.handle_frame(frame, 16, now);
            moved = true;
        }
        if !moved {
            return;
        }
    }
}

#[test]
fn greeting_ends_with_credits_on_lease() {
    let now = Time::ZERO;
    let (mut node, mut gateway) = (node(now), gateway(now));
    exchange(&mut node, &mut gateway, now);
    assert!(matches!(node.poll_event(), Some(NodeEvent::Welcomed(w)) if w.version == 1));
    assert!(
        matches!(gateway.poll_event(), Some(GatewayEvent::Joined(h)) if h.node.as_str() == "edge-1")
    );
    assert_eq!(gateway.credits(), 8);
    let (sequence, credits, lease) = node.poll_report(16, now).unwrap();
    assert_eq!((sequence, credits, lease), (1, 8, Duration::from_secs(6)));
    assert!(
        node.poll_report(16, now).is_none(),
        "the next is not due yet"
    );
}

#[test]
fn a_node_without_our_version_is_told() {
    let now = Time::ZERO;
    let mut gateway = gateway(now);
    let hello = Hello {
        versions: vec![7, 9],
        node: "edge-1".into(),
        tier: 2,
        ..Hello::default()
    };
    let hello = ControlFrame {
        frame: Some(Frame::Hello(hello)),
    };
    gateway.handle_frame(hello, now);
    let Some(Frame::Reject(reject)) = gateway.poll_frame().unwrap().frame else {
        panic!("expected a Reject");
    };
    assert_eq!(reject.code, "version");
    assert!(
        matches!(gateway.closed(), Some(SessionError::Version { theirs }) if theirs == &[7, 9])
    );
}

#[test]
fn a_node_is_who_its_certificate_says() {
    let now = Time::ZERO;
    for (name, tier, owner) in [("edge-2", 2, ""), ("edge-1", 1, ""), ("edge-1", 2, "ann")] {
        let mut gateway = gateway(now);
        let hello = Hello {
            versions: vec![1],
            node: name.into(),
            tier,
            owner: owner.into(),
            ..Hello::default()
        };
        let hello = ControlFrame {
            frame: Some(Frame::Hello(hello)),
        };
        gateway.handle_frame(hello, now);
        assert!(
            matches!(gateway.closed(), Some(SessionError::Identity { .. })),
            "{name} {tier} {owner}"
        );
    }
}

#[test]
fn silence_ends_the_greeting_on_both_ends() {
    let (mut node, mut gateway) = (node(Time::ZERO), gateway(Time::ZERO));
    let late = Time::ZERO + GREETING;
    node.handle_timeout(late);
    gateway.handle_timeout(late);
    assert_eq!(node.closed(), Some(&SessionError::Silent));
    assert_eq!(gateway.closed(), Some(&SessionError::Silent));
}

#[test]
fn a_node_that_stops_reporting_is_dead_when_its_lease_ends() {
    let now = Time::ZERO;
    let (mut node, mut gateway) = (node(now), gateway(now));
    exchange(&mut node, &mut gateway, now);
    gateway.handle_report(report(1, 8, Duration::from_secs(6)), now);
    gateway.handle_timeout(now + Duration::from_millis(5_999));
    assert_eq!(gateway.closed(), None);
    gateway.handle_timeout(now + Duration::from_secs(6));
    assert_eq!(gateway.closed(), Some(&SessionError::LeaseExpired));
}

#[test]
fn opening_a_stream_puts_an_idle_node_on_a_busy_lease() {
    let now = Time::ZERO;
    let (mut node, mut gateway) = (node(now), gateway(now));
    exchange(&mut node, &mut gateway, now);
    gateway.handle_report(report(1, 8, Duration::from_secs(6)), now);
    gateway.set_streams(1, now);
    gateway.handle_timeout(now + LEASE_BUSY);
    assert_eq!(gateway.closed(), Some(&SessionError::LeaseExpired));
}

#[test]
fn an_older_report_never_replaces_a_newer_one() {
    let now = Time::ZERO;
    let (mut node, mut gateway) = (node(now), gateway(now));
    exchange(&mut node, &mut gateway, now);
    gateway.handle_report(report(5, 3, Duration::from_secs(6)), now);
    gateway.handle_report(report(4, 9, Duration::from_secs(60)), now);
    assert_eq!(gateway.credits(), 3);
}

#[test]
fn credits_grow_with_use_and_go_back_without() {
    let now = Time::ZERO;
    let (mut node, mut gateway) = (node(now), gateway(now));
    exchange(&mut node, &mut gateway, now);
    gateway.set_streams(7, now);
    exchange(&mut node, &mut gateway, now);
    assert_eq!(gateway.credits(), 16, "asked for twice as much and got it");
    gateway.set_streams(0, now);
    let mut at = now;
    let mut sequence = 0;
    for _ in 0..130 {
        at = at + Duration::from_millis(500);
        if let Some((_, credits, lease)) = node.poll_report(16, at) {
            sequence += 1;
            gateway.handle_report(report(sequence, credits, lease), at);
        }
        gateway.handle_timeout(at);
        exchange(&mut node, &mut gateway, at);
    }
    assert_eq!(gateway.closed(), None);
    assert_eq!(gateway.credits(), 4);
}

/// Random delays, losses and loads: a node that reports is never taken for
/// dead while fewer reports in a row are lost than a lease covers, and one
/// that stops always is.
#[test]
fn simulated_links_live_while_reports_arrive_and_die_after() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut now = Time::ZERO;
        let (mut node, mut gateway) = (node(now), gateway(now));
        exchange(&mut node, &mut gateway, now);
        let dies_at = Time::from_us(random.u64(5_000_000..60_000_000));
        let mut lost_in_a_row = 0;

        while gateway.closed().is_none() {
            now = now + Duration::from_millis(random.u64(1..120));
            assert!(now < dies_at + LEASE_MAX, "seed {seed}: never noticed");
            if random.u8(..) < 20 {
                let streams = random.u32(0..10);
                gateway.set_streams(streams, now);
                if now < dies_at {
                    node.set_streams(streams, now);
                }
            }
            if now < dies_at
                && let Some((sequence, credits, lease)) = node.poll_report(16, now)
            {
                let lost = random.u8(..) < 60 && lost_in_a_row < 2;
                lost_in_a_row = if lost { lost_in_a_row + 1 } else { 0 };
                if !lost {
                    gateway.handle_report(report(sequence, credits, lease), now);
                }
            }
            gateway.handle_timeout(now);
            exchange(&mut node, &mut gateway, now);
        }
        assert_eq!(
            gateway.closed(),
            Some(&SessionError::LeaseExpired),
            "seed {seed}"
        );
        assert!(
            now >= dies_at,
            "seed {seed}: taken for dead at {now}, dies at {dies_at}"
        );
    }
}

/// Whatever a peer says, a session ends in a state and never in a panic.
#[test]
fn random_frames_never_panic_a_session() {
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let now = Time::ZERO;
        let (mut node, mut gateway) = (node(now), gateway(now));
        if random.bool() {
            exchange(&mut node, &mut gateway, now);
        }
        for _ in 0..20 {
            let length = random.usize(0..40);
            let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            if let Ok(frame) = <ControlFrame as prost::Message>::decode(bytes.as_slice()) {
                node.handle_frame(frame.clone(), 4, now);
                gateway.handle_frame(frame, now);
            }
        }
    }
    assert_eq!(millis(Duration::MAX), u64::MAX);
}

/// The other messages of a link, damaged: an error or a valid value. The fuzz
/// target `link_frames` goes further.
#[test]
fn damaged_messages_never_panic_a_conversion() {
    use prost::Message as _;
    use tiermesh_proto::link::{CapacityDatagram, Start, StreamFrame};
    use tiermesh_proto::v1::{InferRequest, infer_request::Content};

    let request = InferRequest {
        request_id: "r".into(),
        user_id: "ann".into(),
        policy: "iot".into(),
        content: Some(Content::Prompt("title".into())),
        ..InferRequest::default()
    };
    let start = Start {
        request: Some(request),
        emitted_ids: vec![1, 2, 3],
        total_remaining_us: Some(50_000),
        via: vec!["edge-1".into()],
        permit_scope: 7,
        ..Start::default()
    };
    let report = CapacityDatagram::from(&report(1, 8, REFRESH_IDLE_MEC));
    let whole = [start.encode_to_vec(), report.encode_to_vec()];
    let mut accepted = 0;
    for seed in 0..4000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = whole[random.usize(0..whole.len())].clone();
        for _ in 0..random.usize(0..4) {
            let at = random.usize(0..bytes.len());
            bytes[at] = random.u8(..);
        }
        if let Ok(wire) = Start::decode(bytes.as_slice()) {
            accepted += u32::from(tiermesh_proto::start_from_wire(wire, Time::ZERO).is_ok());
        }
        if let Ok(wire) = CapacityDatagram::decode(bytes.as_slice()) {
            accepted += u32::from(CapacityReport::try_from(wire).is_ok());
        }
        if let Ok(StreamFrame { frame: Some(frame) }) = StreamFrame::decode(bytes.as_slice()) {
            use tiermesh_proto::link::stream_frame::Frame;
            match frame {
                Frame::Event(event) => drop(tiermesh_core::Event::try_from(event)),
                Frame::Failure(failure) => drop(tiermesh_proto::failure_from_wire(failure)),
            }
        }
    }
    assert!(accepted > 1000, "most damage was fatal: {accepted}");
}

#[test]
fn a_hint_reaches_a_node_that_knows_hints() {
    let now = Time::ZERO;
    let (mut node, mut gateway) = (node(now), gateway(now));
    let model = tiermesh_core::ModelId::new("brand-extractor").unwrap();
    gateway.preload(&model);
    assert!(gateway.poll_frame().is_none(), "nobody has joined yet");
    exchange(&mut node, &mut gateway, now);
    assert!(matches!(gateway.poll_event(), Some(GatewayEvent::Joined(h)) if h.preloads));
    assert!(matches!(node.poll_event(), Some(NodeEvent::Welcomed(_))));
    gateway.preload(&model);
    exchange(&mut node, &mut gateway, now);
    assert_eq!(node.poll_event(), Some(NodeEvent::Preload(model)));
    // A name that is none ends the session: nothing of it is believed.
    let bad = Frame::Preload(tiermesh_proto::link::Preload {
        model: "no name".into(),
    });
    let bad = ControlFrame { frame: Some(bad) };
    node.handle_frame(bad.clone(), 16, now);
    assert!(matches!(node.closed(), Some(SessionError::Wire(_))));
    gateway.handle_frame(bad, now);
    assert!(matches!(gateway.closed(), Some(SessionError::Protocol(_))));
}
