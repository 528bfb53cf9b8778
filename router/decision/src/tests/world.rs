//! Small worlds to decide in.

use crate::{NoCandidate, Plan, Policies, Policy, Question, decide};
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    BreakerState, CandidateState, CapacityReport, Content, Context, ModelId, ModelOffer,
    ModelState, NodeId, Outlook, PolicyName, RawRequest, RequestMeta, Snapshot, Task, Tier, Time,
    Usd, UserId,
};

pub(crate) const NOW: Time = Time::from_us(5_000_000);

pub(crate) fn meta(change: impl FnOnce(&mut RawRequest)) -> RequestMeta {
    let mut raw = RawRequest {
        request_id: "r".into(),
        user_id: "ann".into(),
        policy: "any".into(),
        content: Some(Content::Prompt(
            "a title of some forty bytes, as usual".into(),
        )),
        max_tokens: Some(64),
        ..RawRequest::default()
    };
    change(&mut raw);
    raw.validate().unwrap().meta
}

pub(crate) fn offer(id: &str, quality: f32, usd_per_million: f64) -> ModelOffer {
    let price = Usd::from_dollars(usd_per_million).unwrap();
    ModelOffer {
        id: ModelId::new(id).unwrap(),
        family: "family".into(),
        digest: None,
        numerics_id: None,
        tasks: vec![Task::Generate, Task::Chat],
        context_tokens: 4096,
        quality,
        input_per_million: price,
        output_per_million: price,
    }
}

pub(crate) fn candidate(tier: Tier, node: &str, first_token_ms: f32) -> CandidateState {
    CandidateState {
        node: NodeId::new(node).unwrap(),
        tier,
        region: None,
        owner: (tier == Tier::Device).then(|| UserId::new("ann").unwrap()),
        transit: None,
        model: Arc::new(match tier {
            Tier::Device | Tier::Mec => offer("small", 0.6, 0.0),
            Tier::Cloud => offer("large", 0.9, 3.0),
        }),
        state: ModelState {
            prefill_tok_s: 2_000.0,
            decode_tok_s: 80.0,
            first_token_ms,
            first_token_p99_ms: first_token_ms * 2.0,
            ..ModelState::default()
        },
        rtt_ms: 0.2,
        credits_free: 4,
        load: 0.1,
        battery_percent: None,
        report_age: Duration::ZERO,
        breaker: BreakerState::Closed,
        outlook: Outlook::default(),
    }
}

pub(crate) fn snapshot(candidates: Vec<CandidateState>) -> Snapshot {
    Snapshot {
        epoch: 7,
        sequence: 11,
        candidates: candidates.into(),
    }
}

pub(crate) fn policy(name: &str) -> Arc<Policy> {
    let name = PolicyName::new(name).unwrap();
    Arc::clone(Policies::builtin().require(&name).unwrap())
}

/// A request in its world; fields change before it is asked.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) meta: RequestMeta,
    pub(crate) context: Context,
    pub(crate) policy: Arc<Policy>,
    pub(crate) seed: u64,
    pub(crate) own: NodeId,
}

impl Case {
    pub(crate) fn new(policy: Arc<Policy>) -> Self {
        Self {
            meta: meta(|_| {}),
            context: Context::default(),
            policy,
            seed: 1,
            own: NodeId::new("here").unwrap(),
        }
    }

    pub(crate) fn question(&self) -> Question<'_> {
        Question {
            meta: &self.meta,
            context: &self.context,
            policy: &self.policy,
            own: &self.own,
            zone: None,
            complexity: None,
            prompt_tokens: None,
            answer: None,
            warm: &[],
            hold: Some(u32::MAX),
            now: NOW,
            seed: self.seed,
        }
    }

    pub(crate) fn decide(&self, snapshot: &Snapshot) -> Result<Plan, Box<NoCandidate>> {
        decide(&self.question(), snapshot)
    }

    pub(crate) fn tier(&self, snapshot: &Snapshot) -> Tier {
        let plan = self.decide(snapshot).unwrap();
        plan.choices[0].candidate(snapshot).tier
    }
}

/// An idle node's report of one model whose short prompts take so long, and at
/// most so long.
pub(crate) fn report(sequence: u64, (usual_ms, p99_ms): (f32, f32)) -> CapacityReport {
    CapacityReport {
        sequence,
        credits: 8,
        slots: 0,
        lease: Duration::from_secs(2),
        active: 0,
        queued: 0,
        load: 0.0,
        battery_percent: None,
        engine: Default::default(),
        models: vec![ModelState {
            prefill_tok_s: 1_000.0,
            decode_tok_s: 50.0,
            first_token_ms: usual_ms,
            first_token_p99_ms: p99_ms,
            ..ModelState::default()
        }],
    }
}
