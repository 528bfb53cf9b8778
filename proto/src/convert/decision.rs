//! Decisions and their reasons from and to their wire form.

use super::event::number;
use super::{WireError, some_tier, tier};
use crate::v1;
use tiermesh_core::{
    DecisionSummary, Fallback, ModelId, NodeId, PolicyName, Privacy, Reason, ReasonRecord, Tier,
    TierScore, Usd,
};

impl From<DecisionSummary> for v1::Decision {
    fn from(decision: DecisionSummary) -> Self {
        let score = |s: TierScore| v1::TierScore {
            tier: v1::Tier::from(s.tier) as i32,
            score: s.score,
        };
        let fallback = |f: Fallback| v1::Fallback {
            tier: v1::Tier::from(f.tier) as i32,
            node: f.node.to_string(),
            model: f.model.to_string(),
        };
        Self {
            policy: decision.policy.to_string(),
            tier: v1::Tier::from(decision.tier) as i32,
            node: decision.node.to_string(),
            model: decision.model.to_string(),
            scores: decision.scores.into_iter().map(score).collect(),
            confidence: decision.confidence,
            reasons: decision.reasons.into_iter().map(Into::into).collect(),
            fallbacks: decision.fallbacks.into_iter().map(fallback).collect(),
            first_token_ms: decision.first_token_ms,
            total_ms: decision.total_ms,
            cost_usd: decision.cost.as_dollars(),
            epoch: decision.epoch,
            sequence: decision.sequence,
            // The decision itself is without: who explains it adds them.
            calibrations: Vec::new(),
        }
    }
}

impl TryFrom<v1::Decision> for DecisionSummary {
    type Error = WireError;

    fn try_from(wire: v1::Decision) -> Result<Self, WireError> {
        let scores = wire.scores.into_iter().map(|s| {
            Ok(TierScore {
                tier: some_tier("decision.scores.tier", s.tier)?,
                score: finite("decision.scores.score", s.score)?,
            })
        });
        let fallbacks = wire.fallbacks.into_iter().map(|f| {
            Ok(Fallback {
                tier: some_tier("decision.fallbacks.tier", f.tier)?,
                node: NodeId::new(&f.node)?,
                model: ModelId::new(&f.model)?,
            })
        });
        Ok(Self {
            policy: PolicyName::new(&wire.policy)?,
            tier: some_tier("decision.tier", wire.tier)?,
            node: NodeId::new(&wire.node)?,
            model: ModelId::new(&wire.model)?,
            scores: scores.collect::<Result<_, WireError>>()?,
            confidence: finite("decision.confidence", wire.confidence)?,
            reasons: wire
                .reasons
                .into_iter()
                .map(ReasonRecord::try_from)
                .collect::<Result<_, _>>()?,
            fallbacks: fallbacks.collect::<Result<_, WireError>>()?,
            first_token_ms: finite("decision.first_token_ms", wire.first_token_ms)?,
            total_ms: finite("decision.total_ms", wire.total_ms)?,
            cost: Usd::from_dollars(wire.cost_usd)
                .ok_or_else(|| number("decision.cost_usd", wire.cost_usd))?,
            epoch: wire.epoch,
            sequence: wire.sequence,
        })
    }
}

fn finite(field: &'static str, value: f32) -> Result<f32, WireError> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(number(field, f64::from(value)))
    }
}

impl From<ReasonRecord> for v1::Reason {
    fn from(record: ReasonRecord) -> Self {
        let reason = &record.reason;
        let value = match reason {
            Reason::PrivacyForbids { privacy, .. } => Some(f64::from(privacy_rank(*privacy))),
            other => other.value(),
        };
        let limit = match reason {
            Reason::Latency { predicted_ms, .. } => Some(f64::from(*predicted_ms)),
            Reason::Cost { estimate_usd, .. } => Some(*estimate_usd),
            other => other.limit(),
        };
        Self {
            code: reason.code().to_owned(),
            node: record
                .node
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            model: record
                .model
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            tier: reason.tier().map_or(0, |t| v1::Tier::from(t) as i32),
            value,
            limit,
            removes: reason.removes(),
        }
    }
}

impl TryFrom<v1::Reason> for ReasonRecord {
    type Error = WireError;

    fn try_from(wire: v1::Reason) -> Result<Self, WireError> {
        let optional = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        Ok(Self {
            reason: reason(&wire)?,
            node: optional(&wire.node).map(NodeId::new).transpose()?,
            model: optional(&wire.model).map(ModelId::new).transpose()?,
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "values for people, saturating"
)]
fn reason(wire: &v1::Reason) -> Result<Reason, WireError> {
    let value = wire.value.filter(|v| v.is_finite()).unwrap_or_default();
    let limit = wire.limit.filter(|v| v.is_finite()).unwrap_or_default();
    let points = value as f32;
    let about = || Ok::<Tier, WireError>(tier("reason.tier", wire.tier)?.unwrap_or(Tier::Cloud));
    Ok(match wire.code.as_str() {
        "privacy_forbids" => Reason::PrivacyForbids {
            privacy: privacy_of_rank(value as u8),
            tier: about()?,
        },
        "residency_forbids" => Reason::ResidencyForbids,
        "not_owner" => Reason::NotOwner,
        "scope_forbids" => Reason::ScopeForbids { tier: about()? },
        "already_visited" => Reason::AlreadyVisited,
        "model_mismatch" => Reason::ModelMismatch,
        "task_unsupported" => Reason::TaskUnsupported,
        "context_too_short" => Reason::ContextTooShort {
            needed: value as u32,
            limit: limit as u32,
        },
        "quality_below" => Reason::QualityBelow {
            quality: points,
            least: limit as f32,
        },
        "metered_network" => Reason::MeteredNetwork,
        "over_budget" => Reason::OverBudget {
            estimate_usd: value,
            limit_usd: limit,
        },
        "breaker_open" => Reason::BreakerOpen {
            retry_in_ms: value as u64,
        },
        "no_credit" => Reason::NoCredit,
        "stale_report" => Reason::StaleReport {
            age_ms: value as u64,
        },
        "deadline_infeasible" => Reason::DeadlineInfeasible {
            predicted_ms: points,
            deadline_ms: limit as f32,
        },
        "unusable_report" => Reason::UnusableReport,
        "latency" => Reason::Latency {
            points,
            predicted_ms: limit as f32,
        },
        "cost" => Reason::Cost {
            points,
            estimate_usd: limit,
        },
        "quality" => Reason::Quality { points },
        "load" => Reason::Load { points },
        "energy" => Reason::Energy { points },
        "preference" => Reason::Preference { points },
        "affinity" => Reason::Affinity { points },
        "chance" => Reason::Chance {
            chance: points,
            deadline_ms: limit as f32,
        },
        "slot" => Reason::Slot { usd: value },
        "held" => Reason::Held { wait_ms: points },
        "explored" => Reason::Explored,
        "failed_over" => Reason::FailedOver,
        other => {
            return Err(WireError::Unknown {
                field: "reason.code",
                value: other.chars().take(40).collect(),
            });
        }
    })
}

const fn privacy_rank(privacy: Privacy) -> u8 {
    match privacy {
        Privacy::Device => 1,
        Privacy::Edge => 2,
        Privacy::Region => 3,
        Privacy::Any => 4,
    }
}

const fn privacy_of_rank(rank: u8) -> Privacy {
    match rank {
        1 => Privacy::Device,
        2 => Privacy::Edge,
        3 => Privacy::Region,
        _ => Privacy::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_survive_the_wire() {
        let node = NodeId::new("edge-1").unwrap();
        let model = ModelId::new("brand-extractor").unwrap();
        let record = |reason| ReasonRecord {
            node: Some(node.clone()),
            model: None,
            reason,
        };
        let decision = DecisionSummary {
            policy: PolicyName::new("iot").unwrap(),
            tier: Tier::Mec,
            node: node.clone(),
            model: model.clone(),
            scores: vec![TierScore {
                tier: Tier::Mec,
                score: 81.5,
            }],
            confidence: 0.25,
            reasons: vec![
                record(Reason::PrivacyForbids {
                    privacy: Privacy::Edge,
                    tier: Tier::Cloud,
                }),
                record(Reason::DeadlineInfeasible {
                    predicted_ms: 80.0,
                    deadline_ms: 50.0,
                }),
                record(Reason::Latency {
                    points: 75.0,
                    predicted_ms: 12.0,
                }),
                record(Reason::Cost {
                    points: 50.0,
                    estimate_usd: 0.25,
                }),
                record(Reason::Chance {
                    chance: 0.5,
                    deadline_ms: 50.0,
                }),
            ],
            fallbacks: vec![Fallback {
                tier: Tier::Device,
                node: NodeId::new("phone").unwrap(),
                model,
            }],
            first_token_ms: 12.0,
            total_ms: 60.0,
            cost: Usd::from_nanos(42),
            epoch: 3,
            sequence: 77,
        };
        let wire = v1::Decision::from(decision.clone());
        assert_eq!(DecisionSummary::try_from(wire).unwrap(), decision);
    }
}
