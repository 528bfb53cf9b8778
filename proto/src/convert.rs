//! `tiermesh.v1` from and to core types.

use crate::v1;
use tiermesh_core::id::InvalidName;
use tiermesh_core::{
    Content, Continuity, DeviceInfo, ErrorClass, FieldError, Message, NetworkKind,
    OutputConstraint, Privacy, RawRequest, Request, RequestMeta, Role, Task, Thermal, Tier,
};

mod decision;
mod event;

/// A peer's bytes that decode and still make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A required part is missing.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// An enum has a value this version does not know.
    #[error("`{field}` has the unknown value {value}")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// A name is not one.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A request field is out of bounds.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A number is not usable.
    #[error("`{field}` is {value}, which is not a usable number")]
    Number {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
}

impl From<Tier> for v1::Tier {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::Device => Self::Device,
            Tier::Mec => Self::Mec,
            Tier::Cloud => Self::Cloud,
        }
    }
}

/// A tier from its wire number; `None` when unspecified.
pub(crate) fn tier(field: &'static str, value: i32) -> Result<Option<Tier>, WireError> {
    match v1::Tier::try_from(value) {
        Ok(v1::Tier::Unspecified) => Ok(None),
        Ok(v1::Tier::Device) => Ok(Some(Tier::Device)),
        Ok(v1::Tier::Mec) => Ok(Some(Tier::Mec)),
        Ok(v1::Tier::Cloud) => Ok(Some(Tier::Cloud)),
        Err(_) => Err(WireError::Unknown {
            field,
            value: value.to_string(),
        }),
    }
}

pub(crate) fn some_tier(field: &'static str, value: i32) -> Result<Tier, WireError> {
    tier(field, value)?.ok_or(WireError::Missing(field))
}

impl From<Task> for v1::Task {
    fn from(task: Task) -> Self {
        match task {
            Task::Generate => Self::Generate,
            Task::Chat => Self::Chat,
            Task::Embed => Self::Embed,
            Task::Tag => Self::Tag,
        }
    }
}

/// A task from its wire number; `None` when unspecified.
pub(crate) fn task(value: i32) -> Result<Option<Task>, FieldError> {
    match v1::Task::try_from(value) {
        Ok(v1::Task::Unspecified) => Ok(None),
        Ok(v1::Task::Generate) => Ok(Some(Task::Generate)),
        Ok(v1::Task::Chat) => Ok(Some(Task::Chat)),
        Ok(v1::Task::Embed) => Ok(Some(Task::Embed)),
        Ok(v1::Task::Tag) => Ok(Some(Task::Tag)),
        Err(_) => Err(FieldError::new(
            "task",
            value,
            "GENERATE (1), CHAT (2), EMBED (3) or TAG (4)",
        )),
    }
}

fn privacy(value: i32) -> Result<Option<Privacy>, FieldError> {
    match v1::Privacy::try_from(value) {
        Ok(v1::Privacy::Unspecified) => Ok(None),
        Ok(v1::Privacy::Device) => Ok(Some(Privacy::Device)),
        Ok(v1::Privacy::Edge) => Ok(Some(Privacy::Edge)),
        Ok(v1::Privacy::Region) => Ok(Some(Privacy::Region)),
        Ok(v1::Privacy::Any) => Ok(Some(Privacy::Any)),
        Err(_) => Err(FieldError::new(
            "privacy",
            value,
            "PRIVACY_DEVICE (1), PRIVACY_EDGE (2), PRIVACY_REGION (3) or PRIVACY_ANY (4)",
        )),
    }
}

fn privacy_to_wire(privacy: Privacy) -> v1::Privacy {
    match privacy {
        Privacy::Device => v1::Privacy::Device,
        Privacy::Edge => v1::Privacy::Edge,
        Privacy::Region => v1::Privacy::Region,
        Privacy::Any => v1::Privacy::Any,
    }
}

impl v1::LocateRequest {
    /// How far the content to be located may travel; `any` when unsaid.
    ///
    /// # Errors
    /// For a value this version does not know.
    pub fn privacy_level(&self) -> Result<Privacy, FieldError> {
        Ok(privacy(self.privacy)?.unwrap_or(Privacy::Any))
    }
}

fn continuity(value: i32) -> Result<Option<Continuity>, FieldError> {
    match v1::Continuity::try_from(value) {
        Ok(v1::Continuity::Unspecified) => Ok(None),
        Ok(v1::Continuity::Exact) => Ok(Some(Continuity::Exact)),
        Ok(v1::Continuity::SameModel) => Ok(Some(Continuity::SameModel)),
        Ok(v1::Continuity::Prefill) => Ok(Some(Continuity::Prefill)),
        Ok(v1::Continuity::Restart) => Ok(Some(Continuity::Restart)),
        Ok(v1::Continuity::Fail) => Ok(Some(Continuity::Fail)),
        Err(_) => Err(FieldError::new(
            "continuity",
            value,
            "CONTINUITY_EXACT (1), SAME_MODEL (2), PREFILL (3), RESTART (4) or FAIL (5)",
        )),
    }
}

fn continuity_to_wire(continuity: Continuity) -> v1::Continuity {
    match continuity {
        Continuity::Exact => v1::Continuity::Exact,
        Continuity::SameModel => v1::Continuity::SameModel,
        Continuity::Prefill => v1::Continuity::Prefill,
        Continuity::Restart => v1::Continuity::Restart,
        Continuity::Fail => v1::Continuity::Fail,
    }
}

fn role(name: &str) -> Result<Role, FieldError> {
    match name {
        "system" => Ok(Role::System),
        "user" => Ok(Role::User),
        "assistant" => Ok(Role::Assistant),
        other => Err(FieldError::new(
            "content.messages.role",
            format!("`{}`", other.chars().take(32).collect::<String>()),
            "system, user or assistant",
        )),
    }
}

fn content(content: v1::infer_request::Content) -> Result<Content, FieldError> {
    use v1::infer_request::Content as Wire;
    match content {
        Wire::Prompt(text) => Ok(Content::Prompt(text)),
        Wire::Messages(messages) => {
            let message = |m: v1::Message| {
                Ok(Message {
                    role: role(&m.role)?,
                    text: m.text,
                })
            };
            let messages: Result<_, FieldError> = messages.items.into_iter().map(message).collect();
            Ok(Content::Messages(messages?))
        }
    }
}

fn device(info: v1::DeviceInfo) -> Result<DeviceInfo, FieldError> {
    use v1::device_info as wire;
    let thermal = match wire::Thermal::try_from(info.thermal) {
        Ok(wire::Thermal::Unspecified) => None,
        Ok(wire::Thermal::Nominal) => Some(Thermal::Nominal),
        Ok(wire::Thermal::Serious) => Some(Thermal::Serious),
        Ok(wire::Thermal::Critical) => Some(Thermal::Critical),
        Err(_) => {
            let allowed = "NOMINAL (1), SERIOUS (2) or CRITICAL (3)";
            return Err(FieldError::new(
                "device_info.thermal",
                info.thermal,
                allowed,
            ));
        }
    };
    let network = match wire::Network::try_from(info.network) {
        Ok(wire::Network::Unspecified) => None,
        Ok(wire::Network::Offline) => Some(NetworkKind::Offline),
        Ok(wire::Network::Metered) => Some(NetworkKind::Metered),
        Ok(wire::Network::Unmetered) => Some(NetworkKind::Unmetered),
        Err(_) => {
            let allowed = "OFFLINE (1), METERED (2) or UNMETERED (3)";
            return Err(FieldError::new(
                "device_info.network",
                info.network,
                allowed,
            ));
        }
    };
    let battery = info.battery_percent.map(u8::try_from).transpose();
    Ok(DeviceInfo {
        battery_percent: battery.map_err(|_| {
            let value = info.battery_percent.unwrap_or_default();
            FieldError::new("device_info.battery_percent", value, "0 to 100")
        })?,
        thermal,
        network,
        free_memory_mib: info.free_memory_mib,
    })
}

fn device_to_wire(info: DeviceInfo) -> v1::DeviceInfo {
    use v1::device_info as wire;
    v1::DeviceInfo {
        battery_percent: info.battery_percent.map(u32::from),
        thermal: info
            .thermal
            .map_or(wire::Thermal::Unspecified, |t| match t {
                Thermal::Nominal => wire::Thermal::Nominal,
                Thermal::Serious => wire::Thermal::Serious,
                Thermal::Critical => wire::Thermal::Critical,
            }) as i32,
        network: info
            .network
            .map_or(wire::Network::Unspecified, |n| match n {
                NetworkKind::Offline => wire::Network::Offline,
                NetworkKind::Metered => wire::Network::Metered,
                NetworkKind::Unmetered => wire::Network::Unmetered,
            }) as i32,
        free_memory_mib: info.free_memory_mib,
    }
}

impl TryFrom<v1::InferRequest> for RawRequest {
    type Error = FieldError;

    /// Enum values are checked here; bounds are checked by
    /// [`RawRequest::validate`], after the door has filled its defaults in.
    fn try_from(wire: v1::InferRequest) -> Result<Self, FieldError> {
        let sampling = wire.sampling.unwrap_or_default();
        let deadline = wire.deadline_ms.unwrap_or_default();
        Ok(Self {
            request_id: wire.request_id,
            user_id: wire.user_id,
            task: task(wire.task)?,
            content: wire.content.map(content).transpose()?,
            model: wire.model,
            policy: wire.policy,
            first_token_ms: deadline.first_token,
            total_ms: deadline.total,
            max_cost_usd: wire.max_cost_usd,
            privacy: privacy(wire.privacy)?,
            residency: wire.residency,
            continuity: continuity(wire.continuity)?,
            seed: wire.seed.unwrap_or_default(),
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            logit_bias: sampling.logit_bias.into_iter().collect(),
            logprobs: sampling.logprobs,
            max_tokens: sampling.max_tokens,
            stop: sampling.stop,
            constraint: sampling.constraint.map(constraint),
            device: wire
                .device_info
                .map(device)
                .transpose()?
                .unwrap_or_default(),
        })
    }
}

fn constraint(wire: v1::sampling::Constraint) -> OutputConstraint {
    use v1::sampling::Constraint as Wire;
    match wire {
        Wire::JsonSchema(schema) => OutputConstraint::JsonSchema(schema),
        Wire::Regex(regex) => OutputConstraint::Regex(regex),
        Wire::Choice(choice) => OutputConstraint::Choice(choice.texts),
        Wire::Grammar(grammar) => OutputConstraint::Grammar(grammar),
    }
}

fn constraint_to_wire(constraint: &OutputConstraint) -> v1::sampling::Constraint {
    use v1::sampling::Constraint as Wire;
    match constraint.clone() {
        OutputConstraint::JsonSchema(schema) => Wire::JsonSchema(schema),
        OutputConstraint::Regex(regex) => Wire::Regex(regex),
        OutputConstraint::Choice(texts) => Wire::Choice(v1::Choice { texts }),
        OutputConstraint::Grammar(grammar) => Wire::Grammar(grammar),
    }
}

/// A request's metadata and opened content as its wire form. Whoever calls
/// this holds the content, and so held a permit.
#[must_use]
pub fn request_to_wire(meta: &RequestMeta, content: &Content) -> v1::InferRequest {
    use v1::infer_request::Content as Wire;
    let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    v1::InferRequest {
        request_id: meta.request_id.to_string(),
        user_id: meta.user_id.to_string(),
        task: v1::Task::from(meta.task) as i32,
        content: Some(match content {
            Content::Prompt(text) => Wire::Prompt(text.clone()),
            Content::Messages(messages) => Wire::Messages(v1::Messages {
                items: messages
                    .iter()
                    .map(|m| v1::Message {
                        role: m.role.as_str().to_owned(),
                        text: m.text.clone(),
                    })
                    .collect(),
            }),
        }),
        model: meta.model.as_str().to_owned(),
        policy: meta.policy.to_string(),
        deadline_ms: (meta.first_token.is_some() || meta.total.is_some()).then(|| v1::DeadlineMs {
            first_token: meta.first_token.map(ms),
            total: meta.total.map(ms),
        }),
        max_cost_usd: meta.max_cost.map(tiermesh_core::Usd::as_dollars),
        privacy: privacy_to_wire(meta.privacy) as i32,
        residency: meta
            .residency
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        continuity: continuity_to_wire(meta.continuity) as i32,
        seed: Some(meta.seed),
        sampling: Some(v1::Sampling {
            temperature: Some(meta.sampling.temperature),
            top_p: Some(meta.sampling.top_p),
            top_k: Some(meta.sampling.top_k),
            min_p: Some(meta.sampling.min_p),
            repetition_penalty: meta.sampling.repetition_penalty,
            presence_penalty: Some(meta.sampling.presence_penalty),
            frequency_penalty: Some(meta.sampling.frequency_penalty),
            logit_bias: meta.sampling.logit_bias.iter().copied().collect(),
            logprobs: meta.sampling.logprobs.map(u32::from),
            max_tokens: Some(meta.sampling.max_tokens),
            stop: meta.sampling.stop.clone(),
            constraint: meta.sampling.constraint.as_ref().map(constraint_to_wire),
        }),
        device_info: Some(device_to_wire(meta.device)),
        resumable: false,
    }
}

/// A failure's class from its spelling on the link; unknown ones are internal.
#[must_use]
pub fn error_class(name: &str) -> ErrorClass {
    const ALL: [ErrorClass; 9] = [
        ErrorClass::InvalidArgument,
        ErrorClass::NotFound,
        ErrorClass::Forbidden,
        ErrorClass::Unauthenticated,
        ErrorClass::Exhausted,
        ErrorClass::DeadlineExceeded,
        ErrorClass::Cancelled,
        ErrorClass::Unavailable,
        ErrorClass::Internal,
    ];
    ALL.into_iter()
        .find(|class| class.as_str() == name)
        .unwrap_or(ErrorClass::Internal)
}

/// A validated request back from its wire form, for the link's receiver.
pub(crate) fn request(wire: v1::InferRequest) -> Result<Request, WireError> {
    Ok(RawRequest::try_from(wire)?.validate()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_wire() {
        let raw = RawRequest {
            request_id: "r".into(),
            user_id: "u".into(),
            policy: "healthcare".into(),
            content: Some(Content::Messages(vec![Message {
                role: Role::User,
                text: "ซัมซุง Galaxy".into(),
            }])),
            model: "brand-extractor".into(),
            first_token_ms: Some(50),
            total_ms: Some(1000),
            max_cost_usd: Some(0.25),
            privacy: Some(Privacy::Edge),
            residency: "ap-southeast-7".into(),
            continuity: Some(Continuity::SameModel),
            seed: 7,
            temperature: Some(0.5),
            top_k: Some(40),
            min_p: Some(0.02),
            repetition_penalty: Some(1.1),
            presence_penalty: Some(0.5),
            frequency_penalty: Some(-0.5),
            logit_bias: vec![(50_256, -100.0), (7, 2.5)],
            logprobs: Some(5),
            stop: vec!["}".into()],
            device: DeviceInfo {
                battery_percent: Some(20),
                thermal: Some(Thermal::Serious),
                network: Some(NetworkKind::Metered),
                free_memory_mib: Some(512),
            },
            ..RawRequest::default()
        };
        let sent = raw.validate().unwrap();
        let received = request(request_to_wire(&sent.meta, &sent.content)).unwrap();
        assert_eq!(received, sent);
    }

    #[test]
    fn unknown_enum_values_name_their_field() {
        let wire = v1::InferRequest {
            privacy: 77,
            ..v1::InferRequest::default()
        };
        let error = RawRequest::try_from(wire).unwrap_err();
        assert_eq!(error.field, "privacy");
        assert!(error.to_string().contains("PRIVACY_EDGE"), "{error}");
    }
}
