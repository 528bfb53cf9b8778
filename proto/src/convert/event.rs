//! Events from and to their wire form.

use super::{WireError, some_tier};
use crate::v1;
use std::time::Duration;
use tiermesh_core::{
    Alternative, Attempt, AttemptOutcome, Done, Event, FinishReason, ModelId, NodeId, Seam,
    SeamKind, TaskResult, Token, TokenDetail, Usage, Usd,
};
use v1::infer_event::Event as Wire;

impl From<Event> for v1::InferEvent {
    fn from(event: Event) -> Self {
        let event = match event {
            Event::Accepted(decision) => Wire::Accepted(v1::Accepted {
                decision: Some((*decision).into()),
                request_id: String::new(),
                seed: 0,
                resume_token: String::new(),
            }),
            Event::Tokens { first_seq, items } => Wire::Tokens(v1::Tokens {
                first_seq,
                items: items.into_iter().map(token_to_wire).collect(),
            }),
            Event::Seam(seam) => Wire::Seam(seam_to_wire(&seam)),
            Event::Result(result) => Wire::Result(result_to_wire(result)),
            Event::Done(done) => Wire::Done(done_to_wire(*done)),
        };
        Self { event: Some(event) }
    }
}

impl TryFrom<v1::InferEvent> for Event {
    type Error = WireError;

    fn try_from(wire: v1::InferEvent) -> Result<Self, WireError> {
        Ok(match wire.event.ok_or(WireError::Missing("event"))? {
            Wire::Accepted(accepted) => {
                let decision = accepted.decision.ok_or(WireError::Missing("decision"))?;
                Self::Accepted(Box::new(decision.try_into()?))
            }
            Wire::Tokens(tokens) => {
                if tokens.items.is_empty() {
                    return Err(WireError::Missing("tokens.items"));
                }
                Self::Tokens {
                    first_seq: tokens.first_seq,
                    items: tokens.items.into_iter().map(token).collect(),
                }
            }
            Wire::Seam(wire) => Self::Seam(seam(wire)?),
            Wire::Result(wire) => Self::Result(result(wire)?),
            Wire::Done(wire) => Self::Done(Box::new(done(wire)?)),
        })
    }
}

fn token_to_wire(token: Token) -> v1::Token {
    let detail = token.detail.map_or_else(TokenDetail::default, |d| *d);
    let alternative = |alternative: Alternative| v1::Alternative {
        id: alternative.id,
        bytes: alternative.bytes,
        logprob: alternative.logprob,
    };
    v1::Token {
        text: token.text,
        id: token.id,
        logprob: token.logprob,
        bytes: detail.bytes,
        top_logprobs: detail.top.into_iter().map(alternative).collect(),
    }
}

/// A token that has a log-probability has a detail, which costs nothing on the
/// wire where it is empty.
fn token(wire: v1::Token) -> Token {
    let alternative = |wire: v1::Alternative| Alternative {
        id: wire.id,
        bytes: wire.bytes,
        logprob: wire.logprob,
    };
    let (bytes, top) = (wire.bytes, wire.top_logprobs);
    let detail = || {
        Box::new(TokenDetail {
            bytes,
            top: top.into_iter().map(alternative).collect(),
        })
    };
    Token {
        text: wire.text,
        id: wire.id,
        logprob: wire.logprob,
        detail: wire.logprob.is_some().then(detail),
    }
}

fn seam_to_wire(seam: &Seam) -> v1::Seam {
    use v1::seam::Kind;
    v1::Seam {
        seq: seam.seq,
        from: seam.from.to_string(),
        to: seam.to.to_string(),
        kind: match seam.kind {
            SeamKind::Exact => Kind::Exact,
            SeamKind::SameModel => Kind::SameModel,
            SeamKind::Prefill => Kind::Prefill,
            SeamKind::Restart => Kind::Restart,
        } as i32,
        resume_token: String::new(),
    }
}

fn seam(wire: v1::Seam) -> Result<Seam, WireError> {
    use v1::seam::Kind;
    Ok(Seam {
        seq: wire.seq,
        from: NodeId::new(&wire.from)?,
        to: NodeId::new(&wire.to)?,
        kind: match Kind::try_from(wire.kind) {
            Ok(Kind::Exact) => SeamKind::Exact,
            Ok(Kind::SameModel) => SeamKind::SameModel,
            Ok(Kind::Prefill) => SeamKind::Prefill,
            Ok(Kind::Restart) => SeamKind::Restart,
            _ => {
                return Err(WireError::Unknown {
                    field: "seam.kind",
                    value: wire.kind.to_string(),
                });
            }
        },
    })
}

fn result_to_wire(result: TaskResult) -> v1::Result {
    use v1::result::{Embedding, Result as Kind, Tag, Tags};
    let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let result = match result {
        TaskResult::Embedding(values) => Kind::Embedding(Embedding { values }),
        TaskResult::Tags(tags) => Kind::Tags(Tags {
            items: tags
                .into_iter()
                .map(|(start, end, label)| Tag {
                    start: offset(start),
                    end: offset(end),
                    label,
                })
                .collect(),
        }),
    };
    v1::Result {
        result: Some(result),
    }
}

fn result(wire: v1::Result) -> Result<TaskResult, WireError> {
    use v1::result::Result as Kind;
    Ok(match wire.result.ok_or(WireError::Missing("result"))? {
        Kind::Embedding(embedding) => TaskResult::Embedding(embedding.values),
        Kind::Tags(tags) => TaskResult::Tags(
            tags.items
                .into_iter()
                .map(|tag| (tag.start as usize, tag.end as usize, tag.label))
                .collect(),
        ),
    })
}

fn done_to_wire(done: Done) -> v1::Done {
    use v1::done::Finish;
    v1::Done {
        finish: match done.finish {
            FinishReason::Stop => Finish::Stop,
            FinishReason::Length => Finish::Length,
            FinishReason::ContentFilter => Finish::ContentFilter,
        } as i32,
        input_tokens: done.usage.input_tokens,
        output_tokens: done.usage.output_tokens,
        cost_usd: done.cost.as_dollars(),
        first_token_ms: done.first_token.map(|d| d.as_secs_f64() * 1e3),
        total_ms: done.total.as_secs_f64() * 1e3,
        attempts: done.attempts.into_iter().map(attempt_to_wire).collect(),
    }
}

fn done(wire: v1::Done) -> Result<Done, WireError> {
    use v1::done::Finish;
    let finish = match Finish::try_from(wire.finish) {
        Ok(Finish::Stop) => FinishReason::Stop,
        Ok(Finish::Length) => FinishReason::Length,
        Ok(Finish::ContentFilter) => FinishReason::ContentFilter,
        _ => {
            return Err(WireError::Unknown {
                field: "done.finish",
                value: wire.finish.to_string(),
            });
        }
    };
    Ok(Done {
        finish,
        usage: Usage {
            input_tokens: wire.input_tokens,
            output_tokens: wire.output_tokens,
        },
        cost: Usd::from_dollars(wire.cost_usd)
            .ok_or_else(|| number("done.cost_usd", wire.cost_usd))?,
        first_token: wire
            .first_token_ms
            .map(|ms| millis("done.first_token_ms", ms))
            .transpose()?,
        total: millis("done.total_ms", wire.total_ms)?,
        attempts: wire
            .attempts
            .into_iter()
            .map(attempt)
            .collect::<Result<_, _>>()?,
    })
}

fn attempt_to_wire(attempt: Attempt) -> v1::Attempt {
    use v1::attempt::Outcome;
    v1::Attempt {
        node: attempt.node.to_string(),
        tier: v1::Tier::from(attempt.tier) as i32,
        model: attempt.model.to_string(),
        outcome: match attempt.outcome {
            AttemptOutcome::Answered => Outcome::Answered,
            AttemptOutcome::Refused => Outcome::Refused,
            AttemptOutcome::Failed => Outcome::Failed,
            AttemptOutcome::Cancelled => Outcome::Cancelled,
        } as i32,
        reason: attempt.reason.unwrap_or_default(),
    }
}

fn attempt(wire: v1::Attempt) -> Result<Attempt, WireError> {
    use v1::attempt::Outcome;
    Ok(Attempt {
        node: NodeId::new(&wire.node)?,
        tier: some_tier("attempt.tier", wire.tier)?,
        model: ModelId::new(&wire.model)?,
        outcome: match Outcome::try_from(wire.outcome) {
            Ok(Outcome::Answered) => AttemptOutcome::Answered,
            Ok(Outcome::Refused) => AttemptOutcome::Refused,
            Ok(Outcome::Failed) => AttemptOutcome::Failed,
            Ok(Outcome::Cancelled) => AttemptOutcome::Cancelled,
            _ => {
                return Err(WireError::Unknown {
                    field: "attempt.outcome",
                    value: wire.outcome.to_string(),
                });
            }
        },
        reason: (!wire.reason.is_empty()).then_some(wire.reason),
    })
}

pub(super) fn number(field: &'static str, value: f64) -> WireError {
    WireError::Number {
        field,
        value: value.to_string(),
    }
}

/// A duration from milliseconds; over a year, negative or NaN is refused.
fn millis(field: &'static str, ms: f64) -> Result<Duration, WireError> {
    if (0.0..=3.2e10).contains(&ms) {
        Ok(Duration::from_secs_f64(ms / 1e3))
    } else {
        Err(number(field, ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_wire() {
        let node = |name: &str| NodeId::new(name).unwrap();
        let events = [
            Event::Tokens {
                first_seq: 3,
                items: vec![
                    Token {
                        text: "ซัม".into(),
                        id: Some(9),
                        logprob: Some(-0.5),
                        detail: Some(Box::new(TokenDetail {
                            bytes: vec![0xe0],
                            top: vec![Alternative {
                                id: 4,
                                bytes: b" a".to_vec(),
                                logprob: -0.25,
                            }],
                        })),
                    },
                    Token {
                        text: "ซุง".into(),
                        id: None,
                        logprob: None,
                        detail: None,
                    },
                ],
            },
            Event::Seam(Seam {
                seq: 4,
                from: node("edge-1"),
                to: node("edge-2"),
                kind: SeamKind::SameModel,
            }),
            Event::Result(TaskResult::Tags(vec![(0, 7, "BRAND".into())])),
            Event::Done(Box::new(Done {
                finish: FinishReason::Stop,
                usage: Usage {
                    input_tokens: 10,
                    output_tokens: 4,
                },
                cost: Usd::from_nanos(1500),
                first_token: Some(Duration::from_millis(12)),
                total: Duration::from_millis(40),
                attempts: vec![Attempt {
                    node: node("edge-1"),
                    tier: tiermesh_core::Tier::Mec,
                    model: ModelId::new("brand-extractor").unwrap(),
                    outcome: AttemptOutcome::Failed,
                    reason: Some("NODE_LOST".into()),
                }],
            })),
        ];
        for event in events {
            let wire = v1::InferEvent::from(event.clone());
            assert_eq!(Event::try_from(wire).unwrap(), event);
        }
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        let done = v1::Done {
            finish: v1::done::Finish::Stop as i32,
            total_ms: f64::NAN,
            ..v1::Done::default()
        };
        let wire = v1::InferEvent {
            event: Some(Wire::Done(done)),
        };
        let error = Event::try_from(wire).unwrap_err();
        assert!(error.to_string().contains("total_ms"), "{error}");
    }
}
