//! `kill -9` of an edge under load.

use crate::spec;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tiermesh_harness::Mesh;
use tiermesh_harness::client::{Answer, Client, ask, client, prompt};
use tonic::Status;

const REQUESTS: usize = 200;
/// So many clients, each of which asks again when it has its answer.
const CLIENTS: usize = 28;
/// So many answers are in flight at the kill, at least.
const IN_FLIGHT: usize = 20;
/// It comes when so many requests were answered.
const ANSWERED: usize = 60;
const TOKENS: u32 = 120;

#[derive(Default)]
struct Load {
    asked: AtomicUsize,
    open: AtomicUsize,
    ended: AtomicUsize,
}

type Outcome = Result<Answer, (Status, Answer)>;

/// One client: asks until everything was asked.
async fn keep_asking(mut gateway: Client, load: Arc<Load>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    loop {
        let at = load.asked.fetch_add(1, Ordering::SeqCst);
        if at >= REQUESTS {
            return outcomes;
        }
        let mut request = prompt(&format!("title {at}"), TOKENS);
        request.model = "tiny-llama".to_owned();
        request.policy = "iot".to_owned();
        load.open.fetch_add(1, Ordering::SeqCst);
        outcomes.push(ask(&mut gateway, request).await);
        load.open.fetch_sub(1, Ordering::SeqCst);
        load.ended.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_survives_the_death_of_an_edge() {
    let mut spec = spec();
    // Whoever loses its edge has one place to go.
    spec.device = false;
    let mut mesh = Mesh::start(&spec).await.unwrap();
    let gateway = client(mesh.gateway.endpoint()).await.unwrap();
    let load = Arc::new(Load::default());
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(tokio::spawn(keep_asking(gateway.clone(), load.clone())));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let ready = async {
        while load.open.load(Ordering::SeqCst) < IN_FLIGHT
            || load.ended.load(Ordering::SeqCst) < ANSWERED
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let ready = tokio::time::timeout(Duration::from_secs(60), ready).await;
    ready.expect("so many are in flight at once");
    let in_flight = load.open.load(Ordering::SeqCst);
    mesh.edges[0].kill().await.unwrap();

    let mut count = Count::default();
    for task in clients {
        let outcomes = tokio::time::timeout(Duration::from_secs(120), task).await;
        let outcomes = outcomes.expect("every request ends").unwrap();
        outcomes.into_iter().for_each(|outcome| count.add(outcome));
    }
    println!(
        "{REQUESTS} requests, {in_flight} in flight at the kill: {} answered \
         ({} of them after failing over, {} behind a seam), {} lost; answered by {:?}",
        count.answered,
        count.failed_over,
        count.seams,
        count.lost.len(),
        count.by_node
    );
    assert!(in_flight >= IN_FLIGHT, "{in_flight}");
    assert!(count.lost.is_empty(), "{:?}", count.lost);
    assert_eq!(count.answered, REQUESTS);
    assert!(count.by_node.contains_key("edge-1"), "it was in use before");
    assert!(count.by_node.contains_key("edge-2"));
    mesh.stop().await.unwrap();
}

#[derive(Default)]
struct Count {
    answered: usize,
    failed_over: usize,
    seams: usize,
    lost: Vec<Status>,
    by_node: BTreeMap<String, usize>,
}

impl Count {
    fn add(&mut self, answer: Outcome) {
        match answer {
            Ok(answer) => {
                let done = answer.done.as_ref().unwrap();
                assert_eq!(answer.tokens.len(), TOKENS as usize);
                assert!(answer.seams.len() <= 1, "one edge died: {:?}", answer.seams);
                self.answered += 1;
                self.seams += answer.seams.len();
                self.failed_over += usize::from(done.attempts.len() > 1);
                *self.by_node.entry(answer.decision().node).or_default() += 1;
            }
            Err((status, _)) => self.lost.push(status),
        }
    }
}
