//! A fleet in memory whose nodes say tokens at a set pace, for what dispatch
//! itself costs and does.

use futures::{StreamExt as _, stream};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tiermesh_core::{
    BreakerState, CandidateState, Content, Context, Done, Event, FinishReason, Fleet, Infer,
    InferFuture, ModelId, ModelOffer, ModelState, NodeId, RawRequest, Request, Sealed, Snapshot,
    Task, Tier, Token, Usage, Usd,
};

/// A node that says `tokens` tokens, one every `pause`; at once without one.
pub(crate) struct Node {
    pub(crate) tokens: u64,
    pub(crate) pause: Duration,
    /// Tokens said by all nodes that share it, heard or not.
    pub(crate) said: Arc<AtomicU64>,
}

impl Infer for Node {
    fn infer(&self, _: Arc<Sealed<Request>>, context: Context) -> InferFuture<'_> {
        let (pause, said) = (self.pause, Arc::clone(&self.said));
        let from = context.continuation.said();
        let tokens = stream::iter(from..self.tokens).then(move |n| {
            said.fetch_add(1, Ordering::Relaxed);
            let event = Ok(Event::Tokens {
                first_seq: n,
                items: vec![token(n)],
            });
            async move {
                // Shorter than a timer's tick, it only lets the others go on.
                match pause {
                    Duration::ZERO => {}
                    pause if pause < Duration::from_millis(1) => tokio::task::yield_now().await,
                    pause => tokio::time::sleep(pause).await,
                }
                event
            }
        });
        let end = stream::once(std::future::ready(Ok(done(self.tokens))));
        Box::pin(std::future::ready(Ok(Box::pin(tokens.chain(end)) as _)))
    }
}

fn token(n: u64) -> Token {
    Token {
        // No allocation: the text is not what is measured.
        text: String::new(),
        id: Some(n as u32),
        logprob: None,
        detail: None,
    }
}

fn done(tokens: u64) -> Event {
    Event::Done(Box::new(Done {
        finish: FinishReason::Length,
        usage: Usage {
            input_tokens: 0,
            output_tokens: tokens,
        },
        cost: Usd::ZERO,
        first_token: None,
        total: Duration::ZERO,
        attempts: Vec::new(),
    }))
}

/// Nodes by name, all of the MEC tier and with the same model.
pub(crate) struct Scripted {
    pub(crate) nodes: BTreeMap<NodeId, Arc<Node>>,
    candidates: Vec<CandidateState>,
}

/// A million tokens written cost a dollar: a token is a thousand billionths.
pub(crate) const TOKEN_NANOS: u64 = 1_000;

impl Scripted {
    pub(crate) fn new(nodes: Vec<Node>) -> Self {
        let offer = Arc::new(ModelOffer {
            id: ModelId::new("m").expect("a name"),
            family: "f".into(),
            digest: None,
            numerics_id: None,
            tasks: vec![Task::Generate],
            context_tokens: 100_000,
            quality: 0.6,
            input_per_million: Usd::ZERO,
            output_per_million: Usd::from_nanos(TOKEN_NANOS * 1_000_000),
        });
        let name = |n: usize| NodeId::new(format!("edge-{n}")).expect("a name");
        let candidates = (0..nodes.len()).map(|n| CandidateState {
            node: name(n),
            tier: Tier::Mec,
            region: None,
            owner: None,
            transit: None,
            model: Arc::clone(&offer),
            state: ModelState {
                prefill_tok_s: 1_000.0,
                decode_tok_s: 100.0,
                first_token_ms: 10.0,
                first_token_p99_ms: 20.0,
                ..ModelState::default()
            },
            outlook: tiermesh_core::Outlook::default(),
            rtt_ms: 0.0,
            credits_free: 100_000,
            load: 0.0,
            battery_percent: None,
            report_age: Duration::ZERO,
            breaker: BreakerState::Closed,
        });
        Self {
            candidates: candidates.collect(),
            nodes: nodes
                .into_iter()
                .enumerate()
                .map(|(n, node)| (name(n), Arc::new(node)))
                .collect(),
        }
    }
}

impl Fleet for Scripted {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            epoch: 1,
            sequence: 1,
            candidates: self.candidates.clone().into(),
        }
    }

    fn node(&self, node: &NodeId) -> Option<Arc<dyn Infer>> {
        let node = Arc::clone(self.nodes.get(node)?);
        Some(node)
    }
}

/// A request for so many tokens.
pub(crate) fn request(max_tokens: u32, user: &str) -> anyhow::Result<Arc<Sealed<Request>>> {
    let raw = RawRequest {
        request_id: "r".into(),
        user_id: user.into(),
        policy: "iot".into(),
        content: Some(Content::Prompt("a title".into())),
        max_tokens: Some(max_tokens),
        ..RawRequest::default()
    };
    Ok(Arc::new(Sealed::new(raw.validate()?)))
}
