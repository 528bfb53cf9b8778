//! The client: Bedrock's `ConverseStream` as one more place that can answer.
//!
//! The SDK signs, dials and decodes. Everything about time is ours: its retries
//! are off because the router owns them, and its time-outs do not see a stream
//! that stalls half-way, so every wait for an event has a timer of its own.

use crate::config::{BedrockConfig, ConfigError};
use answer::Answer;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_bedrockruntime::Client;
use errors::Mapper;
use meter::Meter;
use prefill::Prefill;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::privacy::{self, Destination};
use tiermesh_core::{
    BreakerState, CandidateState, CapacityReport, Clock, Context, ErrorClass, EventStream, Infer,
    InferError, InferFuture, ModelOffer, NodeId, Outlook, Refusal, Region, Request, Sealed, Task,
    Tier,
};
use tokio::sync::Semaphore;

mod answer;
mod ask;
mod connect;
pub(crate) mod errors;
mod meter;
mod prefill;

/// What the client is handed besides its configuration.
#[derive(Clone)]
pub struct Wiring {
    /// Who signs.
    pub credentials: CredentialSource,
    /// The process's clock, the one deadlines are counted on.
    pub clock: Arc<dyn Clock>,
    /// The gateway this client belongs to. Every request carries it in
    /// [`VIA_HEADER`](crate::VIA_HEADER), and a door of the mesh refuses it.
    pub gateway: NodeId,
}

/// Where credentials come from.
#[derive(Clone)]
pub enum CredentialSource {
    /// The SDK's usual chain: environment, profile, web identity, container,
    /// instance metadata.
    Chain,
    /// Whatever this provides.
    Given(SharedCredentialsProvider),
    /// The made-up key pair that [`Standin`](crate::Standin) accepts. It needs
    /// `endpoint_url` and `region`, and nothing of it reaches AWS.
    Standin,
}

/// Why the client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Neither the configuration nor the usual chain names a region.
    #[error(
        "no AWS region found: set `region` in the cloud tier's configuration, AWS_REGION, or `region` in the AWS profile"
    )]
    NoRegion,
    /// The chain ended without credentials.
    #[error(
        "no AWS credentials found: the usual chain (AWS_ACCESS_KEY_ID, AWS_PROFILE with ~/.aws, web identity, container, instance metadata) gave none within {} ms", within.as_millis()
    )]
    NoCredentials {
        /// How long was waited.
        within: Duration,
    },
    /// Something of the chain is configured and does not work.
    #[error(
        "AWS credentials are configured and could not be loaded: check the AWS profile, its login and the role it assumes"
    )]
    Credentials(#[source] aws_credential_types::provider::error::CredentialsError),
}

/// The cloud tier: answers by asking Bedrock.
#[derive(Clone)]
pub struct BedrockCloud {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    client: Client,
    destination: Destination,
    place: String,
    via: NodeId,
    idle_timeout: Duration,
    connect_timeout: Duration,
    max_streams: u32,
    slots: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
    models: Vec<Served>,
    mapper: Mapper,
}

/// One model with what was measured of it.
struct Served {
    offer: Arc<ModelOffer>,
    bedrock_id: String,
    priced_on: String,
    takes_prefill: bool,
    meter: Meter,
}

impl fmt::Debug for BedrockCloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BedrockCloud")
            .field("place", &self.shared.place)
            .field("models", &self.shared.models.len())
            .finish_non_exhaustive()
    }
}

impl BedrockCloud {
    /// Finds region and credentials and makes the client. Nothing is sent to
    /// Bedrock yet.
    ///
    /// # Errors
    /// A configuration that does not hold, or a chain without region or
    /// credentials; see [`ConnectError`].
    pub async fn connect(config: BedrockConfig, wiring: Wiring) -> Result<Self, ConnectError> {
        connect::connect(config, wiring).await
    }

    /// Whom a permit for this place names.
    #[must_use]
    pub fn destination(&self) -> &Destination {
        &self.shared.destination
    }

    /// What this is, for people: `Amazon Bedrock in us-east-1`, or the local
    /// stand-in by that name. Every line about the cloud tier shows it.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.shared.place
    }

    /// What is offered, in the configuration's order.
    #[must_use]
    pub fn offers(&self) -> Vec<Arc<ModelOffer>> {
        let models = self.shared.models.iter();
        models.map(|served| Arc::clone(&served.offer)).collect()
    }

    /// The Bedrock id and the day of the prices of every offer, in that order.
    #[must_use]
    pub fn listing(&self) -> Vec<(&str, &str)> {
        let models = self.shared.models.iter();
        models
            .map(|served| (served.bedrock_id.as_str(), served.priced_on.as_str()))
            .collect()
    }

    /// Answers in flight.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.shared.max_streams - self.credits_free()
    }

    fn credits_free(&self) -> u32 {
        u32::try_from(self.shared.slots.available_permits()).unwrap_or(u32::MAX)
    }

    fn load(&self) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "at most ten thousand streams")]
        let share = self.active() as f32 / self.shared.max_streams as f32;
        share
    }

    /// Every model as the decision sees it, with its measured speed. First
    /// token times include the trip, so the round trip is given as 0. The
    /// breaker in front is the dispatcher's and shows as closed.
    #[must_use]
    pub fn candidates(&self) -> Vec<CandidateState> {
        let at = &self.shared.destination;
        let (credits_free, load) = (self.credits_free(), self.load());
        let models = self.shared.models.iter();
        models
            .map(|served| CandidateState {
                node: at.node.clone(),
                tier: at.tier,
                region: at.region.clone(),
                owner: None,
                transit: None,
                model: Arc::clone(&served.offer),
                state: served.meter.state(),
                rtt_ms: 0.0,
                credits_free,
                load,
                battery_percent: None,
                report_age: Duration::ZERO,
                breaker: BreakerState::Closed,
                outlook: Outlook::default(),
            })
            .collect()
    }

    /// The same as a node would report it; `models` follows [`Self::offers`].
    #[must_use]
    pub fn report(&self, sequence: u64, lease: Duration) -> CapacityReport {
        CapacityReport {
            sequence,
            credits: self.credits_free(),
            // How many it works on at once, the provider does not tell.
            slots: 0,
            lease,
            active: self.active(),
            queued: 0,
            load: self.load(),
            battery_percent: None,
            engine: Default::default(),
            models: self.shared.models.iter().map(|m| m.meter.state()).collect(),
        }
    }

    async fn start(
        &self,
        request: Arc<Sealed<Request>>,
        context: Context,
    ) -> Result<EventStream, Refusal> {
        let shared = &self.shared;
        let at = shared.pick(&request, &context)?;
        let started = shared.clock.now();
        if context.deadline.is_over(started) {
            return Err(InferError::deadline_exceeded());
        }
        let slot = Arc::clone(&shared.slots)
            .try_acquire_owned()
            .map_err(|_| shared.busy())?;
        let pass = privacy::permit(&request, &shared.destination)?;
        let content = request.open(&pass, &shared.destination.node)?;
        let served = &shared.models[at];
        let said = &context.continuation;
        let prefill = Prefill::of(said, served.takes_prefill, &shared.place)?;
        let asked = ask::Asked {
            meta: request.meta(),
            content,
            prefill: &prefill,
        };
        let call = ask::call(&shared.client, &served.bedrock_id, &asked)?;
        let via = ask::via(&context.via, &shared.via);
        // Headers come once the model begins; a connection has its own bound.
        let idle = shared.idle_timeout + shared.connect_timeout;
        let wait = context
            .deadline
            .remaining(started)
            .map_or(idle, |left| left.min(idle));
        let sending = Box::pin(
            call.customize()
                .mutate_request(move |r| {
                    r.headers_mut().insert(crate::VIA_HEADER, via.clone());
                })
                .send(),
        );
        let output = match tokio::time::timeout(wait, sending).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(shared.mapper.refusal(error, &served.bedrock_id)),
            Err(_) if context.deadline.is_over(shared.clock.now()) => {
                return Err(InferError::deadline_exceeded());
            }
            Err(_) => return Err(shared.mapper.silent(idle)),
        };
        let answer = Answer::new(
            Arc::clone(shared),
            at,
            output,
            slot,
            answer::Terms {
                started,
                deadline: context.deadline,
                most_input: ask::most_tokens(content) + prefill.text.len() as u64,
                most_output: ask::most_output(request.meta(), &prefill),
                before: prefill,
            },
        );
        Ok(answer.into_stream())
    }
}

impl Infer for BedrockCloud {
    fn infer(&self, request: Arc<Sealed<Request>>, context: Context) -> InferFuture<'_> {
        Box::pin(self.start(request, context))
    }
}

impl Shared {
    /// The model to ask, by position, or why none will.
    fn pick(&self, request: &Sealed<Request>, context: &Context) -> Result<usize, Refusal> {
        let meta = request.meta();
        if !context.scope.contains(Tier::Cloud) {
            return Err(InferError::new(
                ErrorClass::Forbidden,
                "OUT_OF_SCOPE",
                format!("the request may not go on to {}", self.place),
            ));
        }
        if !matches!(meta.task, Task::Generate | Task::Chat) {
            return Err(InferError::new(
                ErrorClass::NotFound,
                "TASK_NOT_SERVED",
                format!("{} does not serve `{}`", self.place, meta.task.as_str()),
            ));
        }
        let found = self.models.iter().position(|m| match &context.model {
            Some(id) => &m.offer.id == id,
            None => meta.model.matches(&m.offer.id, &m.offer.family),
        });
        found.ok_or_else(|| {
            let name = context
                .model
                .as_ref()
                .map_or(meta.model.as_str(), |id| id.as_str());
            InferError::new(
                ErrorClass::NotFound,
                "MODEL_NOT_FOUND",
                format!("{} does not offer model `{name}`", self.place),
            )
        })
    }

    /// All slots are taken: one frees up about every mean length of a stream
    /// divided by how many there are.
    fn busy(&self) -> Refusal {
        let longest = self.models.iter().map(|m| m.meter.mean_length()).max();
        let wait = longest.unwrap_or_default() / self.max_streams;
        InferError::new(
            ErrorClass::Exhausted,
            "BEDROCK_BUSY",
            format!(
                "all {} streams to {} are taken",
                self.max_streams, self.place
            ),
        )
        .retry_after(wait.max(Duration::from_millis(10)))
    }
}

fn destination(node: NodeId, region: Option<Region>) -> Destination {
    Destination {
        tier: Tier::Cloud,
        region,
        node,
        owner: None,
    }
}
