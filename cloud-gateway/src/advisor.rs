//! The advisor: small models of Bedrock that are asked what a request is, how
//! hard it is, and where they would send it.
//!
//! It only ever moves the estimate of complexity. It runs where the deadline
//! leaves room, within a time, a budget and behind breakers of its own; what
//! it said of a prompt is kept for the next like it. A prompt goes to it only
//! with a permit for the cloud, as to any other place. Its absence, and its
//! nonsense, leave the estimate to the prompt's length.

use crate::advisor::asks::{Advice, Role};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tiermesh_bedrock::BedrockCloud;
use tiermesh_core::privacy::permit;
use tiermesh_core::{
    CandidateState, Clock, Content, Context, Deadline, ErrorClass, Event, Infer, ModelId,
    PermitScope, Request, RequestMeta, Sealed, Task, Tier, Time, Usd,
};
use tiermesh_router::{
    Advise, BreakerConfig, Breakers, Estimator, LookFuture, Outcome, PromptLength,
};

mod asks;
mod config;

pub use config::AdvisorConfig;

/// The money's window.
const HOUR: Duration = Duration::from_secs(3_600);

/// Tokens that are billed around the messages of one question, at most.
const FRAMES: u64 = 64;

/// Asks small models about requests.
pub(crate) struct Advisor {
    cloud: Arc<BedrockCloud>,
    roles: Vec<(Role, ModelId)>,
    breakers: Arc<Breakers>,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    room: u32,
    cache: usize,
    hourly: Usd,
    kept: Mutex<Kept>,
    /// Requests that were put to models.
    asked: AtomicU64,
}

/// What is remembered, each bounded by `cache`, the oldest forgotten first.
#[derive(Default)]
struct Kept {
    by_content: BTreeMap<u64, Advice>,
    order: VecDeque<u64>,
    by_request: BTreeMap<String, f64>,
    requests: VecDeque<String>,
    since: Option<Time>,
    spent: Usd,
}

impl Advisor {
    /// An advisor of the models that `cloud` serves; `epoch` draws jitter.
    pub(crate) fn new(
        config: &AdvisorConfig,
        cloud: BedrockCloud,
        clock: Arc<dyn Clock>,
        epoch: u64,
    ) -> Self {
        let breaker = BreakerConfig {
            open: Duration::from_millis(config.breaker_open_ms),
            ..BreakerConfig::default()
        };
        Self {
            roles: config.roles(),
            cloud: Arc::new(cloud),
            breakers: Breakers::new(breaker, epoch),
            clock,
            timeout: Duration::from_millis(config.timeout_ms),
            room: config.room,
            cache: config.cache as usize,
            hourly: Usd::from_dollars(config.max_usd_per_hour).unwrap_or_default(),
            kept: Mutex::default(),
            asked: AtomicU64::new(0),
        }
    }

    async fn look_at(
        &self,
        request: &Arc<Sealed<Request>>,
        context: &Context,
        left: Option<Duration>,
    ) {
        let needs = self.timeout.saturating_mul(self.room);
        let writes = matches!(request.meta().task, Task::Generate | Task::Chat);
        let late = left.is_some_and(|left| left < needs);
        if !writes || late || !context.scope.contains(Tier::Cloud) {
            return;
        }
        let at = self.cloud.destination();
        let Ok(pass) = permit(request, at) else {
            return;
        };
        let Ok(content) = request.open(&pass, &at.node) else {
            return;
        };
        let meta = request.meta();
        let digest = digest(meta, content);
        let known = self.lock().by_content.get(&digest).cloned();
        let advice = match known {
            Some(advice) => advice,
            None => {
                let advice = self.ask_all(meta, content).await;
                self.keep(digest, &advice);
                advice
            }
        };
        if let Some(complexity) = advice.complexity() {
            self.tell(meta.request_id.as_str(), complexity);
        }
    }

    /// Asks every role at once; who is not done in time has said nothing.
    async fn ask_all(&self, meta: &RequestMeta, content: &Content) -> Advice {
        let mut advice = Advice::default();
        let asks: FuturesUnordered<_> = self
            .roles
            .iter()
            .map(|(role, model)| self.ask(*role, model, meta, content))
            .collect();
        if asks.is_empty() {
            return advice;
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        let over = Box::pin(tokio::time::sleep(self.timeout));
        let mut answers = asks.take_until(over);
        while let Some((role, text)) = answers.next().await {
            if let Some(text) = text {
                advice.hear(role, &text);
            }
        }
        advice
    }

    async fn ask(
        &self,
        role: Role,
        model: &ModelId,
        meta: &RequestMeta,
        content: &Content,
    ) -> (Role, Option<String>) {
        let Some(candidate) = self.candidate(model) else {
            return (role, None);
        };
        if candidate.credits_free == 0 {
            return (role, None);
        }
        let now = self.clock.now();
        let Ok(ticket) = self.breakers.admit(&candidate, now) else {
            return (role, None);
        };
        let Some(question) = role.question(meta, content) else {
            return (role, None);
        };
        // A token has at least a byte, and messages have frames.
        let prompt = question.meta.content_bytes as u64 + FRAMES;
        let most = u64::from(question.meta.sampling.max_tokens);
        let Some(money) = self.reserve(candidate.model.cost(prompt, most), now) else {
            return (role, None);
        };
        // A timer of its own, so that one who is cut off at the end of the
        // look has settled with its breaker before.
        let within = self.timeout.mul_f64(0.95);
        let read = self.read(question, model.clone(), now + within);
        let answer = tokio::time::timeout(within, Box::pin(read)).await;
        let answer = answer.unwrap_or(Err(Unheard::Failed));
        let outcome = match &answer {
            Ok(_) => Outcome::Success,
            Err(Unheard::Failed) => Outcome::Failure,
            Err(Unheard::Full) => Outcome::Neutral,
        };
        ticket.settle(outcome, self.clock.now());
        let text = match answer {
            Ok((text, cost)) => {
                money.settle(cost);
                Some(text)
            }
            Err(Unheard::Full) => {
                money.settle(Usd::ZERO);
                None
            }
            Err(Unheard::Failed) => None,
        };
        (role, text)
    }

    fn candidate(&self, model: &ModelId) -> Option<CandidateState> {
        let all = self.cloud.candidates();
        all.into_iter().find(|c| &c.model.id == model)
    }

    /// The whole answer and its price.
    async fn read(
        &self,
        question: Request,
        model: ModelId,
        over: Time,
    ) -> Result<(String, Usd), Unheard> {
        let context = Context {
            deadline: Deadline {
                first_token: None,
                total: Some(over),
            },
            scope: PermitScope::only(Tier::Cloud),
            model: Some(model),
            ..Context::default()
        };
        let sealed = Arc::new(Sealed::new(question));
        let events = self.cloud.infer(sealed, context).await;
        let mut events = events.map_err(|refusal| match refusal.class {
            ErrorClass::Exhausted => Unheard::Full,
            _ => Unheard::Failed,
        })?;
        let mut text = String::new();
        while let Some(event) = events.next().await {
            match event.map_err(|_| Unheard::Failed)? {
                Event::Tokens { items, .. } => {
                    text.extend(items.iter().map(|token| token.text.as_str()));
                }
                Event::Done(done) => return Ok((text, done.cost)),
                _ => {}
            }
        }
        Err(Unheard::Failed)
    }

    /// Money for one question, from this hour's; none when that is spent.
    fn reserve(&self, cost: Usd, now: Time) -> Option<Money<'_>> {
        let mut kept = self.lock();
        if kept.since.is_none_or(|since| now.since(since) >= HOUR) {
            (kept.since, kept.spent) = (Some(now), Usd::ZERO);
        }
        let after = kept.spent + cost;
        if after > self.hourly {
            return None;
        }
        kept.spent = after;
        Some(Money {
            advisor: self,
            reserved: cost,
        })
    }

    fn keep(&self, digest: u64, advice: &Advice) {
        // What came to nothing is asked again.
        if advice.complexity().is_none() {
            return;
        }
        let mut kept = self.lock();
        if kept.by_content.insert(digest, advice.clone()).is_none() {
            kept.order.push_back(digest);
        }
        while kept.order.len() > self.cache {
            if let Some(oldest) = kept.order.pop_front() {
                kept.by_content.remove(&oldest);
            }
        }
    }

    fn tell(&self, request: &str, complexity: f64) {
        let mut kept = self.lock();
        let name = request.to_owned();
        if kept.by_request.insert(name.clone(), complexity).is_none() {
            kept.requests.push_back(name);
        }
        while kept.requests.len() > self.cache {
            if let Some(oldest) = kept.requests.pop_front() {
                kept.by_request.remove(&oldest);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unheard {
    /// It was never sent: there was no room.
    Full,
    Failed,
}

/// Money that is set aside. What is not settled was spent: nobody knows how
/// much of it a provider bills.
struct Money<'a> {
    advisor: &'a Advisor,
    reserved: Usd,
}

impl Money<'_> {
    fn settle(self, cost: Usd) {
        let mut kept = self.advisor.lock();
        let rest = kept
            .spent
            .as_nanos()
            .saturating_sub(self.reserved.as_nanos());
        kept.spent = Usd::from_nanos(rest.saturating_add(cost.as_nanos()));
    }
}

impl Advise for Advisor {
    fn look<'a>(
        &'a self,
        request: &'a Arc<Sealed<Request>>,
        context: &'a Context,
        left: Option<Duration>,
    ) -> LookFuture<'a> {
        Box::pin(self.look_at(request, context, left))
    }
}

impl Estimator for Advisor {
    /// What it was told of the request, else by the prompt's length.
    fn complexity(&self, meta: &RequestMeta) -> f64 {
        let told = self
            .lock()
            .by_request
            .get(meta.request_id.as_str())
            .copied();
        told.unwrap_or_else(|| PromptLength.complexity(meta))
    }
}

/// Tells prompts apart in this process; two that are taken for one get one
/// estimate, and nothing worse. A user's prompts say nothing of another's.
fn digest(meta: &RequestMeta, content: &Content) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    meta.user_id.hash(&mut hasher);
    match content {
        Content::Prompt(text) => text.hash(&mut hasher),
        Content::Messages(messages) => {
            for message in messages {
                (message.role as u8).hash(&mut hasher);
                message.text.hash(&mut hasher);
            }
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
