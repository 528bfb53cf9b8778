//! A ticket from a client: whatever it says, only the gateway's own is good.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};
use tiermesh_core::{NodeId, UserId};
use tiermesh_identity::{TicketSigner, TicketVerifier};

struct Case {
    good: String,
    node: NodeId,
    verifier: TicketVerifier,
}

static CASE: LazyLock<Case> = LazyLock::new(|| {
    let signer = TicketSigner::generate();
    let node = NodeId::new("edge-1").expect("a valid name");
    let user = UserId::new("ann").expect("a valid name");
    Case {
        good: signer.sign(node.clone(), user, Duration::from_secs(86_400)),
        verifier: TicketVerifier::new(signer.public_key()),
        node,
    }
});

fuzz_target!(|data: &[u8]| {
    let now = SystemTime::now();
    let verify = |text: &str| CASE.verifier.verify(text, &CASE.node, now);
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(verify(text).is_err(), "a ticket nobody signed");
    }
    // The good one with some of its bytes changed.
    let mut changed = CASE.good.clone().into_bytes();
    for pair in data.chunks_exact(2) {
        let at = usize::from(pair[0]) % changed.len();
        changed[at] = pair[1];
    }
    if let Ok(text) = std::str::from_utf8(&changed) {
        assert_eq!(verify(text).is_ok(), text == CASE.good);
    }
});
