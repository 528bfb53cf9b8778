//! An answer, as a client sees it.

use crate::support::{at, mesh};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tiermesh_harness::client::{Answer, ask, prompt};
use tiermesh_harness::{Daemon, Mesh};
use tiermesh_proto::v1;

async fn sampled(daemon: &Daemon) -> Answer {
    let mut request = prompt("sony mdr-zx110 headphones", 96);
    request.seed = Some(11);
    request.model = "tiny-llama".to_owned();
    let sampling = request.sampling.as_mut().unwrap();
    sampling.temperature = Some(0.8);
    sampling.top_p = Some(0.95);
    ask(&mut at(daemon).await, request).await.unwrap()
}

fn check_whole(answer: &Answer) {
    let done = answer.done.as_ref().unwrap();
    assert_eq!(done.output_tokens, answer.tokens.len() as u64);
    assert!(done.input_tokens > 0);
    assert!(done.cost_usd > 0.0, "an edge's answer has a price");
    assert_eq!(done.finish, v1::done::Finish::Length as i32);
    assert!(done.first_token_ms.unwrap() <= done.total_ms);
    let attempts = &done.attempts;
    assert_eq!(attempts.len(), 1, "{attempts:?}");
    assert_eq!(attempts[0].node, answer.decision().node);
    assert_eq!(attempts[0].outcome, v1::attempt::Outcome::Answered as i32);
    assert!(!answer.accepted[0].request_id.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_seeds_give_equal_tokens_at_every_door() {
    let mesh: Mesh = mesh(|spec| spec.edges = 2).await;
    let first = sampled(&mesh.edges[0]).await;
    assert_eq!(first.tokens.len(), 96);
    assert_eq!(first.decision().node, "edge-1");
    check_whole(&first);

    let second = sampled(&mesh.edges[1]).await;
    assert_eq!(second.decision().node, "edge-2");
    let through_gateway = sampled(&mesh.gateway).await;
    check_whole(&through_gateway);
    for other in [second, through_gateway] {
        assert_eq!(other.ids(), first.ids(), "the same numerics everywhere");
        assert_eq!(other.text(), first.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_at_once_keep_to_themselves() {
    let mesh = mesh(|spec| spec.edges = 2).await;
    let client = at(&mesh.gateway).await;
    let alone = {
        let mut client = client.clone();
        let mut request = prompt("title number 3", 40);
        request.model = "tiny-llama".to_owned();
        ask(&mut client, request).await.unwrap()
    };
    let asked = (0..24).map(|at| {
        let mut client = client.clone();
        tokio::spawn(async move {
            let mut request = prompt(&format!("title number {}", at % 8), 40);
            request.model = "tiny-llama".to_owned();
            (at, ask(&mut client, request).await)
        })
    });
    for task in asked.collect::<Vec<_>>() {
        let (at, answer) = task.await.unwrap();
        let answer = answer.unwrap();
        assert_eq!(answer.tokens.len(), 40);
        if at % 8 == 3 {
            assert_eq!(answer.text(), alone.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_clients_at_one_node_get_fair_shares_at_once() {
    let mesh = mesh(|spec| spec.edges = 1).await;
    let client = at(&mesh.edges[0]).await;
    let counts: Vec<_> = (0..16).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let clients = counts.iter().enumerate().map(|(number, count)| {
        let (mut client, count) = (client.clone(), Arc::clone(count));
        let mut request = prompt(&format!("client number {number}"), 600);
        request.model = "tiny-llama".to_owned();
        request.user_id = format!("user-{number}");
        request.privacy = v1::Privacy::Edge as i32;
        tokio::spawn(async move {
            let mut stream = client.infer(request).await.unwrap().into_inner();
            while let Some(event) = stream.message().await.unwrap() {
                if let Some(v1::infer_event::Event::Tokens(tokens)) = event.event {
                    count.fetch_add(tokens.items.len(), Ordering::Relaxed);
                }
            }
        })
    });
    let mut clients: Vec<_> = clients.collect();
    // When the first is done, the others must be nearly: nobody was ahead.
    let (first, _, rest) = futures::future::select_all(clients.drain(..)).await;
    first.unwrap();
    let at_first_end: Vec<usize> = counts.iter().map(|c| c.load(Ordering::Relaxed)).collect();
    for client in rest {
        client.await.unwrap();
    }
    let least = at_first_end.iter().min().unwrap();
    assert!(
        *least >= 300,
        "{at_first_end:?} of 600 when the first ended"
    );
    for count in counts {
        assert_eq!(count.load(Ordering::Relaxed), 600);
    }
}
