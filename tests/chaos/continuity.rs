//! Answers go on when the node under them dies or stands still.

use crate::spec;
use std::time::Duration;
use tiermesh_harness::client::{Answer, Client, ask, client, prompt};
use tiermesh_harness::{Mesh, STANDIN};
use tiermesh_proto::v1;
use tiermesh_proto::v1::infer_event::Event;
use tiermesh_proto::v1::seam::Kind;
use tokio::time::Instant;
use tonic::Streaming;

const TOKENS: u32 = 1_600;
/// Every answer ends within this, or hangs.
const WITHIN: Duration = Duration::from_secs(60);

fn long() -> v1::InferRequest {
    let mut request = prompt("a title of some length", TOKENS);
    request.policy = "iot".to_owned();
    request.seed = Some(11);
    if let Some(sampling) = &mut request.sampling {
        sampling.temperature = Some(0.9);
    }
    request
}

/// A stream that `node` answers.
async fn on(
    gateway: &mut Client,
    request: &v1::InferRequest,
    node: &str,
) -> Streaming<v1::InferEvent> {
    // Those that went elsewhere stay open meanwhile, so that the next goes to
    // whoever is less busy.
    let mut elsewhere = Vec::new();
    for _ in 0..48 {
        let mut stream = gateway.infer(request.clone()).await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap().event;
        let Some(Event::Accepted(accepted)) = first else {
            panic!("{first:?}")
        };
        if accepted.decision.unwrap().node == node {
            return stream;
        }
        elsewhere.push(stream);
    }
    panic!("no request came to `{node}`")
}

/// Reads to the end, and does `then` once so many tokens are there. The
/// longest time without a token after that is told too.
async fn read(
    mut stream: Streaming<v1::InferEvent>,
    after: usize,
    then: impl FnOnce(),
) -> (Answer, Duration) {
    let mut answer = Answer::default();
    let (mut then, mut last, mut gap) = (Some(then), None::<Instant>, Duration::ZERO);
    while let Some(event) = stream.message().await.unwrap() {
        match event.event {
            Some(Event::Tokens(tokens)) => {
                assert_eq!(
                    tokens.first_seq,
                    answer.tokens.len() as u64,
                    "no gap, no repetition"
                );
                answer.tokens.extend(tokens.items);
                if let Some(last) = &mut last {
                    gap = gap.max(last.elapsed());
                    *last = Instant::now();
                }
                if answer.tokens.len() >= after
                    && let Some(then) = then.take()
                {
                    then();
                    last = Some(Instant::now());
                }
            }
            Some(Event::Seam(seam)) => {
                assert_eq!(seam.seq, answer.tokens.len() as u64);
                answer.seams.push(seam);
            }
            Some(Event::Done(done)) => answer.done = Some(done),
            _ => {}
        }
    }
    assert!(answer.done.is_some(), "every answer has its end");
    (answer, gap)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_the_undisturbed_one_when_its_edge_is_killed_or_frozen() {
    let mut spec = spec();
    (spec.device, spec.standin, spec.edges) = (false, false, 3);
    let mesh = Mesh::start(&spec).await.unwrap();
    let mut gateway = client(mesh.gateway.endpoint()).await.unwrap();
    let undisturbed = ask(&mut gateway, long()).await.unwrap();
    assert_eq!(undisturbed.tokens.len(), TOKENS as usize);
    for (signal, after, edge) in [(libc::SIGKILL, 40, 0), (libc::SIGSTOP, 200, 1)] {
        let victim = &mesh.edges[edge];
        let stream = on(&mut gateway, &long(), &victim.name).await;
        let reading = read(stream, after, || victim.signal(signal).unwrap());
        let (answer, gap) = tokio::time::timeout(WITHIN, reading).await.unwrap();
        println!(
            "signal {signal} after {after} tokens: a pause of {} ms, {:?}",
            gap.as_millis(),
            answer.seams
        );
        assert_eq!(answer.seams.len(), 1, "signal {signal}");
        assert_eq!(answer.seams[0].kind, Kind::Exact as i32);
        assert_eq!(answer.seams[0].from, victim.name);
        assert_eq!(answer.ids(), undisturbed.ids(), "signal {signal}");
        assert_eq!(answer.text(), undisturbed.text(), "signal {signal}");
        let (done, whole) = (answer.done.unwrap(), undisturbed.done.clone().unwrap());
        assert_eq!(done.output_tokens, whole.output_tokens);
        assert_eq!(done.input_tokens, whole.input_tokens);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cloud_goes_on_from_the_text_when_the_last_edge_dies() {
    let mut spec = spec();
    (spec.device, spec.edges) = (false, 1);
    let mesh = Mesh::start(&spec).await.unwrap();
    let mut gateway = client(mesh.gateway.endpoint()).await.unwrap();
    let edge = &mesh.edges[0];
    let stream = on(&mut gateway, &long(), &edge.name).await;
    let reading = read(stream, 40, || edge.signal(libc::SIGKILL).unwrap());
    let (answer, _) = tokio::time::timeout(WITHIN, reading).await.unwrap();
    assert_eq!(answer.seams.len(), 1);
    assert_eq!(answer.seams[0].kind, Kind::Prefill as i32);
    assert_eq!(answer.seams[0].to, STANDIN);
    assert!(answer.tokens.len() > usize::try_from(answer.seams[0].seq).unwrap());
    assert!(answer.tokens.len() <= TOKENS as usize);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_wants_its_own_tokens_or_none_gets_an_error_with_a_reason() {
    let mut spec = spec();
    (spec.device, spec.edges) = (false, 1);
    let mesh = Mesh::start(&spec).await.unwrap();
    let mut gateway = client(mesh.gateway.endpoint()).await.unwrap();
    let edge = &mesh.edges[0];
    let mut request = long();
    request.continuity = v1::Continuity::Exact as i32;
    let mut stream = on(&mut gateway, &request, &edge.name).await;
    let mut tokens = 0;
    let status = loop {
        match tokio::time::timeout(WITHIN, stream.message())
            .await
            .unwrap()
        {
            Ok(Some(event)) => match event.event {
                Some(Event::Tokens(more)) => {
                    if tokens == 0 {
                        edge.signal(libc::SIGKILL).unwrap();
                    }
                    tokens += more.items.len();
                }
                other => panic!("{other:?} after {tokens} tokens"),
            },
            Ok(None) => panic!("the stream ended as if it were whole"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
}
