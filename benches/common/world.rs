//! A gateway's view of so many candidates, as reports build it up.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    CapacityReport, Content, Context, Destination, ModelId, ModelOffer, ModelState, NodeId,
    RawRequest, RequestMeta, Task, Tier, Time, Usd, UserId,
};
use tiermesh_decision::state::{Joined, Tracker};
use tiermesh_decision::{Policies, Policy, Question, decide};

const NOW: Time = Time::from_us(5_000_000);

/// Nodes, and a request for one of them.
pub(crate) struct World {
    tracker: Tracker,
    nodes: Vec<NodeId>,
    meta: RequestMeta,
    context: Context,
    policy: Arc<Policy>,
    own: NodeId,
    sequence: u64,
}

impl World {
    /// One candidate in four is a device, one of them the user's; one in
    /// sixty-four a cloud model; the rest are edges. One in thirty-two has no
    /// credit.
    pub(crate) fn new(size: usize) -> anyhow::Result<Self> {
        let policies = Policies::builtin();
        let policy = policies.require(policies.default_name())?.clone();
        let raw = RawRequest {
            request_id: "r".into(),
            user_id: "user-0".into(),
            policy: policy.name.as_str().to_owned(),
            content: Some(Content::Prompt(
                "a title of some forty bytes, as usual".into(),
            )),
            max_tokens: Some(64),
            ..RawRequest::default()
        };
        let small = Arc::new(offer("small", 0.6, 0.0)?);
        let large = Arc::new(offer("large", 0.9, 3.0)?);
        let mut world = Self {
            tracker: Tracker::new(7),
            nodes: Vec::new(),
            meta: raw.validate()?.meta,
            context: Context::default(),
            policy,
            own: NodeId::new("gateway-1")?,
            sequence: 0,
        };
        for index in 0..size {
            let tier = match index % 64 {
                1 => Tier::Cloud,
                at if at % 4 == 0 => Tier::Device,
                _ => Tier::Mec,
            };
            let node = NodeId::new(format!("{}-{index}", tier.as_str()))?;
            let owner = (tier == Tier::Device).then(|| UserId::new(format!("user-{index}")));
            let joined = Joined {
                place: Destination {
                    tier,
                    region: None,
                    node: node.clone(),
                    owner: owner.transpose()?,
                },
                transit: None,
                models: vec![if tier == Tier::Cloud { &large } else { &small }.clone()],
                slots: Some(4),
                cache_tokens: 65_536,
                base_ms: 5.0,
            };
            world.tracker.join(joined, NOW);
            world.nodes.push(node);
            world.report(index as u64);
        }
        Ok(world)
    }

    fn question(&self, seed: u64) -> Question<'_> {
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
            seed,
        }
    }

    /// Loads the snapshot and decides; the place of whoever is chosen.
    pub(crate) fn decide(&self, seed: u64) -> usize {
        let snapshot = self.tracker.snapshot();
        let plan = decide(&self.question(seed), &snapshot).expect("an edge can always be asked");
        plan.choices[0].index
    }

    /// The same, and the decision as a client sees it.
    pub(crate) fn summary(&self, seed: u64) {
        let snapshot = self.tracker.snapshot();
        let question = self.question(seed);
        let plan = decide(&question, &snapshot).expect("an edge can always be asked");
        black_box(plan.summary(&question, &snapshot, 0));
    }

    /// One node's report, while a decision still holds the last snapshot.
    pub(crate) fn report(&mut self, seed: u64) {
        let held = self.tracker.snapshot();
        let at = (seed % self.nodes.len() as u64) as usize;
        self.sequence += 1;
        // Speeds that differ, so that the ranking has something to do.
        let share = ((at.wrapping_mul(2_654_435_761) >> 7) % 1_000) as f32 / 1_000.0;
        let first_token_ms = 5.0 + 40.0 * share;
        let report = CapacityReport {
            sequence: self.sequence,
            credits: if at % 32 == 7 { 0 } else { 4 },
            slots: 0,
            lease: Duration::from_secs(2),
            active: 1,
            queued: 0,
            load: share,
            battery_percent: None,
            engine: Default::default(),
            models: vec![ModelState {
                prefill_tok_s: 2_000.0 + 500.0 * share,
                decode_tok_s: 40.0 + 60.0 * share,
                first_token_ms,
                first_token_p99_ms: first_token_ms * 2.0,
                ..ModelState::default()
            }],
        };
        let rtt_ms = 0.2 + 10.0 * share;
        self.tracker.report(&self.nodes[at], &report, rtt_ms, NOW);
        drop(black_box(held));
    }
}

fn offer(id: &str, quality: f32, usd_per_million: f64) -> anyhow::Result<ModelOffer> {
    let price = Usd::from_dollars(usd_per_million).unwrap_or(Usd::ZERO);
    Ok(ModelOffer {
        id: ModelId::new(id)?,
        family: "family".into(),
        digest: None,
        numerics_id: None,
        tasks: vec![Task::Generate, Task::Chat],
        context_tokens: 4096,
        quality,
        input_per_million: price,
        output_per_million: price,
    })
}
