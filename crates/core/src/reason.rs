//! Why a decision came out as it did: a closed enum with values.

use crate::privacy::Privacy;
use crate::tier::Tier;

/// One reason. The first group removes a candidate; the second explains the
/// score of one that stayed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reason {
    /// Privacy forbids the candidate's tier, or that of its transit.
    PrivacyForbids {
        /// What the request or its policy demands.
        privacy: Privacy,
        /// The forbidden tier.
        tier: Tier,
    },
    /// Content must stay in another region.
    ResidencyForbids,
    /// A device serves only its owner.
    NotOwner,
    /// The sender's permit scope leaves this tier out.
    ScopeForbids {
        /// The tier left out.
        tier: Tier,
    },
    /// The request came through this node already.
    AlreadyVisited,
    /// It does not have the model asked for.
    ModelMismatch,
    /// The model cannot do the task.
    TaskUnsupported,
    /// Prompt and answer do not fit the model's context.
    ContextTooShort {
        /// Tokens needed.
        needed: u32,
        /// Tokens there are.
        limit: u32,
    },
    /// The model is below the policy's least quality.
    QualityBelow {
        /// The model's quality.
        quality: f32,
        /// The policy's least.
        least: f32,
    },
    /// It is a device on a metered network, and the policy spares its owner.
    MeteredNetwork,
    /// It would cost more than allowed.
    OverBudget {
        /// The upper estimate in dollars.
        estimate_usd: f64,
        /// The limit in dollars.
        limit_usd: f64,
    },
    /// Its breaker is open.
    BreakerOpen {
        /// Milliseconds until it half-opens.
        retry_in_ms: u64,
    },
    /// It has no credit left.
    NoCredit,
    /// Its last report is too old to trust.
    StaleReport {
        /// Its age in milliseconds.
        age_ms: u64,
    },
    /// It would miss the deadline.
    DeadlineInfeasible {
        /// Predicted milliseconds.
        predicted_ms: f32,
        /// Milliseconds there are.
        deadline_ms: f32,
    },
    /// It reported a value that is not a usable number.
    UnusableReport,

    /// Points for time to spare before the first token.
    Latency {
        /// 0 to 100, before its weight.
        points: f32,
        /// Predicted milliseconds to the first token.
        predicted_ms: f32,
    },
    /// Points for being cheap.
    Cost {
        /// 0 to 100, before its weight.
        points: f32,
        /// The estimate in dollars.
        estimate_usd: f64,
    },
    /// Points for quality.
    Quality {
        /// 0 to 100, before its weight.
        points: f32,
    },
    /// Points for being idle.
    Load {
        /// 0 to 100, before its weight.
        points: f32,
    },
    /// Points for sparing a battery.
    Energy {
        /// 0 to 100, before its weight.
        points: f32,
    },
    /// Points the policy gives the tier.
    Preference {
        /// 0 to 100, before its weight.
        points: f32,
    },
    /// Points for having the beginning of the prompt at hand.
    Affinity {
        /// 0 to 100, before its weight.
        points: f32,
    },
    /// The chance that its first token comes before the deadline. Told by
    /// `Explain` for everyone who could be asked.
    Chance {
        /// 0 to 1.
        chance: f32,
        /// Milliseconds there are.
        deadline_ms: f32,
    },
    /// What the slot it takes keeps from others, in dollars: counted among its
    /// cost, and charged to nobody.
    Slot {
        /// Dollars.
        usd: f64,
    },
    /// It was held back until a slot came free, or would be.
    Held {
        /// Milliseconds it waited, or would.
        wait_ms: f32,
    },
    /// It was taken to learn about it: the policy gives a share to that.
    Explored,
    /// An earlier choice failed, and this is the next.
    FailedOver,
}

impl Reason {
    /// The stable code on the wire and in tables.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::PrivacyForbids { .. } => "privacy_forbids",
            Self::ResidencyForbids => "residency_forbids",
            Self::NotOwner => "not_owner",
            Self::ScopeForbids { .. } => "scope_forbids",
            Self::AlreadyVisited => "already_visited",
            Self::ModelMismatch => "model_mismatch",
            Self::TaskUnsupported => "task_unsupported",
            Self::ContextTooShort { .. } => "context_too_short",
            Self::QualityBelow { .. } => "quality_below",
            Self::MeteredNetwork => "metered_network",
            Self::OverBudget { .. } => "over_budget",
            Self::BreakerOpen { .. } => "breaker_open",
            Self::NoCredit => "no_credit",
            Self::StaleReport { .. } => "stale_report",
            Self::DeadlineInfeasible { .. } => "deadline_infeasible",
            Self::UnusableReport => "unusable_report",
            Self::Latency { .. } => "latency",
            Self::Cost { .. } => "cost",
            Self::Quality { .. } => "quality",
            Self::Load { .. } => "load",
            Self::Energy { .. } => "energy",
            Self::Preference { .. } => "preference",
            Self::Affinity { .. } => "affinity",
            Self::Chance { .. } => "chance",
            Self::Slot { .. } => "slot",
            Self::Held { .. } => "held",
            Self::Explored => "explored",
            Self::FailedOver => "failed_over",
        }
    }

    /// Whether it removed its candidate.
    #[must_use]
    pub const fn removes(&self) -> bool {
        !matches!(
            self,
            Self::Latency { .. }
                | Self::Cost { .. }
                | Self::Quality { .. }
                | Self::Load { .. }
                | Self::Energy { .. }
                | Self::Preference { .. }
                | Self::Affinity { .. }
                | Self::Chance { .. }
                | Self::Slot { .. }
                | Self::Held { .. }
                | Self::Explored
                | Self::FailedOver
        )
    }

    /// The measured value behind it, where it has one.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
    pub fn value(&self) -> Option<f64> {
        Some(match self {
            Self::ContextTooShort { needed, .. } => f64::from(*needed),
            Self::QualityBelow { quality, .. } => f64::from(*quality),
            Self::OverBudget { estimate_usd, .. } => *estimate_usd,
            Self::BreakerOpen { retry_in_ms } => *retry_in_ms as f64,
            Self::StaleReport { age_ms } => *age_ms as f64,
            Self::DeadlineInfeasible { predicted_ms, .. } => f64::from(*predicted_ms),
            Self::Latency { points, .. }
            | Self::Cost { points, .. }
            | Self::Quality { points }
            | Self::Load { points }
            | Self::Energy { points }
            | Self::Affinity { points }
            | Self::Preference { points } => f64::from(*points),
            Self::Chance { chance, .. } => f64::from(*chance),
            Self::Slot { usd } => *usd,
            Self::Held { wait_ms } => f64::from(*wait_ms),
            _ => return None,
        })
    }

    /// The limit it was held against, where there is one.
    #[must_use]
    pub fn limit(&self) -> Option<f64> {
        Some(match self {
            Self::ContextTooShort { limit, .. } => f64::from(*limit),
            Self::QualityBelow { least, .. } => f64::from(*least),
            Self::OverBudget { limit_usd, .. } => *limit_usd,
            Self::DeadlineInfeasible { deadline_ms, .. } | Self::Chance { deadline_ms, .. } => {
                f64::from(*deadline_ms)
            }
            _ => return None,
        })
    }

    /// The tier it is about, where it is about one.
    #[must_use]
    pub const fn tier(&self) -> Option<Tier> {
        match self {
            Self::PrivacyForbids { tier, .. } | Self::ScopeForbids { tier } => Some(*tier),
            _ => None,
        }
    }
}
