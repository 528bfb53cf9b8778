//! What a peer sends on a link: Start, capacity datagrams, the frames of an
//! answer, and control frames to the sessions of both ends. The first byte
//! says which.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use std::time::Duration;
use tiermesh_core::{CapacityReport, Event, NodeId, Tier, Time};
use tiermesh_link::session::{GatewaySession, NodeSession, NodeSessionConfig};
use tiermesh_proto::link::stream_frame::Frame;
use tiermesh_proto::link::{CapacityDatagram, ControlFrame, Start, StreamFrame, Welcome};
use tiermesh_proto::{failure_from_wire, start_from_wire, start_to_wire};

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => start(bytes),
        1 => capacity(bytes),
        2 => answer(bytes),
        _ => sessions(bytes),
    }
});

/// A Start that was accepted can be sent on, and arrives as it was.
fn start(bytes: &[u8]) {
    let now = Time::from_us(1_000_000);
    let Ok(Ok(parts)) = Start::decode(bytes).map(|wire| start_from_wire(wire, now)) else {
        return;
    };
    let (meta, content) = (&parts.request.meta, &parts.request.content);
    let sent_on = start_to_wire(meta, content, &parts.context, now);
    let again = start_from_wire(sent_on, now).expect("what was accepted is valid");
    assert_eq!(again.request, parts.request);
    assert_eq!(again.context.scope, parts.context.scope);
    assert_eq!(again.context.continuation, parts.context.continuation);
}

fn capacity(bytes: &[u8]) {
    if let Ok(wire) = CapacityDatagram::decode(bytes)
        && let Ok(report) = CapacityReport::try_from(wire)
    {
        let again = CapacityReport::try_from(CapacityDatagram::from(&report));
        assert_eq!(again.map(|r| r.lease).ok(), Some(report.lease));
    }
}

fn answer(bytes: &[u8]) {
    match StreamFrame::decode(bytes).map(|frame| frame.frame) {
        Ok(Some(Frame::Event(event))) => drop(Event::try_from(event)),
        Ok(Some(Frame::Failure(failure))) => drop(failure_from_wire(failure)),
        Ok(None) | Err(_) => {}
    }
}

/// Control frames, each after a byte of length, to both ends at once; a length
/// of 0 lets a second pass and a length of 255 lets both ends talk.
fn sessions(mut bytes: &[u8]) {
    let mut now = Time::ZERO;
    let mut node = NodeSession::new(config(), now);
    let welcome = Welcome {
        gateway: "gateway-1".to_owned(),
        ..Welcome::default()
    };
    let peer = "spiffe://tiermesh/mec/edge-1".parse();
    let mut gateway = GatewaySession::new(peer.expect("a valid name"), welcome, 8, 64, now);
    while let Some((length, rest)) = bytes.split_first() {
        bytes = rest;
        match length {
            0 => now = now + Duration::from_secs(1),
            255 => exchange(&mut node, &mut gateway, now),
            length => {
                let (frame, rest) = bytes.split_at(bytes.len().min(usize::from(*length)));
                bytes = rest;
                if let Ok(frame) = ControlFrame::decode(frame) {
                    node.handle_frame(frame.clone(), 16, now);
                    gateway.handle_frame(frame, now);
                }
                if let Ok(Ok(report)) = CapacityDatagram::decode(frame).map(TryInto::try_into) {
                    gateway.handle_report(report, now);
                }
            }
        }
        node.handle_timeout(now);
        gateway.handle_timeout(now);
        assert!(
            gateway.credits() <= 64,
            "more credits than the gateway takes"
        );
        assert!(gateway.closed().is_some() || gateway.next_timeout() > Some(now));
    }
}

fn config() -> NodeSessionConfig {
    NodeSessionConfig {
        node: NodeId::new("edge-1").expect("a valid name"),
        tier: Tier::Mec,
        region: None,
        owner: None,
        endpoint: String::new(),
        models: Vec::new(),
        software: "fuzz".to_owned(),
    }
}

/// Carries frames and reports both ways. Two honest ends fall silent soon.
fn exchange(node: &mut NodeSession, gateway: &mut GatewaySession, now: Time) {
    for _ in 0..64 {
        let (up, down) = (node.poll_frame(), gateway.poll_frame());
        if up.is_none() && down.is_none() {
            break;
        }
        if let Some(frame) = up {
            gateway.handle_frame(frame, now);
        }
        if let Some(frame) = down {
            node.handle_frame(frame, 16, now);
        }
    }
    while node.poll_event().is_some() || gateway.poll_event().is_some() {}
}
