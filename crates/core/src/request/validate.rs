//! The door's check: raw fields in, a [`Request`] or the offending field out.

use super::{
    Content, Continuity, DEFAULT_OUTPUT_TOKENS, DeviceInfo, MAX_CONTENT_BYTES, MAX_DEADLINE_MS,
    MAX_MESSAGES, MAX_OUTPUT_TOKENS, MAX_STOP_BYTES, MAX_STOPS, ModelSelector, Request,
    RequestMeta, Sampling, Task,
};
use crate::id::{InvalidName, ModelId, PolicyName, Region, RequestId, UserId};
use crate::money::Usd;
use crate::privacy::Privacy;
use std::time::Duration;

/// A field that was refused, with what it may hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` is {value}: {allowed}")]
pub struct FieldError {
    /// The field by its name in the API.
    pub field: &'static str,
    /// What was sent, shortened. Never content.
    pub value: String,
    /// What may be sent.
    pub allowed: &'static str,
}

impl FieldError {
    /// Names the field, the value and what is allowed.
    #[must_use]
    pub fn new(field: &'static str, value: impl ToString, allowed: &'static str) -> Self {
        let value = value.to_string().chars().take(80).collect();
        Self {
            field,
            value,
            allowed,
        }
    }
}

/// A request as it arrived, before any check. Doors fill what they know and
/// leave the rest at its default.
#[derive(Debug, Clone, Default)]
pub struct RawRequest {
    /// Drawn by the door when the client sent none.
    pub request_id: String,
    /// Who asks; the door's default user when empty.
    pub user_id: String,
    /// The task; generate when absent.
    pub task: Option<Task>,
    /// What the model reads.
    pub content: Option<Content>,
    /// A model, a family, `auto` or nothing.
    pub model: String,
    /// A policy's name; never empty once the door has filled its default in.
    pub policy: String,
    /// Milliseconds to the first token.
    pub first_token_ms: Option<u64>,
    /// Milliseconds to the end.
    pub total_ms: Option<u64>,
    /// The most it may cost, in dollars.
    pub max_cost_usd: Option<f64>,
    /// How far content may travel.
    pub privacy: Option<Privacy>,
    /// The only region that may see it.
    pub residency: String,
    /// The weakest continuation accepted.
    pub continuity: Option<Continuity>,
    /// Drawn by the door when the client sent none.
    pub seed: u64,
    /// Temperature; 0 when absent.
    pub temperature: Option<f32>,
    /// Nucleus mass; 1 when absent.
    pub top_p: Option<f32>,
    /// Likeliest tokens kept; all when absent.
    pub top_k: Option<u32>,
    /// Bound on the answer.
    pub max_tokens: Option<u32>,
    /// Stop strings.
    pub stop: Vec<String>,
    /// What the client says of its device.
    pub device: DeviceInfo,
}

impl RawRequest {
    /// Checks every field.
    ///
    /// # Errors
    /// The first field that does not fit, with its value and what is allowed.
    pub fn validate(self) -> Result<Request, FieldError> {
        let sampling = self.sampling()?;
        let content = check_content(self.content)?;
        let task = self.task.unwrap_or(match content {
            Content::Prompt(_) => Task::Generate,
            Content::Messages(_) => Task::Chat,
        });
        let model = match self.model.as_str() {
            "" | "auto" => ModelSelector::Auto,
            name => ModelSelector::Named(parse("model", ModelId::new(name))?),
        };
        let residency = match self.residency.as_str() {
            "" => None,
            name => Some(parse("residency", Region::new(name))?),
        };
        let meta = RequestMeta {
            request_id: parse("request_id", RequestId::new(&self.request_id))?,
            user_id: parse("user_id", UserId::new(&self.user_id))?,
            task,
            model,
            policy: parse("policy", PolicyName::new(&self.policy))?,
            first_token: deadline("deadline_ms.first_token", self.first_token_ms)?,
            total: deadline("deadline_ms.total", self.total_ms)?,
            max_cost: cost(self.max_cost_usd)?,
            privacy: self.privacy.unwrap_or(Privacy::Any),
            residency,
            continuity: self.continuity.unwrap_or(Continuity::Prefill),
            seed: self.seed,
            sampling,
            device: self.device,
            content_bytes: content.bytes(),
        };
        if meta.device.battery_percent.is_some_and(|p| p > 100) {
            return Err(FieldError::new(
                "device_info.battery_percent",
                meta.device.battery_percent.unwrap_or_default(),
                "0 to 100",
            ));
        }
        Ok(Request { meta, content })
    }

    fn sampling(&self) -> Result<Sampling, FieldError> {
        let temperature = self.temperature.unwrap_or(0.0);
        if !(0.0..=2.0).contains(&temperature) {
            return Err(FieldError::new("temperature", temperature, "0 to 2"));
        }
        let top_p = self.top_p.unwrap_or(1.0);
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(FieldError::new("top_p", top_p, "over 0, at most 1"));
        }
        let max_tokens = self.max_tokens.unwrap_or(DEFAULT_OUTPUT_TOKENS);
        if max_tokens == 0 || max_tokens > MAX_OUTPUT_TOKENS {
            return Err(FieldError::new("max_tokens", max_tokens, "1 to 8192"));
        }
        if self.stop.len() > MAX_STOPS {
            return Err(FieldError::new(
                "stop",
                format!("{} strings", self.stop.len()),
                "at most 8 strings",
            ));
        }
        let bad_stop = |s: &&String| s.is_empty() || s.len() > MAX_STOP_BYTES;
        if let Some(stop) = self.stop.iter().find(bad_stop) {
            return Err(FieldError::new(
                "stop",
                format!("a string of {} bytes", stop.len()),
                "strings of 1 to 128 bytes",
            ));
        }
        Ok(Sampling {
            temperature,
            top_p,
            top_k: self.top_k.unwrap_or(0),
            max_tokens,
            stop: self.stop.clone(),
        })
    }
}

fn parse<T>(field: &'static str, parsed: Result<T, InvalidName>) -> Result<T, FieldError> {
    parsed.map_err(|error| {
        FieldError::new(
            field,
            format!("`{}`", error.value),
            "1 to 200 characters of A-Z a-z 0-9 . _ : / @ + -",
        )
    })
}

fn check_content(content: Option<Content>) -> Result<Content, FieldError> {
    let content = content.ok_or(FieldError::new("content", "absent", "a prompt or messages"))?;
    if content.bytes() == 0 {
        return Err(FieldError::new(
            "content",
            "empty",
            "at least one byte of text",
        ));
    }
    if content.bytes() > MAX_CONTENT_BYTES {
        return Err(FieldError::new(
            "content",
            format!("{} bytes", content.bytes()),
            "at most 262144 bytes over all messages",
        ));
    }
    if let Content::Messages(messages) = &content
        && messages.len() > MAX_MESSAGES
    {
        return Err(FieldError::new(
            "content.messages",
            format!("{} messages", messages.len()),
            "at most 256 messages",
        ));
    }
    Ok(content)
}

fn deadline(field: &'static str, ms: Option<u64>) -> Result<Option<Duration>, FieldError> {
    match ms {
        None => Ok(None),
        Some(ms @ 1..=MAX_DEADLINE_MS) => Ok(Some(Duration::from_millis(ms))),
        Some(ms) => Err(FieldError::new(field, ms, "1 to 86400000 milliseconds")),
    }
}

fn cost(dollars: Option<f64>) -> Result<Option<Usd>, FieldError> {
    let Some(dollars) = dollars else {
        return Ok(None);
    };
    Usd::from_dollars(dollars).map(Some).ok_or_else(|| {
        FieldError::new(
            "max_cost_usd",
            dollars,
            "a number of US dollars from 0 to 1000000000",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw() -> RawRequest {
        RawRequest {
            request_id: "r1".into(),
            user_id: "u1".into(),
            policy: "interactive".into(),
            content: Some(Content::Prompt("title".into())),
            ..RawRequest::default()
        }
    }

    fn refused(change: impl FnOnce(&mut RawRequest)) -> FieldError {
        let mut raw = raw();
        change(&mut raw);
        raw.validate().unwrap_err()
    }

    #[test]
    fn defaults_fill_what_the_client_leaves_out() {
        let request = raw().validate().unwrap();
        assert_eq!(request.meta.task, Task::Generate);
        assert_eq!(request.meta.model, ModelSelector::Auto);
        assert_eq!(request.meta.privacy, Privacy::Any);
        assert_eq!(request.meta.content_bytes, 5);
    }

    #[test]
    fn every_bad_field_is_named() {
        assert_eq!(refused(|r| r.content = None).field, "content");
        assert_eq!(
            refused(|r| r.content = Some(Content::Prompt("x".repeat(MAX_CONTENT_BYTES + 1)))).field,
            "content"
        );
        assert_eq!(refused(|r| r.total_ms = Some(0)).field, "deadline_ms.total");
        assert_eq!(
            refused(|r| r.first_token_ms = Some(0)).field,
            "deadline_ms.first_token"
        );
        for bad in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(
                refused(|r| r.max_cost_usd = Some(bad)).field,
                "max_cost_usd"
            );
        }
        assert_eq!(
            refused(|r| r.temperature = Some(f32::NAN)).field,
            "temperature"
        );
        assert_eq!(refused(|r| r.top_p = Some(0.0)).field, "top_p");
        assert_eq!(refused(|r| r.max_tokens = Some(0)).field, "max_tokens");
        assert_eq!(refused(|r| r.model = "a b".into()).field, "model");
        assert_eq!(refused(|r| r.stop = vec![String::new()]).field, "stop");
        assert_eq!(
            refused(|r| r.device.battery_percent = Some(101)).field,
            "device_info.battery_percent"
        );
    }

    #[test]
    fn content_never_shows_in_debug_output() {
        let request = RawRequest {
            content: Some(Content::Prompt("top secret".into())),
            ..raw()
        };
        let shown = format!("{:?}", request.validate().unwrap());
        assert!(!shown.contains("secret"), "{shown}");
    }
}
