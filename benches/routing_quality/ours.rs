//! Our router in the simulation: the tracker and the decision that the
//! dispatcher uses, with virtual time.

use crate::fleet::{Fleet, Kind};
use crate::rng::mix;
use crate::strategy::{Ask, Known, Pick, Strategy};
use crate::trace::BLOCK_TOKENS;
use anyhow::Context as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use tiermesh_core::{
    CapacityReport, Content, Context, Deadline, Destination, ModelId, ModelOffer, NodeId,
    RawRequest, Region, RequestMeta, Task, Time, Usd, UserId,
};
use tiermesh_decision::record::Recorder;
use tiermesh_decision::state::{Joined, Lengths, Opened, StreamId, Tracker};
use tiermesh_decision::{Choice, Policy, Question, Warm, decide};

struct Place {
    id: NodeId,
    offer: Arc<ModelOffer>,
    joined: Joined,
    rtt_ms: f32,
}

/// The decision at work.
pub(crate) struct Ours<'a> {
    policy: &'a Policy,
    tracker: Tracker,
    lengths: Lengths,
    places: Vec<Place>,
    by_id: BTreeMap<NodeId, usize>,
    users: Vec<UserId>,
    meta: RequestMeta,
    own: NodeId,
    seed: u64,
    warm: Vec<Warm>,
    /// The choice of the request that is being placed.
    picked: Option<(Choice, u32, u32)>,
    /// Who was decided before.
    seen: BTreeSet<usize>,
    /// What is under way, to learn how long its answer was.
    asked: BTreeMap<usize, (RequestMeta, Vec<u64>)>,
    log: Option<(Recorder, BufWriter<File>)>,
}

fn offer(kind: &Kind) -> anyhow::Result<ModelOffer> {
    let (input, output) = kind.prices();
    Ok(ModelOffer {
        id: ModelId::new("model")?,
        family: "family".into(),
        digest: None,
        numerics_id: None,
        tasks: vec![Task::Generate],
        context_tokens: u32::try_from(kind.kv_tokens).unwrap_or(u32::MAX),
        quality: kind.quality,
        input_per_million: input,
        output_per_million: output,
    })
}

impl<'a> Ours<'a> {
    pub(crate) fn new(
        fleet: &Fleet,
        policy: &'a Policy,
        users: u32,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let mut places = Vec::new();
        for (kind, number) in fleet.nodes() {
            let kind = &fleet.kinds[kind];
            let id = NodeId::new(format!("{}-{number}", kind.name))?;
            let offer = Arc::new(offer(kind)?);
            let owner = kind.owned.then(|| UserId::new(format!("user-{number}")));
            let joined = Joined {
                place: Destination {
                    tier: kind.tier(),
                    region: Some(Region::new(&kind.zone)?),
                    node: id.clone(),
                    owner: owner.transpose()?,
                },
                transit: None,
                models: vec![offer.clone()],
                slots: Some(kind.slots),
                cache_tokens: kind.kv_tokens / 2,
                base_ms: kind.base_ms as f32,
            };
            places.push(Place {
                id,
                offer,
                joined,
                rtt_ms: kind.rtt_ms as f32,
            });
        }
        let raw = RawRequest {
            request_id: "r".into(),
            user_id: "user-0".into(),
            policy: policy.name.to_string(),
            content: Some(Content::Prompt("simulated".into())),
            max_tokens: Some(fleet.deadline.max_tokens),
            ..RawRequest::default()
        };
        let by_id = places.iter().enumerate();
        let by_id = by_id.map(|(at, place)| (place.id.clone(), at)).collect();
        let users = (0..users).map(|user| UserId::new(format!("user-{user}")));
        let mut ours = Self {
            policy,
            tracker: Tracker::new(seed),
            lengths: Lengths::default(),
            by_id,
            users: users.collect::<Result<_, _>>()?,
            meta: raw.validate()?.meta,
            own: NodeId::new("gateway")?,
            seed,
            warm: Vec::new(),
            picked: None,
            asked: BTreeMap::new(),
            seen: BTreeSet::new(),
            log: None,
            places,
        };
        for node in 0..ours.places.len() {
            ours.joined(node, Time::ZERO);
        }
        Ok(ours)
    }

    /// Writes every decision from now on.
    pub(crate) fn record(&mut self, path: &Path) -> anyhow::Result<()> {
        let file = File::create(path)
            .with_context(|| format!("the log of decisions {}", path.display()))?;
        self.log = Some((Recorder::default(), BufWriter::new(file)));
        Ok(())
    }

    /// Answers, observed over predicted first-token time, and the share that
    /// kept its predicted 99th percentile.
    pub(crate) fn calibration(&self) -> (f64, f64, f64) {
        let mut sums = (0.0, 0.0, 0.0);
        for (_, _, known) in self.tracker.calibration() {
            let samples = known.samples();
            sums.0 += samples;
            sums.1 += samples * known.ratio();
            sums.2 += samples * known.within_p99();
        }
        let all = sums.0.max(1.0);
        (sums.0, sums.1 / all, sums.2 / all)
    }
}

impl Strategy for Ours<'_> {
    fn pick(&mut self, ask: &Ask<'_>, _nodes: &[Known], hold: Option<u32>) -> Pick {
        let user = &self.users[ask.user as usize];
        self.meta.user_id.clone_from(user);
        // The estimate of tokens is a third of the bytes and four.
        self.meta.content_bytes = (ask.prompt.saturating_sub(4) as usize) * 3;
        self.meta.first_token = ask.due_first.map(|due| due.since(ask.now));
        self.meta.total = Some(ask.due_end.since(ask.now));
        let context = Context {
            deadline: Deadline {
                first_token: ask.due_first,
                total: Some(ask.due_end),
            },
            ..Context::default()
        };
        self.tracker.warm(ask.blocks, BLOCK_TOKENS, &mut self.warm);
        let answer = self
            .lengths
            .expect(&self.meta, Lengths::beginnings(ask.blocks).copied());
        let snapshot = self.tracker.snapshot();
        let question = Question {
            meta: &self.meta,
            context: &context,
            policy: self.policy,
            own: &self.own,
            zone: None,
            complexity: None,
            prompt_tokens: None,
            answer,
            warm: &self.warm,
            hold,
            now: ask.now,
            seed: mix(self.seed ^ ask.id as u64),
        };
        let decided = decide(&question, &snapshot);
        if let Some((recorder, file)) = &mut self.log {
            let outcome = decided.as_ref();
            let outcome = outcome.map_err(|none| none.constraint.map(|by| by.code()));
            let lines = recorder.decision(&question, &snapshot, outcome);
            // A full disk ends the log, not the simulation.
            if file.write_all(lines.as_bytes()).is_err() {
                self.log = None;
            }
        }
        let Ok(plan) = decided else {
            return Pick::Nobody;
        };
        if let Some(wanted) = plan.wanted.filter(|_| self.seen.insert(ask.id)) {
            self.tracker.wanted(&wanted, ask.now);
        }
        if let Some(hold) = plan.hold {
            let pool = plan.choices[0].candidate(&snapshot).outlook.pool;
            return Pick::Hold { pool, hold };
        }
        let chosen = plan.choices.iter().find_map(|choice| {
            let node = *self.by_id.get(&choice.candidate(&snapshot).node)?;
            (!ask.refused.contains(&node)).then_some((*choice, node))
        });
        let Some((choice, node)) = chosen else {
            return Pick::Nobody;
        };
        let warm = self.warm.iter().find(|warm| warm.index == choice.index);
        let cold = ask.prompt - warm.map_or(0, |warm| warm.tokens.min(ask.prompt - 1));
        let likely = answer.map_or(200, |answer| answer.likely);
        self.picked = Some((choice, cold, likely));
        Pick::Node(node)
    }

    fn held(&mut self, pool: u32, until: Time, now: Time) {
        self.tracker.hold(pool, until, now);
    }

    fn let_go(&mut self, pool: u32, now: Time) {
        self.tracker.unhold(pool, now);
    }

    fn sent(&mut self, ask: &Ask<'_>, _node: usize) {
        let Some((choice, cold_tokens, likely_tokens)) = self.picked.take() else {
            return;
        };
        let opened = Opened {
            index: choice.index,
            estimate: choice.estimate,
            cold_tokens,
            likely_tokens,
        };
        let beginnings = Lengths::beginnings(ask.blocks).copied().collect();
        self.asked.insert(ask.id, (self.meta.clone(), beginnings));
        let prompt = (ask.blocks, BLOCK_TOKENS);
        self.tracker
            .opened(StreamId(ask.id as u64), &opened, prompt, ask.now);
    }

    fn first_token(&mut self, job: usize, _node: usize, _took_ms: f64, now: Time) {
        self.tracker.first_token(StreamId(job as u64), now);
    }

    fn closed(&mut self, job: usize, written: Option<u32>, now: Time) {
        self.tracker.closed(StreamId(job as u64), written, now);
        if let (Some((meta, beginnings)), Some(tokens)) = (self.asked.remove(&job), written) {
            self.lengths.record(&meta, beginnings.into_iter(), tokens);
        }
    }

    fn report(&mut self, node: usize, report: &CapacityReport, now: Time) {
        let place = &self.places[node];
        self.tracker.report(&place.id, report, place.rtt_ms, now);
    }

    fn heard(&mut self, node: usize, now: Time) {
        self.tracker.heard(&self.places[node].id, now);
    }

    fn tick(&mut self, now: Time) {
        self.tracker.tick(now);
    }

    fn left(&mut self, node: usize) {
        self.tracker.leave(&self.places[node].id);
    }

    fn joined(&mut self, node: usize, now: Time) {
        self.tracker.join(self.places[node].joined.clone(), now);
    }

    fn loading(&mut self, node: usize, until: Time, now: Time) {
        let id = &self.places[node].id;
        self.tracker.cold(id);
        self.tracker.ready_at(id, Some(until), now);
    }

    fn prices(&mut self, node: usize, input: f64, output: f64, now: Time) {
        let usd = |per_token: f64| Usd::from_dollars(per_token * 1e6).unwrap_or(Usd::ZERO);
        let place = &mut self.places[node];
        let mut offer = (*place.offer).clone();
        (offer.input_per_million, offer.output_per_million) = (usd(input), usd(output));
        place.offer = Arc::new(offer);
        place.joined.models = vec![place.offer.clone()];
        self.tracker.offer(&place.id, &place.offer, now);
    }
}
