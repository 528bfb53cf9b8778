//! The simulation: events in virtual time, one gateway, one strategy.

use crate::fleet::Fleet;
use crate::load::Job;
use crate::rng::{Rng, mix};
use crate::scenario::Happens;
use crate::server::{Held, Server};
use crate::strategy::{Ask, Known, Pick, Strategy};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use tiermesh_core::Time;
use tiermesh_decision::{Hold, Line, Turn};

mod gateway;
mod happens;
mod holding;

/// Microseconds between two reports of a node.
const REPORT_US: u64 = 250_000;
/// A node that is away is known to be after its lease.
const LEASE_US: u64 = 1_500_000;
/// Any dispatcher leaves a node whose running streams are silent this long.
const STALL_US: u64 = 2_000_000;
/// Times a request is asked for, all together.
const MOST_TRIES: u32 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(usize),
    AtNode {
        node: usize,
        job: usize,
        attempt: u32,
    },
    Begin {
        node: usize,
    },
    First {
        node: usize,
        job: usize,
        attempt: u32,
    },
    End {
        node: usize,
        job: usize,
        attempt: u32,
    },
    SeeFirst {
        node: usize,
        job: usize,
        attempt: u32,
    },
    SeeEnd {
        job: usize,
        attempt: u32,
    },
    HoldOver {
        job: usize,
        until: u64,
    },
    SeeRefusal {
        node: usize,
        job: usize,
        attempt: u32,
    },
    Tick,
    Happens(usize),
    Known {
        node: usize,
        there: bool,
    },
}

/// What became of a job.
#[derive(Clone, Default)]
pub(crate) struct Fate {
    pub(crate) attempt: u32,
    pub(crate) node: Option<usize>,
    pub(crate) sent: u64,
    pub(crate) first: Option<u64>,
    pub(crate) done: Option<u64>,
    pub(crate) gave_up: bool,
    refused_by: Vec<usize>,
    /// The pool that it is held back for, until when, and its place in line.
    held: Option<(u32, Hold, Turn)>,
    /// When its present attempt began on a slot, and how long its parts take.
    begun: Option<(u64, u64, u64)>,
    /// Tokens that earlier attempts wrote.
    written: u32,
}

/// What a run cost and used.
#[derive(Default, Clone)]
pub(crate) struct Spent {
    pub(crate) usd: f64,
    pub(crate) joules: f64,
    pub(crate) hit_tokens: u64,
    pub(crate) by_tier: [f64; 3],
}

/// Factors on a job's reading and writing time: the same on every node of a
/// kind, in every strategy's run and for the bound.
pub(crate) fn noise(seed: u64, job: usize, kind: usize, spread: f64) -> (f64, f64) {
    let mut rng = Rng::new(mix(seed ^ (job as u64) << 20 ^ kind as u64));
    let mut one = || libm::exp(spread * rng.normal() - 0.5 * spread * spread);
    (one(), one())
}

/// One run.
pub(crate) struct Sim<'a, S: Strategy> {
    fleet: &'a Fleet,
    jobs: &'a [Job],
    pub(crate) fates: Vec<Fate>,
    servers: Vec<Server>,
    known: Vec<Known>,
    /// Who is held back, by pool.
    held: BTreeMap<u32, Line<usize>>,
    /// The gateway found the node silent and left it alone.
    silent_since: Vec<Option<u64>>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    order: u64,
    now: u64,
    plan: Vec<(u64, Happens)>,
    pub(crate) strategy: S,
    pub(crate) spent: Spent,
    unfinished: usize,
    reports: u64,
    seed: u64,
}

impl<'a, S: Strategy> Sim<'a, S> {
    pub(crate) fn new(
        fleet: &'a Fleet,
        jobs: &'a [Job],
        plan: Vec<(u64, Happens)>,
        strategy: S,
        seed: u64,
    ) -> Self {
        let (mut servers, mut known) = (Vec::new(), Vec::new());
        for (place, number) in fleet.nodes() {
            let kind = &fleet.kinds[place];
            servers.push(Server::new(place, kind.slots, kind.queue, kind.kv_tokens));
            let prices = kind.prices();
            known.push(Known {
                tier: kind.tier(),
                owner: kind.owned.then_some(number as u32),
                context: kind.kv_tokens,
                there: true,
                open: 0,
                reported_ms: kind.base_ms,
                prefill_tok_s: kind.prefill_tok_s,
                rtt_ms: kind.rtt_ms,
                prices: (prices.0.as_dollars() / 1e6, prices.1.as_dollars() / 1e6),
            });
        }
        let mut sim = Self {
            fleet,
            jobs,
            fates: vec![Fate::default(); jobs.len()],
            held: BTreeMap::new(),
            silent_since: vec![None; servers.len()],
            servers,
            known,
            events: BinaryHeap::new(),
            order: 0,
            now: 0,
            plan,
            strategy,
            spent: Spent::default(),
            unfinished: jobs.len(),
            reports: 0,
            seed,
        };
        // Reports are in before the first request.
        sim.at(0, Event::Tick);
        for (job, asked) in jobs.iter().enumerate() {
            sim.at(asked.at.max(1), Event::Arrive(job));
        }
        for at in 0..sim.plan.len() {
            let when = sim.plan[at].0;
            sim.at(when, Event::Happens(at));
        }
        sim
    }

    fn at(&mut self, when: u64, event: Event) {
        self.order += 1;
        self.events.push(Reverse((when, self.order, event)));
    }

    /// Runs until every job has its fate.
    pub(crate) fn run(mut self) -> Self {
        while let Some(Reverse((when, _, event))) = self.events.pop() {
            if self.unfinished == 0 {
                break;
            }
            self.now = when;
            self.happen(event);
        }
        self
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(job) => self.place(job),
            Event::HoldOver { job, until } => self.hold_over(job, until),
            Event::AtNode { node, job, attempt } => self.at_node(node, job, attempt),
            Event::Begin { node } => self.begin(node),
            Event::First { node, job, attempt } => {
                if self.goes_on(node, event) && self.is_current(job, attempt) {
                    let back = self.half_way(node);
                    self.at(self.now + back, Event::SeeFirst { node, job, attempt });
                }
            }
            Event::End { node, job, attempt } => {
                if self.goes_on(node, event) {
                    self.end(node, job, attempt);
                }
            }
            Event::SeeFirst { node, job, attempt } => self.see_first(node, job, attempt),
            Event::SeeEnd { job, attempt } => self.see_end(job, attempt),
            Event::SeeRefusal { node, job, attempt } => self.see_refusal(node, job, attempt),
            Event::Tick => self.tick(),
            Event::Happens(at) => self.scenario(at),
            Event::Known { node, there } => self.learn(node, there),
        }
    }

    /// False when the node is dead, or stalls and the event comes later.
    fn goes_on(&mut self, node: usize, event: Event) -> bool {
        let server = &self.servers[node];
        if server.dead {
            return false;
        }
        if server.stalled_until > self.now {
            let until = server.stalled_until;
            // What was left of it is left after the stall.
            self.at(until, event);
            return false;
        }
        true
    }

    fn is_current(&self, job: usize, attempt: u32) -> bool {
        let fate = &self.fates[job];
        fate.attempt == attempt && fate.done.is_none() && !fate.gave_up
    }

    fn half_way(&self, node: usize) -> u64 {
        (self.known[node].rtt_ms * 500.0) as u64
    }

    fn at_node(&mut self, node: usize, job: usize, attempt: u32) {
        if self.servers[node].dead || !self.is_current(job, attempt) {
            return;
        }
        let asked = &self.jobs[job];
        let kv = u64::from(asked.prompt) + u64::from(asked.output);
        if self.servers[node].admit(Held { job, attempt, kv }) {
            self.begin(node);
        } else {
            let back = self.half_way(node);
            self.at(self.now + back, Event::SeeRefusal { node, job, attempt });
        }
    }

    /// Begins as many as may.
    fn begin(&mut self, node: usize) {
        if self.servers[node].dead || !self.goes_on(node, Event::Begin { node }) {
            return;
        }
        while let Some(held) = self.servers[node].next() {
            let kind = &self.fleet.kinds[self.servers[node].kind];
            let asked = &self.jobs[held.job];
            let written = self.fates[held.job].written;
            let hit = self.servers[node].read(&asked.blocks).min(asked.prompt - 1);
            let cold = asked.prompt - hit + written;
            let (read, write) = kind.service_ms(cold, asked.output - written.min(asked.output - 1));
            let (fast, slow) = noise(self.seed, held.job, self.servers[node].kind, kind.noise);
            let (read, write) = (read * fast, write * slow);
            self.begin_at(node, held, self.now, (read, write));
            self.spent.hit_tokens += u64::from(hit);
        }
    }

    fn begin_at(&mut self, node: usize, held: Held, when: u64, ms: (f64, f64)) {
        let (read, write) = ((ms.0 * 1e3) as u64, (ms.1 * 1e3) as u64);
        let Held { job, attempt, .. } = held;
        self.fates[job].begun = Some((when, read, write));
        self.at(when + read, Event::First { node, job, attempt });
        self.at(when + read + write, Event::End { node, job, attempt });
    }

    fn end(&mut self, node: usize, job: usize, attempt: u32) {
        if !self.servers[node].end(job, attempt) {
            return;
        }
        self.begin(node);
        let output = self.jobs[job].output;
        let written = output - self.fates[job].written.min(output);
        self.charge(node, self.jobs[job].prompt, written);
        let back = self.half_way(node);
        self.at(self.now + back, Event::SeeEnd { job, attempt });
    }

    fn charge(&mut self, node: usize, read: u32, written: u32) {
        let (input, output) = self.known[node].prices;
        let kind = &self.fleet.kinds[self.servers[node].kind];
        let usd = input * f64::from(read) + output * f64::from(written);
        self.spent.usd += usd;
        self.spent.by_tier[self.known[node].tier as usize] += 1.0;
        self.spent.joules += kind.joules_per_1k * f64::from(read + written) / 1e3;
    }

    fn ask(&mut self, job: usize, hold: Option<u32>) -> Pick {
        let asked = &self.jobs[job];
        let fate = &self.fates[job];
        let ask = Ask {
            id: job,
            prompt: asked.prompt + fate.written,
            user: asked.user,
            blocks: &asked.blocks,
            now: Time::from_us(self.now),
            due_first: fate
                .first
                .is_none()
                .then_some(Time::from_us(asked.due_first)),
            due_end: Time::from_us(asked.due_end),
            max_tokens: self.fleet.deadline.max_tokens,
            refused: &fate.refused_by,
        };
        let hold = hold.filter(|_| fate.first.is_none());
        let picked = self.strategy.pick(&ask, &self.known, hold);
        if let Pick::Node(node) = picked {
            self.strategy.sent(&ask, node);
        }
        picked
    }
}
