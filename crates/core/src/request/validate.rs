//! The door's check: raw fields in, a [`Request`] or the offending field out.

use super::{
    Content, Continuity, DEFAULT_OUTPUT_TOKENS, DeviceInfo, MAX_CHOICES, MAX_CONSTRAINT_BYTES,
    MAX_CONTENT_BYTES, MAX_DEADLINE_MS, MAX_LOGIT_BIASES, MAX_MESSAGES, MAX_OUTPUT_TOKENS,
    MAX_STOP_BYTES, MAX_STOPS, MAX_TOP_LOGPROBS, ModelSelector, OutputConstraint, Request,
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
    /// Share of the likeliest token's probability; 0 when absent.
    pub min_p: Option<f32>,
    /// Repetition penalty; the model's own when absent.
    pub repetition_penalty: Option<f32>,
    /// Presence penalty; 0 when absent.
    pub presence_penalty: Option<f32>,
    /// Frequency penalty; 0 when absent.
    pub frequency_penalty: Option<f32>,
    /// Biases by token, in any order.
    pub logit_bias: Vec<(u32, f32)>,
    /// Alternatives to tell beside each token's log-probability; neither is
    /// told when absent.
    pub logprobs: Option<u32>,
    /// Bound on the answer.
    pub max_tokens: Option<u32>,
    /// Stop strings.
    pub stop: Vec<String>,
    /// What the answer must fit.
    pub constraint: Option<OutputConstraint>,
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
            prefix: super::prefix::prefix(&content),
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
        within("temperature", temperature, 0.0, 2.0, "0 to 2")?;
        let top_p = self.top_p.unwrap_or(1.0);
        within("top_p", top_p, f32::MIN_POSITIVE, 1.0, "over 0, at most 1")?;
        let min_p = self.min_p.unwrap_or(0.0);
        within("min_p", min_p, 0.0, 1.0, "0 to 1")?;
        if let Some(penalty) = self.repetition_penalty {
            within("repetition_penalty", penalty, 0.1, 10.0, "0.1 to 10")?;
        }
        let presence_penalty = self.presence_penalty.unwrap_or(0.0);
        within("presence_penalty", presence_penalty, -2.0, 2.0, "-2 to 2")?;
        let frequency_penalty = self.frequency_penalty.unwrap_or(0.0);
        within("frequency_penalty", frequency_penalty, -2.0, 2.0, "-2 to 2")?;
        let max_tokens = self.max_tokens.unwrap_or(DEFAULT_OUTPUT_TOKENS);
        if max_tokens == 0 || max_tokens > MAX_OUTPUT_TOKENS {
            return Err(FieldError::new("max_tokens", max_tokens, "1 to 8192"));
        }
        let logprobs = self.logprobs.map(u8::try_from).transpose();
        let logprobs = logprobs.ok().filter(|top| *top <= Some(MAX_TOP_LOGPROBS));
        let logprobs = logprobs.ok_or_else(|| {
            let value = self.logprobs.unwrap_or_default();
            FieldError::new("logprobs", value, "0 to 20 alternatives")
        })?;
        Ok(Sampling {
            temperature,
            top_p,
            top_k: self.top_k.unwrap_or(0),
            min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias: self.biases()?,
            logprobs,
            max_tokens,
            stop: self.stops()?,
            constraint: self.constraint()?,
        })
    }

    fn biases(&self) -> Result<Vec<(u32, f32)>, FieldError> {
        const FIELD: &str = "logit_bias";
        let count = self.logit_bias.len();
        if count > MAX_LOGIT_BIASES {
            let value = format!("{count} tokens");
            return Err(FieldError::new(FIELD, value, "at most 1024 tokens"));
        }
        let mut biases = self.logit_bias.clone();
        biases.sort_unstable_by_key(|(token, _)| *token);
        for (_, bias) in &biases {
            within(FIELD, *bias, -100.0, 100.0, "-100 to 100 for each token")?;
        }
        match biases.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(twice) => Err(FieldError::new(
                FIELD,
                format!("token {} twice", twice[0].0),
                "each token once",
            )),
            None => Ok(biases),
        }
    }

    fn constraint(&self) -> Result<Option<OutputConstraint>, FieldError> {
        const FIELD: &str = "sampling.constraint";
        let Some(constraint) = &self.constraint else {
            return Ok(None);
        };
        let bytes = constraint.bytes();
        if bytes == 0 || bytes > MAX_CONSTRAINT_BYTES {
            let value = format!("{bytes} bytes");
            return Err(FieldError::new(FIELD, value, "1 to 65536 bytes"));
        }
        if let OutputConstraint::Choice(texts) = constraint
            && (texts.len() > MAX_CHOICES || texts.iter().any(String::is_empty))
        {
            let value = format!("{} texts", texts.len());
            return Err(FieldError::new(FIELD, value, "1 to 256 texts, none empty"));
        }
        Ok(Some(constraint.clone()))
    }

    fn stops(&self) -> Result<Vec<String>, FieldError> {
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
        Ok(self.stop.clone())
    }
}

/// A number that is none is in no range.
fn within(
    field: &'static str,
    value: f32,
    low: f32,
    high: f32,
    allowed: &'static str,
) -> Result<(), FieldError> {
    match (low..=high).contains(&value) {
        true => Ok(()),
        false => Err(FieldError::new(field, value, allowed)),
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
mod tests;
