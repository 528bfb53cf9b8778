//! The engine as something that can answer: [`Infer`] on this machine.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use tiermesh_core::privacy::permit;
use tiermesh_core::{
    Attempt, AttemptOutcome, Clock, Context, Continuation, Destination, Done, ErrorClass, Event,
    EventStream, Infer, InferError, InferFuture, ModelId, ModelOffer, Refusal, Request,
    RequestMeta, Sampling, Sealed, Usage, Usd,
};

use crate::chat::PromptError;
use crate::engine::{Engine, Job, SubmitError};
use crate::loaded::ModelInfo;
use crate::sampler::{SamplingOptions, SamplingParams};
use crate::stream::{Finished, Output, StreamError, TokenStream};

/// From this much text on, encoding it is left to a thread that may block.
const BLOCKING_FROM: usize = 8 << 10;

/// What this machine asks for a million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    /// Of the prompt.
    pub input_per_million: Usd,
    /// Of the answer.
    pub output_per_million: Usd,
}

/// Answers with the engine of this machine. It opens content only with a
/// permit for this machine.
pub struct LocalInfer {
    engine: Arc<Engine>,
    destination: Destination,
    offers: Vec<Arc<ModelOffer>>,
    clock: Arc<dyn Clock>,
}

impl LocalInfer {
    /// `destination` is this machine as permits name it; `clock` is the one
    /// deadlines are given on.
    #[must_use]
    pub fn new(
        engine: Arc<Engine>,
        destination: Destination,
        prices: Prices,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let offers = engine.models().map(|info| Arc::new(offer(info, prices)));
        Self {
            offers: offers.collect(),
            engine,
            destination,
            clock,
        }
    }

    /// What it offers, in the order of [`Engine::models`].
    #[must_use]
    pub fn offers(&self) -> &[Arc<ModelOffer>] {
        &self.offers
    }

    /// The engine behind it.
    #[must_use]
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    async fn start(
        &self,
        request: Arc<Sealed<Request>>,
        context: Context,
    ) -> Result<EventStream, Refusal> {
        let now = self.clock.now();
        if context.deadline.is_over(now) {
            return Err(InferError::deadline_exceeded());
        }
        let meta = request.meta();
        let offer = self.choose(meta, context.model.as_ref())?;
        let permit = permit(&request, &self.destination)?;
        let content = request.open(&permit, &self.destination.node)?;
        let said = context.continuation.said();
        let emitted = self.emitted(&offer.id, context.continuation)?;
        // Another model's text has another number of tokens here; the answer
        // still ends after as many as the client asked for.
        let left = u64::from(meta.sampling.max_tokens).saturating_sub(said);
        let most = u32::try_from(left + emitted.len() as u64).unwrap_or(u32::MAX);
        let shift = Shift {
            here: emitted.len() as u64,
            said,
        };
        let job = Job {
            model: offer.id.clone(),
            content: content.clone(),
            emitted,
            sampling: self.sampling(&offer.id, &meta.sampling)?,
            seed: meta.seed,
            max_tokens: most,
            user: meta.user_id.clone(),
            priority: context.priority,
            task: meta.task,
            stop: meta.sampling.stop.clone(),
            constraint: meta.sampling.constraint.clone(),
            first_token: context
                .deadline
                .first_token_remaining(now)
                .map(|left| Instant::now() + left),
            deadline: context
                .deadline
                .remaining(now)
                .map(|left| Instant::now() + left),
        };
        let stream = self.submit(job).await?;
        Ok(self.events(stream, offer, shift))
    }

    /// The tokens the answer has so far, in this model's vocabulary.
    fn emitted(&self, id: &ModelId, said: Continuation) -> Result<Vec<u32>, Refusal> {
        if !said.is_prefill() {
            return Ok(said.emitted_ids);
        }
        let refused = |reason: String| {
            InferError::new(
                ErrorClass::NotFound,
                "CONTINUATION_NOT_SERVED",
                format!("model `{id}` cannot go on from this text: {reason}"),
            )
        };
        let encoded = self.engine.encode_said(id, &said.text);
        let encoded = encoded.ok_or_else(|| refused("it is not in memory".to_owned()))?;
        encoded.map_err(|error| refused(error.to_string()))
    }

    /// What was asked for, and the model's own where nothing was.
    fn sampling(&self, id: &ModelId, asked: &Sampling) -> Result<SamplingParams, Refusal> {
        let own = self.engine.defaults(id);
        let own = own.and_then(|defaults| defaults.repetition_penalty);
        let neutral = SamplingOptions::default();
        SamplingParams::new(SamplingOptions {
            temperature: asked.temperature,
            top_k: asked.top_k,
            top_p: asked.top_p,
            min_p: asked.min_p,
            repetition_penalty: asked
                .repetition_penalty
                .or(own)
                .unwrap_or(neutral.repetition_penalty),
            presence_penalty: asked.presence_penalty,
            frequency_penalty: asked.frequency_penalty,
            logit_bias: asked.logit_bias.clone(),
            logprobs: asked.logprobs,
        })
        .map_err(|error| {
            InferError::new(
                ErrorClass::InvalidArgument,
                "INVALID_FIELD",
                error.to_string(),
            )
            .with("field", error.parameter)
        })
    }

    /// The plan's model, or the first one that fits.
    fn choose(
        &self,
        meta: &RequestMeta,
        planned: Option<&ModelId>,
    ) -> Result<Arc<ModelOffer>, Refusal> {
        let wanted = |offer: &&Arc<ModelOffer>| match planned {
            Some(id) => offer.id == *id,
            None => meta.model.matches(&offer.id, &offer.family),
        };
        let mut named = self.offers.iter().filter(wanted).peekable();
        if named.peek().is_none() {
            let name = planned.map_or(meta.model.as_str(), ModelId::as_str);
            let message = format!("model `{name}` is not on this node");
            return Err(
                InferError::new(ErrorClass::NotFound, "MODEL_NOT_FOUND", message)
                    .with("model", name),
            );
        }
        named
            .find(|offer| offer.tasks.contains(&meta.task))
            .cloned()
            .ok_or_else(|| {
                let message = format!("no such model on this node can do `{}`", meta.task.as_str());
                InferError::new(ErrorClass::NotFound, "TASK_NOT_SUPPORTED", message)
                    .with("task", meta.task.as_str())
            })
    }

    async fn submit(&self, job: Job) -> Result<TokenStream, Refusal> {
        if job.content.bytes() < BLOCKING_FROM {
            return self.engine.submit(job).map_err(refusal);
        }
        let engine = Arc::clone(&self.engine);
        let submitted = tokio::task::spawn_blocking(move || engine.submit(job)).await;
        submitted
            .map_err(|_| broken("encoding the prompt failed"))?
            .map_err(refusal)
    }

    fn events(&self, stream: TokenStream, offer: Arc<ModelOffer>, shift: Shift) -> EventStream {
        let destination = self.destination.clone();
        Box::pin(stream.map(move |output| {
            Ok(match output.map_err(failure)? {
                Output::Tokens { first_seq, items } => Event::Tokens {
                    first_seq: shift.number(first_seq),
                    items,
                },
                Output::Result(result) => Event::Result(result),
                Output::Finished(mut end) => {
                    // The engine counts what it wrote; the answer is longer, and
                    // what was said before was read.
                    end.output_tokens += shift.said;
                    end.prompt_tokens += shift.here;
                    Event::Done(Box::new(done(end, &destination, &offer)))
                }
            })
        }))
    }
}

/// From the engine's numbers of an answer's tokens to the client's: they
/// differ where the answer so far is another model's.
#[derive(Clone, Copy)]
struct Shift {
    here: u64,
    said: u64,
}

impl Shift {
    const fn number(self, here: u64) -> u64 {
        here.saturating_sub(self.here) + self.said
    }
}

impl Infer for LocalInfer {
    fn infer(&self, request: Arc<Sealed<Request>>, context: Context) -> InferFuture<'_> {
        Box::pin(self.start(request, context))
    }
}

impl std::fmt::Debug for LocalInfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalInfer")
            .field("destination", &self.destination)
            .finish_non_exhaustive()
    }
}

fn offer(info: &ModelInfo, prices: Prices) -> ModelOffer {
    ModelOffer {
        id: info.id.clone(),
        family: info.family.clone(),
        digest: Some(info.digest.clone()),
        numerics_id: Some(info.numerics_id.clone()),
        tasks: info.tasks.clone(),
        context_tokens: info.context_tokens,
        quality: info.quality,
        input_per_million: prices.input_per_million,
        output_per_million: prices.output_per_million,
    }
}

fn done(end: Finished, destination: &Destination, offer: &ModelOffer) -> Done {
    Done {
        finish: end.reason,
        usage: Usage {
            input_tokens: end.prompt_tokens,
            output_tokens: end.output_tokens,
        },
        cost: offer.cost(end.prompt_tokens, end.output_tokens),
        first_token: end.first_token,
        total: end.total,
        attempts: vec![Attempt {
            node: destination.node.clone(),
            tier: destination.tier,
            model: offer.id.clone(),
            outcome: AttemptOutcome::Answered,
            reason: None,
        }],
    }
}

fn refusal(error: SubmitError) -> Refusal {
    use ErrorClass::{Exhausted, InvalidArgument, NotFound, Unavailable};
    let message = error.to_string();
    match error {
        SubmitError::Full { retry_after, .. } => {
            InferError::new(Exhausted, "QUEUE_FULL", message).retry_after(retry_after)
        }
        SubmitError::Stopping => InferError::new(Unavailable, "STOPPING", message),
        SubmitError::UnknownModel(_) => InferError::new(NotFound, "MODEL_NOT_FOUND", message),
        SubmitError::Prompt(PromptError::Encode(_)) => {
            InferError::new(InvalidArgument, "NOT_ENCODABLE", message)
        }
        SubmitError::Prompt(PromptError::Render(_)) => {
            InferError::new(InvalidArgument, "CHAT_TEMPLATE_REFUSED", message)
                .with("field", "content.messages")
        }
        SubmitError::EmptyPrompt => InferError::new(InvalidArgument, "EMPTY_PROMPT", message),
        SubmitError::PromptTooLong { context, .. } => {
            InferError::new(InvalidArgument, "PROMPT_TOO_LONG", message).with(
                "allowed",
                format!("at most {context} tokens with the answer"),
            )
        }
        SubmitError::UnknownBias { vocab, .. } => {
            InferError::new(InvalidArgument, "INVALID_FIELD", message)
                .with("field", "logit_bias")
                .with("allowed", format!("tokens below {vocab}"))
        }
        SubmitError::UnknownToken { .. } => {
            InferError::new(InvalidArgument, "UNKNOWN_TOKEN", message)
        }
        SubmitError::TooLate { predicted, left } => {
            InferError::new(Exhausted, "DEADLINE_TOO_SHORT", message)
                .retry_after(predicted.saturating_sub(left))
        }
        SubmitError::TooLarge { .. } => InferError::new(InvalidArgument, "TOO_LARGE", message)
            .with("field", "sampling.max_tokens"),
        SubmitError::NotLoaded { retry_after, .. } => {
            InferError::new(Unavailable, "MODEL_NOT_LOADED", message).retry_after(retry_after)
        }
        SubmitError::Cold { retry_after, .. } => {
            InferError::new(Unavailable, "MODEL_COLD", message).retry_after(retry_after)
        }
        SubmitError::Task { task, .. } => {
            InferError::new(NotFound, "TASK_NOT_SUPPORTED", message).with("task", task.as_str())
        }
        SubmitError::NotAText => {
            InferError::new(InvalidArgument, "INVALID_FIELD", message).with("field", "content")
        }
        SubmitError::Text(_) => InferError::new(InvalidArgument, "NOT_ENCODABLE", message),
        SubmitError::Constraint(_) => InferError::new(InvalidArgument, "INVALID_FIELD", message)
            .with("field", "sampling.constraint"),
    }
}

fn failure(error: StreamError) -> InferError {
    match error {
        StreamError::Deadline => InferError::deadline_exceeded(),
        StreamError::NotANumber(_) => {
            InferError::new(ErrorClass::Internal, "MODEL_FAILED", error.to_string())
        }
        StreamError::Panicked => broken("the engine failed in the middle of an answer"),
        StreamError::NotLoaded => InferError::new(
            ErrorClass::Unavailable,
            "MODEL_NOT_LOADED",
            error.to_string(),
        ),
        StreamError::PromptTooLong => InferError::new(
            ErrorClass::InvalidArgument,
            "PROMPT_TOO_LONG",
            error.to_string(),
        ),
        StreamError::NotUsable => {
            InferError::new(ErrorClass::InvalidArgument, "NOT_USABLE", error.to_string())
        }
        StreamError::Constraint(_) => {
            InferError::new(ErrorClass::Internal, "CONSTRAINT_BROKEN", error.to_string())
        }
        StreamError::Stopped => {
            InferError::new(ErrorClass::Unavailable, "STOPPING", error.to_string())
        }
    }
}

fn broken(message: &str) -> InferError {
    InferError::new(ErrorClass::Internal, "ENGINE_FAILED", message)
}

#[cfg(test)]
mod tests;
