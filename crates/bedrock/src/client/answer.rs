//! A running answer: Bedrock's events in, core's numbered events out.

use super::Shared;
use super::meter::Measured;
use super::prefill::Prefill;
use aws_sdk_bedrockruntime::operation::RequestId;
use aws_sdk_bedrockruntime::operation::converse_stream::ConverseStreamOutput as Output;
use aws_sdk_bedrockruntime::primitives::event_stream::EventReceiver;
use aws_sdk_bedrockruntime::types::error::ConverseStreamOutputError;
use aws_sdk_bedrockruntime::types::{
    ContentBlockDelta, ConverseStreamOutput, StopReason, TokenUsage,
};
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    Attempt, AttemptOutcome, Deadline, Done, ErrorClass, Event, EventStream, FinishReason,
    InferError, Time, Token, Usage,
};
use tokio::sync::OwnedSemaphorePermit;

/// How long `messageStop` waits for the usage that should follow at once.
const USAGE_WAIT: Duration = Duration::from_secs(2);
/// How long the last event waits for the body's end. Reading it lets the
/// connection be used again; it is there at once or not worth a wait.
const END_WAIT: Duration = Duration::from_millis(5);

/// What an answer runs under.
pub(super) struct Terms {
    /// When Bedrock was asked.
    pub(super) started: Time,
    /// The request's.
    pub(super) deadline: Deadline,
    /// A bound on the prompt's tokens.
    pub(super) most_input: u64,
    /// The bound on the answer's tokens.
    pub(super) most_output: u64,
    /// What was said before it.
    pub(super) before: Prefill,
}

pub(super) struct Answer {
    shared: Arc<Shared>,
    at: usize,
    events: EventReceiver<ConverseStreamOutput, ConverseStreamOutputError>,
    aws_request: Option<String>,
    terms: Terms,
    /// Held until the answer ends or is dropped.
    slot: Option<OwnedSemaphorePermit>,
    next_seq: u64,
    text_bytes: u64,
    first_text: Option<Time>,
    phase: Phase,
}

enum Phase {
    /// Text comes.
    Speaking,
    /// `messageStop` came; the usage is due.
    Stopped(FinishReason),
    /// The usage came; the body's end is due.
    Billed(FinishReason, Usage),
    /// Done or failed: nothing follows.
    Over,
}

impl Answer {
    pub(super) fn new(
        shared: Arc<Shared>,
        at: usize,
        output: Output,
        slot: OwnedSemaphorePermit,
        terms: Terms,
    ) -> Self {
        Self {
            slot: Some(slot),
            shared,
            at,
            aws_request: output.request_id().map(str::to_owned),
            events: output.stream,
            next_seq: terms.before.tokens,
            terms,
            text_bytes: 0,
            first_text: None,
            phase: Phase::Speaking,
        }
    }

    /// Dropping the stream drops the connection's receiver and the slot.
    pub(super) fn into_stream(self) -> EventStream {
        Box::pin(futures::stream::unfold(
            Box::new(self),
            |mut answer| async move { answer.next().await.map(|event| (event, answer)) },
        ))
    }

    async fn next(&mut self) -> Option<Result<Event, InferError>> {
        loop {
            let wait = match self.phase {
                Phase::Over => return None,
                Phase::Speaking => self.shared.idle_timeout,
                Phase::Stopped(_) => self.shared.idle_timeout.min(USAGE_WAIT),
                Phase::Billed(..) => END_WAIT,
            };
            let now = self.shared.clock.now();
            if let Phase::Speaking = self.phase
                && self.terms.deadline.is_over(now)
            {
                return self.fail(InferError::deadline_exceeded());
            }
            let left = self.terms.deadline.remaining(now);
            let wait = left.map_or(wait, |left| left.min(wait));
            let received = tokio::time::timeout(wait, self.events.recv()).await;
            let event = match (received, &self.phase) {
                (_, &Phase::Billed(finish, usage)) => return self.done(finish, usage),
                (Ok(Ok(Some(event))), _) => event,
                // The answer is whole; only its bill did not come.
                (_, &Phase::Stopped(finish)) => return self.done(finish, self.upper_bound()),
                (Ok(Ok(None)), _) => return self.fail(self.cut()),
                (Ok(Err(error)), _) => {
                    let id = &self.shared.models[self.at].bedrock_id;
                    let failure = self.shared.mapper.broken(error, id);
                    return self.fail(failure);
                }
                (Err(_), _) if self.terms.deadline.is_over(self.shared.clock.now()) => {
                    return self.fail(InferError::deadline_exceeded());
                }
                (Err(_), _) if left.is_some_and(|left| left <= wait) => continue,
                (Err(_), _) => return self.fail(self.stalled()),
            };
            if let Some(said) = self.take(event) {
                return Some(said);
            }
        }
    }

    fn take(&mut self, event: ConverseStreamOutput) -> Option<Result<Event, InferError>> {
        match event {
            ConverseStreamOutput::ContentBlockDelta(block) => match block.delta {
                Some(ContentBlockDelta::Text(text)) if !text.is_empty() => {
                    let text = self.terms.before.owed.strip(text);
                    (!text.is_empty()).then(|| self.say(text))
                }
                // Reasoning and the like is not part of the answer's text.
                _ => None,
            },
            ConverseStreamOutput::MessageStop(stop) => match finish(&stop.stop_reason) {
                Some(reason) => {
                    self.phase = Phase::Stopped(reason);
                    None
                }
                None => self.fail(InferError::new(
                    ErrorClass::Internal,
                    "BEDROCK_MODEL_ERROR",
                    format!(
                        "{} ended the answer with `{}`",
                        self.shared.place,
                        stop.stop_reason.as_str()
                    ),
                )),
            },
            ConverseStreamOutput::Metadata(metadata) => {
                if let (Phase::Stopped(finish), Some(usage)) = (&self.phase, &metadata.usage) {
                    self.phase = Phase::Billed(*finish, counted(usage));
                }
                None
            }
            _ => None,
        }
    }

    /// Bedrock sends pieces of text, not tokens: each piece counts as one.
    #[expect(clippy::unnecessary_wraps, reason = "an item of the stream")]
    fn say(&mut self, text: String) -> Result<Event, InferError> {
        if self.first_text.is_none() {
            self.first_text = Some(self.shared.clock.now());
        }
        let first_seq = self.next_seq;
        self.next_seq += 1;
        self.text_bytes += text.len() as u64;
        let items = vec![Token {
            text,
            id: None,
            logprob: None,
            detail: None,
        }];
        Ok(Event::Tokens { first_seq, items })
    }

    #[expect(clippy::unnecessary_wraps, reason = "an item of the stream")]
    fn done(&mut self, finish: FinishReason, usage: Usage) -> Option<Result<Event, InferError>> {
        self.end();
        let started = self.terms.started;
        let total = self.shared.clock.now().since(started);
        let first_token = self.first_text.map(|at| at.since(started));
        let served = &self.shared.models[self.at];
        self.shared.mapper.answered();
        served.meter.record(Measured {
            first_token: first_token.unwrap_or(total),
            total,
            tokens: usage.output_tokens,
        });
        let cost = served.offer.cost(usage.input_tokens, usage.output_tokens);
        // Whoever goes on counts the whole answer.
        let whole = Usage {
            output_tokens: usage.output_tokens + self.terms.before.tokens,
            ..usage
        };
        Some(Ok(Event::Done(Box::new(Done {
            finish,
            usage: whole,
            cost,
            first_token,
            total,
            attempts: vec![Attempt {
                node: self.shared.destination.node.clone(),
                tier: self.shared.destination.tier,
                model: served.offer.id.clone(),
                outcome: AttemptOutcome::Answered,
                reason: None,
            }],
        }))))
    }

    /// The most that can have been used: a token of the answer has at least a
    /// byte of its text.
    fn upper_bound(&self) -> Usage {
        let usage = Usage {
            input_tokens: self.terms.most_input,
            output_tokens: self.terms.most_output.min(self.text_bytes),
        };
        tracing::warn!(
            place = self.shared.place,
            aws_request = self.aws_request,
            input_tokens = usage.input_tokens,
            output_tokens = usage.output_tokens,
            "the cloud tier sent no usage; an upper bound is accounted"
        );
        usage
    }

    fn fail(&mut self, error: InferError) -> Option<Result<Event, InferError>> {
        self.end();
        let error = match &self.aws_request {
            Some(id) => error.with("aws_request_id", id.clone()),
            None => error,
        };
        Some(Err(error))
    }

    fn end(&mut self) {
        self.phase = Phase::Over;
        self.slot = None;
    }

    fn cut(&self) -> InferError {
        InferError::new(
            ErrorClass::Unavailable,
            "STREAM_CUT",
            format!(
                "the answer of {} ended without messageStop",
                self.shared.place
            ),
        )
    }

    fn stalled(&self) -> InferError {
        InferError::new(
            ErrorClass::Unavailable,
            "STREAM_STALLED",
            format!(
                "{} sent nothing for {} ms",
                self.shared.place,
                self.shared.idle_timeout.as_millis()
            ),
        )
    }
}

fn counted(usage: &TokenUsage) -> Usage {
    let count = |n: i32| u64::try_from(n).unwrap_or_default();
    Usage {
        input_tokens: count(usage.input_tokens),
        output_tokens: count(usage.output_tokens),
    }
}

/// `None` where the model failed, or wants a tool that it was not given.
fn finish(reason: &StopReason) -> Option<FinishReason> {
    match reason {
        StopReason::EndTurn | StopReason::StopSequence => Some(FinishReason::Stop),
        StopReason::MaxTokens | StopReason::ModelContextWindowExceeded => {
            Some(FinishReason::Length)
        }
        StopReason::ContentFiltered | StopReason::GuardrailIntervened => {
            Some(FinishReason::ContentFilter)
        }
        _ => None,
    }
}
