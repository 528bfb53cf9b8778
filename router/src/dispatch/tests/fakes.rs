//! A fleet of scripted nodes on tokio's clock.

use super::clock::TokioClock;
use crate::{BreakerConfig, Breakers, Dispatcher, Keeps, Memory, Options, Setup};
use futures::{StreamExt, stream};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tiermesh_core::{
    BreakerState, CandidateState, Clock, Content, Context, DecisionSummary, Destination, Done,
    ErrorClass, Event, EventStream, FinishReason, Fleet, Infer, InferError, InferFuture,
    ModelDigest, ModelId, ModelOffer, ModelState, NodeId, NumericsId, Outlook, Privacy, RawRequest,
    Refusal, Request, Sealed, Snapshot, Task, Tier, Time, Token, Usage, Usd, UserId,
};
use tiermesh_decision::Policies;

/// One thing a node does, in order.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Refuse(ErrorClass),
    /// Is full, and says for how long.
    Full(Duration),
    HangBeforeStream,
    Accept(Box<DecisionSummary>),
    Tokens(u64, u64),
    Wait(Duration),
    Fail(ErrorClass),
    Done(u64),
    Hang,
    /// Goes on to so many tokens in all, with this pause before each.
    Say(u64, Duration),
    End,
}

pub(crate) struct Node {
    steps: Mutex<Vec<Step>>,
    pub(crate) calls: Mutex<Vec<(Privacy, Context)>>,
    pub(crate) open: Arc<AtomicUsize>,
    ways: Mutex<Ways>,
}

/// How a node takes an answer that others began.
#[derive(Default)]
struct Ways {
    no_texts: bool,
    one_and_out: bool,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Node {
    pub(crate) fn script(&self, steps: Vec<Step>) {
        *self.steps.lock().unwrap() = steps;
    }

    /// It cannot go on from a text.
    pub(crate) fn refuses_texts(&self) {
        self.ways.lock().unwrap().no_texts = true;
    }

    /// It says the next token and dies.
    pub(crate) fn dies_after_one(&self) {
        self.ways.lock().unwrap().one_and_out = true;
    }

    pub(crate) fn called(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    pub(crate) fn context(&self) -> Context {
        self.calls.lock().unwrap().last().unwrap().1.clone()
    }

    async fn play(&self, steps: Vec<Step>, said: u64) -> Result<EventStream, Refusal> {
        match steps.first() {
            Some(Step::Refuse(class)) => return Err(InferError::new(*class, "QUEUE_FULL", "no")),
            Some(Step::Full(left)) => {
                let full = InferError::new(ErrorClass::Exhausted, "QUEUE_FULL", "no");
                return Err(full.retry_after(*left));
            }
            Some(Step::HangBeforeStream) => std::future::pending().await,
            _ => {}
        }
        self.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&self.open));
        let mut at = said;
        let steps: Vec<_> = steps
            .into_iter()
            .flat_map(|step| match step {
                Step::Say(until, pause) => {
                    let from = at;
                    at = until.max(at);
                    (from..at)
                        .flat_map(|n| [Step::Wait(pause), Step::Tokens(n, 1)])
                        .collect()
                }
                Step::End => vec![Step::Done(at)],
                step => vec![step],
            })
            .collect();
        let steps = stream::iter(steps).filter_map(move |step| {
            let _ = &open;
            async move {
                match step {
                    Step::Accept(summary) => Some(Ok(Event::Accepted(summary))),
                    Step::Tokens(first_seq, count) => Some(Ok(tokens(first_seq, count))),
                    Step::Done(count) => Some(Ok(done(count))),
                    Step::Fail(class) => Some(Err(InferError::new(class, "NODE_LOST", "broke"))),
                    Step::Wait(pause) => {
                        tokio::time::sleep(pause).await;
                        None
                    }
                    Step::Hang => std::future::pending().await,
                    _ => None,
                }
            }
        });
        Ok(Box::pin(steps))
    }
}

impl Infer for Node {
    fn infer(&self, request: Arc<Sealed<Request>>, context: Context) -> InferFuture<'_> {
        let privacy = request.meta().privacy;
        let said = context.continuation.said();
        let prefill = context.continuation.is_prefill();
        self.calls.lock().unwrap().push((privacy, context));
        let mut steps = self.steps.lock().unwrap().clone();
        let ways = self.ways.lock().unwrap();
        if ways.no_texts && prefill {
            let error = InferError::new(ErrorClass::NotFound, "CONTINUATION_NOT_SERVED", "no");
            return Box::pin(async move { Err(error) });
        }
        if ways.one_and_out {
            steps = vec![Step::Tokens(said, 1), Step::Fail(ErrorClass::Unavailable)];
        }
        Box::pin(self.play(steps, said))
    }
}

pub(crate) fn tokens(first_seq: u64, count: u64) -> Event {
    let token = |n| Token {
        text: format!("t{n} "),
        id: u32::try_from(n).ok(),
        logprob: None,
        detail: None,
    };
    Event::Tokens {
        first_seq,
        items: (first_seq..first_seq + count).map(token).collect(),
    }
}

fn done(output_tokens: u64) -> Event {
    Event::Done(Box::new(Done {
        finish: FinishReason::Stop,
        usage: Usage {
            input_tokens: 10,
            output_tokens,
        },
        cost: Usd::from_nanos(77),
        first_token: None,
        total: Duration::ZERO,
        attempts: Vec::new(),
    }))
}

pub(crate) fn answer() -> Vec<Step> {
    vec![Step::Tokens(0, 2), Step::Tokens(2, 1), Step::Done(3)]
}

pub(crate) fn candidate(tier: Tier, node: &str) -> CandidateState {
    let price = Usd::from_dollars(if tier == Tier::Cloud { 3.0 } else { 0.0 }).unwrap();
    CandidateState {
        node: NodeId::new(node).unwrap(),
        tier,
        region: None,
        owner: (tier == Tier::Device).then(|| UserId::new("ann").unwrap()),
        transit: None,
        model: Arc::new(ModelOffer {
            id: ModelId::new("m").unwrap(),
            family: "f".into(),
            digest: None,
            numerics_id: None,
            tasks: vec![Task::Generate],
            context_tokens: 4096,
            quality: 0.6,
            input_per_million: price,
            output_per_million: price,
        }),
        state: ModelState {
            prefill_tok_s: 1_000.0,
            decode_tok_s: 100.0,
            first_token_ms: 10.0,
            first_token_p99_ms: 20.0,
            ..ModelState::default()
        },
        rtt_ms: 0.0,
        credits_free: 4,
        load: 0.0,
        battery_percent: None,
        report_age: Duration::ZERO,
        breaker: BreakerState::Closed,
        outlook: Outlook::default(),
    }
}

/// A candidate whose model is `digest` computed as `numerics` says.
pub(crate) fn computing(tier: Tier, node: &str, digest: &str, numerics: &str) -> CandidateState {
    let mut candidate = candidate(tier, node);
    let mut offer = ModelOffer::clone(&candidate.model);
    offer.digest = Some(ModelDigest::new(digest.repeat(64 / digest.len())).unwrap());
    offer.numerics_id = Some(NumericsId::new(numerics).unwrap());
    candidate.model = Arc::new(offer);
    candidate
}

pub(crate) struct World {
    pub(crate) nodes: BTreeMap<NodeId, Arc<Node>>,
    fleet: Arc<FakeFleet>,
    clock: Arc<dyn Clock>,
    pub(crate) dispatcher: Dispatcher,
}

struct FakeFleet {
    snapshot: Mutex<Snapshot>,
    memory: Option<Arc<Memory>>,
    nodes: BTreeMap<NodeId, Arc<Node>>,
}

impl Fleet for FakeFleet {
    fn snapshot(&self) -> Snapshot {
        match &self.memory {
            Some(memory) => memory.snapshot(),
            None => self.snapshot.lock().unwrap().clone(),
        }
    }

    fn node(&self, node: &NodeId) -> Option<Arc<dyn Infer>> {
        let node = Arc::clone(self.nodes.get(node)?);
        Some(node)
    }
}

impl World {
    /// A dispatcher on a MEC node called `here`.
    pub(crate) fn new(candidates: Vec<CandidateState>) -> Self {
        Self::at(Tier::Mec, candidates)
    }

    pub(crate) fn at(tier: Tier, candidates: Vec<CandidateState>) -> Self {
        Self::patient(tier, candidates, Options::default())
    }

    pub(crate) fn patient(tier: Tier, candidates: Vec<CandidateState>, options: Options) -> Self {
        Self::keeping(tier, candidates, options, Keeps::default())
    }

    /// The fleet's candidates are the memory's, where there is one.
    pub(crate) fn keeping(
        tier: Tier,
        candidates: Vec<CandidateState>,
        options: Options,
        keeps: Keeps,
    ) -> Self {
        let nodes: BTreeMap<_, _> = candidates
            .iter()
            .map(|candidate| {
                let node = Node {
                    steps: Mutex::new(answer()),
                    calls: Mutex::default(),
                    open: Arc::default(),
                    ways: Mutex::default(),
                };
                (candidate.node.clone(), Arc::new(node))
            })
            .collect();
        let fleet = Arc::new(FakeFleet {
            snapshot: Mutex::new(Snapshot {
                epoch: 1,
                sequence: 2,
                candidates: candidates.into(),
            }),
            nodes: nodes.clone(),
            memory: keeps.memory.clone(),
        });
        let clock: Arc<dyn Clock> = Arc::new(TokioClock(tokio::time::Instant::now()));
        let setup = Setup {
            own: Destination {
                tier,
                region: None,
                node: NodeId::new("here").unwrap(),
                owner: None,
            },
            fleet: fleet.clone(),
            policies: Policies::builtin(),
            breakers: Breakers::new(BreakerConfig::default(), 1),
            clock: clock.clone(),
            options,
        };
        let dispatcher = Dispatcher::keeping(setup, keeps);
        Self {
            nodes,
            fleet,
            clock,
            dispatcher,
        }
    }

    /// What the dispatcher's clock says.
    pub(crate) fn time(&self) -> Time {
        self.clock.now()
    }

    /// Changes what the fleet tells of a node from now on.
    pub(crate) fn now(&self, name: &str, change: impl Fn(&mut CandidateState)) {
        let mut snapshot = self.fleet.snapshot.lock().unwrap();
        let of_node = |c: &&mut CandidateState| c.node.as_str() == name;
        snapshot
            .candidates
            .iter_mut()
            .filter(of_node)
            .for_each(change);
    }

    /// The node's next report says so.
    pub(crate) fn reports(&self, name: &str, load: f32, first_token_p99_ms: f32) {
        let mut snapshot = self.fleet.snapshot.lock().unwrap();
        let of_node = |c: &&mut CandidateState| c.node.as_str() == name;
        for candidate in snapshot.candidates.iter_mut().filter(of_node) {
            candidate.load = load;
            candidate.state.first_token_p99_ms = first_token_p99_ms;
        }
    }

    pub(crate) fn node(&self, name: &str) -> &Node {
        &self.nodes[&NodeId::new(name).unwrap()]
    }

    pub(crate) async fn open(&self, policy: &str) -> Result<EventStream, Refusal> {
        self.ask(request(policy, |_| {}), Context::default()).await
    }

    pub(crate) async fn ask(
        &self,
        request: Arc<Sealed<Request>>,
        context: Context,
    ) -> Result<EventStream, Refusal> {
        self.dispatcher.infer(request, context).await
    }

    /// Everything a request of that policy gets.
    pub(crate) async fn all(&self, policy: &str) -> Vec<Result<Event, InferError>> {
        match self.open(policy).await {
            Ok(stream) => stream.collect().await,
            Err(refusal) => vec![Err(refusal)],
        }
    }
}

pub(crate) fn request(policy: &str, change: impl FnOnce(&mut RawRequest)) -> Arc<Sealed<Request>> {
    let mut raw = RawRequest {
        request_id: "r".into(),
        user_id: "ann".into(),
        policy: policy.into(),
        content: Some(Content::Prompt("title".into())),
        max_tokens: Some(16),
        ..RawRequest::default()
    };
    change(&mut raw);
    Arc::new(Sealed::new(raw.validate().unwrap()))
}

/// The nodes of the `Accepted` events, and the end.
pub(crate) fn outline(
    events: &[Result<Event, InferError>],
) -> (Vec<&str>, u64, Result<&Done, &InferError>) {
    let (mut accepted, mut count, mut end) = (Vec::new(), 0, None);
    for event in events {
        assert!(end.is_none(), "something came after the end: {event:?}");
        match event {
            Ok(Event::Accepted(decision)) => accepted.push(decision.node.as_str()),
            Ok(Event::Tokens { first_seq, items }) => {
                assert_eq!(*first_seq, count, "a gap");
                count += items.len() as u64;
            }
            Ok(Event::Done(done)) => end = Some(Ok(&**done)),
            Ok(Event::Seam(_) | Event::Result(_)) => {}
            Err(error) => end = Some(Err(error)),
        }
    }
    (accepted, count, end.expect("every stream has an end"))
}
