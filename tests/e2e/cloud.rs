//! The cloud tier through the gateway, and everything that goes wrong there.

use crate::support::{at, mesh};
use futures::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_bedrock::{Fault, Standin, StandinHandle, StandinOptions};
use tiermesh_core::{
    Context, Done, Event, EventStream, FinishReason, Infer, InferFuture, ModelId, Request, Sealed,
    Token, Usage, Usd,
};
use tiermesh_harness::client::{Client, ask, prompt, reason};
use tiermesh_harness::{BEDROCK_MODEL, CLOUD_MODEL, Cloud, Mesh, STANDIN};
use tiermesh_proto::v1;
use tonic::Code;
use tonic_types::StatusExt as _;

/// Says so many words as it is asked for, one every few milliseconds, so that
/// each is a piece of its own on the wire.
struct Brain;

impl Infer for Brain {
    fn infer(&self, request: Arc<Sealed<Request>>, _context: Context) -> InferFuture<'_> {
        let words = u64::from(request.meta().sampling.max_tokens);
        let events = (0..=words).map(move |at| if at < words { word(at) } else { done(words) });
        let paced = futures::stream::iter(events).then(|event| async {
            tokio::time::sleep(Duration::from_millis(4)).await;
            Ok(event)
        });
        Box::pin(async move { Ok(Box::pin(paced) as EventStream) })
    }
}

fn word(at: u64) -> Event {
    Event::Tokens {
        first_seq: at,
        items: vec![Token {
            text: format!("w{at} "),
            id: None,
            logprob: None,
            detail: None,
        }],
    }
}

fn done(words: u64) -> Event {
    Event::Done(Box::new(Done {
        finish: FinishReason::Length,
        usage: Usage {
            input_tokens: 5,
            output_tokens: words,
        },
        cost: Usd::ZERO,
        first_token: None,
        total: Duration::from_millis(1),
        attempts: Vec::new(),
    }))
}

/// A stand-in for Bedrock within the test, which keeps what it was sent.
pub(crate) async fn standin() -> StandinHandle {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = StandinOptions {
        models: [(BEDROCK_MODEL.to_owned(), ModelId::new("script").unwrap())].into(),
        keep_bodies: true,
    };
    Standin::start(listener, Arc::new(Brain), options).unwrap()
}

async fn mesh_with(standin: &StandinHandle) -> Mesh {
    mesh(|spec| {
        spec.cloud = Cloud::Endpoint(standin.endpoint_url());
        spec.cloud_idle_timeout_ms = Some(250);
    })
    .await
}

fn to_the_cloud() -> v1::InferRequest {
    let mut request = prompt("a title", 8);
    request.model = CLOUD_MODEL.to_owned();
    request
}

/// An answer that goes well, so that failures before it are not in a row.
async fn goes_well(gateway: &mut Client) {
    let answer = ask(gateway, to_the_cloud()).await.unwrap();
    assert_eq!(answer.decision().tier, v1::Tier::Cloud as i32);
    assert_eq!(answer.tokens.len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_the_cloud_have_their_own_status() {
    let standin = standin().await;
    let mesh = mesh_with(&standin).await;
    let mut gateway = at(&mesh.gateway).await;
    for (fault, code, code_of_reason) in [
        (
            Fault::Throttle,
            Code::ResourceExhausted,
            "BEDROCK_THROTTLED",
        ),
        (
            Fault::AccessDenied,
            Code::Unavailable,
            "BEDROCK_ACCESS_DENIED",
        ),
        (
            Fault::Validation,
            Code::InvalidArgument,
            "BEDROCK_VALIDATION",
        ),
        (Fault::ModelError, Code::Internal, "BEDROCK_MODEL_ERROR"),
        (
            Fault::ServiceUnavailable,
            Code::Unavailable,
            "BEDROCK_UNAVAILABLE",
        ),
    ] {
        goes_well(&mut gateway).await;
        goes_well(&mut gateway).await;
        standin.set_fault(Some(fault));
        // Another could go on with it: this client wants to know instead.
        let mut request = to_the_cloud();
        request.continuity = v1::Continuity::Fail as i32;
        let (status, answer) = ask(&mut gateway, request).await.unwrap_err();
        standin.set_fault(None);
        assert_eq!(status.code(), code, "{fault:?}: {status:?}");
        assert_eq!(reason(&status), code_of_reason, "{fault:?}");
        assert!(answer.tokens.is_empty());
        if fault == Fault::Throttle {
            let details = status.get_error_details();
            let wait = details.retry_info().and_then(|info| info.retry_delay);
            assert_eq!(wait, Some(Duration::from_secs(2)), "what Bedrock said");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn breaks_in_the_cloud_s_answer_have_their_own_status() {
    let standin = standin().await;
    let mesh = mesh_with(&standin).await;
    let mut gateway = at(&mesh.gateway).await;
    for (fault, code, said) in [
        (Fault::InStreamThrottle(2), Code::ResourceExhausted, 2),
        (Fault::InStreamModelError(2), Code::Internal, 2),
        (Fault::CutAfter(0), Code::Unavailable, 0),
        (Fault::CutAfter(2), Code::Unavailable, 2),
        (Fault::ResetAfter(2), Code::Unavailable, 2),
        (Fault::StallAfter(0), Code::Unavailable, 0),
        (Fault::StallAfter(2), Code::Unavailable, 2),
        (Fault::Silence, Code::Unavailable, 0),
    ] {
        goes_well(&mut gateway).await;
        goes_well(&mut gateway).await;
        standin.set_fault(Some(fault));
        // Another could go on with it: this client wants to know instead.
        let mut request = to_the_cloud();
        request.continuity = v1::Continuity::Fail as i32;
        let (status, answer) = ask(&mut gateway, request).await.unwrap_err();
        standin.set_fault(None);
        assert_eq!(status.code(), code, "{fault:?}: {status:?}");
        assert!(!reason(&status).is_empty());
        assert_eq!(answer.tokens.len(), said, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_that_fails_before_its_first_token_is_stood_in_for() {
    let standin = standin().await;
    let mesh = mesh_with(&standin).await;
    let mut gateway = at(&mesh.gateway).await;
    // An easy one would go to the edge, which is cheaper.
    let hard = "a title of which there is much to say ".repeat(38);
    let anywhere = || {
        let mut request = prompt(&hard, 8);
        request.policy = "interactive".to_owned();
        request
    };
    let usual = gateway.explain(anywhere()).await.unwrap().into_inner();
    assert_eq!(
        usual.tier,
        v1::Tier::Cloud as i32,
        "the premise of this test"
    );
    for fault in [
        Fault::Throttle,
        Fault::AccessDenied,
        Fault::ModelError,
        Fault::ServiceUnavailable,
        Fault::InStreamThrottle(0),
        Fault::InStreamModelError(0),
        Fault::CutAfter(0),
        Fault::StallAfter(0),
        Fault::Silence,
    ] {
        goes_well(&mut gateway).await;
        goes_well(&mut gateway).await;
        let asked = standin.requests();
        standin.set_fault(Some(fault));
        let answer = ask(&mut gateway, anywhere()).await;
        standin.set_fault(None);
        let answer = answer.unwrap_or_else(|(status, _)| panic!("{fault:?}: {status:?}"));
        assert!(
            standin.requests() > asked,
            "{fault:?}: the cloud was asked first"
        );
        assert_eq!(answer.decision().node, "edge-1", "{fault:?}");
        assert_eq!(answer.tokens.len(), 8);
        let attempts = answer.done.unwrap().attempts;
        assert_eq!(attempts.len(), 2, "{fault:?}: {attempts:?}");
        assert_eq!(attempts[0].node, STANDIN);
        assert!(!attempts[0].reason.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_without_usage_is_accounted_by_an_upper_bound() {
    let standin = standin().await;
    let mesh = mesh_with(&standin).await;
    let mut gateway = at(&mesh.gateway).await;
    standin.push_fault(Fault::NoUsage);
    let answer = ask(&mut gateway, to_the_cloud()).await.unwrap();
    let done = answer.done.clone().unwrap();
    assert!(done.output_tokens >= 1 && done.cost_usd > 0.0, "{done:?}");
}
