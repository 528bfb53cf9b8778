//! Peers that are not who they say, or do not say what they should: each costs
//! itself its connection or its stream, and nobody else anything.

use crate::support::{
    EDGE, PHONE, Pki, Script, Steady, Stranger, eventually, framed, gateway, hello, joined, node,
    read, receive, request, send,
};
use std::time::Duration;
use tiermesh_core::{Context, NodeId};
use tiermesh_identity::{Credentials, node_config};
use tiermesh_link::session::NodeSession;
use tiermesh_link::{GatewayLink, NodeLink, NodeTable};
use tiermesh_proto::link::control_frame::Frame;
use tiermesh_proto::link::{ControlFrame, CreditGrant, Hello};
use tiermesh_proto::v1;

/// A gateway with one good node, to look after while a stranger tries.
struct Calm {
    pki: Pki,
    link: GatewayLink,
    table: std::sync::Arc<NodeTable>,
    _node: NodeLink,
}

impl Calm {
    async fn new() -> Self {
        let pki = Pki::new();
        let (link, table) = gateway(&pki, Script::new(1, 0));
        let credentials = pki.credentials(EDGE);
        let (source, script) = (Steady::new(4), Script::new(3, 0));
        let node = node(&credentials, EDGE, link.local_addr(), source, script);
        joined(&table, "edge-1").await;
        Self {
            pki,
            link,
            table,
            _node: node,
        }
    }

    async fn stranger(&self, name: &str) -> Stranger {
        let tls = node_config(&self.pki.credentials(name)).unwrap();
        Stranger::dial(self.link.local_addr(), tls).await.unwrap()
    }

    /// What a peer hears that TLS does not let in.
    async fn refusal(&self, tls: rustls::ClientConfig) -> String {
        match Stranger::dial(self.link.local_addr(), tls).await {
            // A TLS 1.3 client is done before the server has looked at it.
            Ok(stranger) => stranger.closed().await.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// The good node is still the only one, and still answers.
    async fn is_undisturbed(&self) {
        assert_eq!(self.table.list().len(), 1);
        let infer = self.table.infer(&NodeId::new("edge-1").unwrap()).unwrap();
        let answer = infer.infer(request("ann"), Context::default()).await;
        let (text, done) = read(answer.unwrap()).await;
        assert_eq!(text, "w0 w1 w2 ");
        assert_eq!(done.unwrap().usage.output_tokens, 3);
    }
}

/// The Hello that a true node of this name would send.
fn hello_of(name: &str) -> Hello {
    let now = tiermesh_core::Time::ZERO;
    let mut session = NodeSession::new(hello(name), now);
    match session.poll_frame().and_then(|frame| frame.frame) {
        Some(Frame::Hello(hello)) => hello,
        other => panic!("a session begins with Hello, not {other:?}"),
    }
}

const fn frame(frame: Frame) -> ControlFrame {
    ControlFrame { frame: Some(frame) }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_of_another_authority_is_refused() {
    let calm = Calm::new().await;
    let other = Pki::new();
    // It trusts our gateway, and is certified by somebody else.
    let forged = Credentials {
        ca: calm.pki.credentials(EDGE).ca,
        ..other.credentials(EDGE)
    };
    let tls = node_config(&forged).unwrap();
    let error = calm.refusal(tls).await;
    assert!(error.contains("invalid peer certificate"), "{error}");
    calm.is_undisturbed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_does_not_join_a_gateway_of_another_authority() {
    let (ours, theirs) = (Pki::new(), Pki::new());
    let (link, table) = gateway(&theirs, Script::new(1, 0));
    let credentials = ours.credentials(EDGE);
    let (source, script) = (Steady::new(4), Script::new(1, 0));
    let node = node(&credentials, EDGE, link.local_addr(), source, script);
    // Several dials, all in vain.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(node.upstream().status().is_none());
    assert!(table.list().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_protocol_is_refused_in_the_handshake() {
    let calm = Calm::new().await;
    let mut tls = node_config(&calm.pki.credentials(EDGE)).unwrap();
    tls.alpn_protocols = vec![b"tiermesh/99".to_vec(), b"h3".to_vec()];
    let refused = Stranger::dial(calm.link.local_addr(), tls).await;
    let error = refused.err().expect("no protocol in common").to_string();
    assert!(
        error.contains("application_protocol")
            || error.contains("ALPN")
            || error.contains("peer doesn't support any known protocol"),
        "{error}"
    );
    calm.is_undisturbed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_control_stream_ends_that_connection_alone() {
    let calm = Calm::new().await;
    let stranger = calm.stranger("spiffe://tiermesh/mec/edge-9").await;
    let (mut control, _reader) = stranger.connection.open_bi().await.unwrap();
    let garbage = [&10_u32.to_be_bytes()[..], &[0xff; 10]].concat();
    control.write_all(&garbage).await.unwrap();
    let error = stranger.closed().await.to_string();
    assert!(error.contains("decode"), "{error}");
    calm.is_undisturbed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frame_over_the_bound_ends_that_connection_alone() {
    let calm = Calm::new().await;
    let stranger = calm.stranger("spiffe://tiermesh/mec/edge-9").await;
    let (mut control, _reader) = stranger.connection.open_bi().await.unwrap();
    control.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    let error = stranger.closed().await.to_string();
    assert!(error.contains("over the bound"), "{error}");
    calm.is_undisturbed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frame_before_hello_is_a_violation() {
    let calm = Calm::new().await;
    let stranger = calm.stranger("spiffe://tiermesh/mec/edge-9").await;
    let (mut control, mut reader) = stranger.connection.open_bi().await.unwrap();
    let grant = CreditGrant {
        credits: 9,
        lease_ms: 9,
    };
    send(&mut control, &frame(Frame::CreditGrant(grant))).await;
    let answer: ControlFrame = receive(&mut reader).await;
    let Some(Frame::Reject(reject)) = answer.frame else {
        panic!("{answer:?}");
    };
    assert_eq!(reject.code, "limits");
    stranger.closed().await;
    calm.is_undisturbed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_decides_who_a_node_is() {
    let calm = Calm::new().await;
    let claims: [fn(&mut Hello); 4] = [
        |hello| hello.owner = "bob".into(),
        |hello| hello.node = "edge-1".into(),
        |hello| hello.owner.clear(),
        |hello| hello.tier = v1::Tier::Mec as i32,
    ];
    for claim in claims {
        let stranger = calm.stranger(PHONE).await;
        let (mut control, mut reader) = stranger.connection.open_bi().await.unwrap();
        let mut hello = hello_of(PHONE);
        claim(&mut hello);
        send(&mut control, &frame(Frame::Hello(hello.clone()))).await;
        let answer: ControlFrame = receive(&mut reader).await;
        let Some(Frame::Reject(reject)) = answer.frame else {
            panic!("{hello:?} was answered with {answer:?}");
        };
        assert_eq!(reject.code, "identity", "{}", reject.message);
        stranger.closed().await;
    }
    // A gateway's certificate serves, and is nobody's way in as a node.
    let tls = node_config(&calm.pki.credentials("spiffe://tiermesh/gateway/gw-2")).unwrap();
    let error = calm.refusal(tls).await;
    assert!(error.contains("invalid peer certificate"), "{error}");
    calm.is_undisturbed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn true_hello_from_a_hand_made_peer_is_welcomed() {
    let calm = Calm::new().await;
    let stranger = calm.stranger(PHONE).await;
    let (mut control, mut reader) = stranger.connection.open_bi().await.unwrap();
    send(&mut control, &frame(Frame::Hello(hello_of(PHONE)))).await;
    let answer: ControlFrame = receive(&mut reader).await;
    let Some(Frame::Welcome(welcome)) = answer.frame else {
        panic!("{answer:?}");
    };
    assert_eq!((welcome.version, welcome.gateway.as_str()), (1, "gw"));
    eventually("the phone is in", || calm.table.list().len() == 2).await;
    // A stream of garbage costs the stream, not the connection.
    let (mut opened, mut answer) = stranger.connection.open_bi().await.unwrap();
    opened.write_all(&framed(&Hello::default())).await.unwrap();
    opened.write_all(&[0xff; 64]).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), answer.read_to_end(1 << 16)).await;
    ended.expect("garbage is not waited on for long").ok();
    assert!(stranger.connection.close_reason().is_none());
    assert_eq!(calm.table.list().len(), 2);
    stranger.endpoint.close(3_u32.into(), b"bye");
    eventually("the phone left", || calm.table.list().len() == 1).await;
    calm.is_undisturbed().await;
}
