//! A chat completion's request body. What we do not do is refused by name,
//! and never silently left out.

use super::{constraint, headers};
use serde_json::{Map, Value};
use tiermesh_core::{Content, ErrorClass, InferError, Message, RawRequest, Role, Task};

/// A parsed request body.
#[derive(Debug, Default)]
pub(super) struct Ask {
    pub(super) raw: RawRequest,
    pub(super) seed: Option<u64>,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    /// Alternatives asked for beside each token; `logprobs` has to be asked
    /// for with them.
    top_logprobs: Option<u32>,
}

impl Ask {
    pub(super) fn parse(body: &[u8]) -> Result<Self, InferError> {
        let fields: Map<String, Value> = serde_json::from_slice(body).map_err(|error| {
            // The error's own text may quote content.
            let (line, column) = (error.line(), error.column());
            let message = format!("the body is no JSON object: line {line}, column {column}");
            InferError::new(ErrorClass::InvalidArgument, "INVALID_JSON", message)
        })?;
        for required in ["model", "messages"] {
            if fields.get(required).is_none_or(Value::is_null) {
                return Err(refuse(
                    "MISSING_REQUIRED_PARAMETER",
                    required,
                    format!("`{required}` is required"),
                ));
            }
        }
        let mut ask = Self::default();
        ask.raw.task = Some(Task::Chat);
        for (name, value) in fields {
            // Every field is nullable in one client or another.
            if !value.is_null() {
                ask.set(&name, value)?;
            }
        }
        match (ask.raw.logprobs, ask.top_logprobs) {
            (Some(_), Some(top)) => ask.raw.logprobs = Some(top),
            (None, Some(1..)) => {
                return Err(unsupported("top_logprobs", "`logprobs` has to be true"));
            }
            _ => {}
        }
        if ask.include_usage && !ask.stream {
            return Err(unsupported("stream_options", "only a stream has options"));
        }
        Ok(ask)
    }

    fn set(&mut self, name: &str, value: Value) -> Result<(), InferError> {
        let raw = &mut self.raw;
        match name {
            "model" => raw.model = string(name, value)?,
            "messages" => raw.content = Some(Content::Messages(messages(value)?)),
            "max_tokens" | "max_completion_tokens" => {
                let most = whole(name, &value)?.min(u64::from(u32::MAX));
                let most = u32::try_from(most).unwrap_or(u32::MAX);
                raw.max_tokens = Some(raw.max_tokens.map_or(most, |other| other.min(most)));
            }
            "temperature" => raw.temperature = Some(float(name, &value)?),
            "top_p" => raw.top_p = Some(float(name, &value)?),
            // Not OpenAI's own, and common beside it.
            "top_k" => raw.top_k = Some(top_k(name, &value)?),
            "min_p" => raw.min_p = Some(float(name, &value)?),
            "repetition_penalty" => raw.repetition_penalty = Some(float(name, &value)?),
            "presence_penalty" => raw.presence_penalty = Some(float(name, &value)?),
            "frequency_penalty" => raw.frequency_penalty = Some(float(name, &value)?),
            "logit_bias" => raw.logit_bias = biases(name, value)?,
            "logprobs" => raw.logprobs = boolean(name, &value)?.then_some(0),
            "top_logprobs" => {
                let top = whole(name, &value)?.min(u64::from(u32::MAX));
                self.top_logprobs = u32::try_from(top).ok();
            }
            "stop" => raw.stop = stops(value)?,
            "response_format" => raw.constraint = constraint::response_format(value)?,
            "guided_json" | "guided_regex" | "guided_choice" | "guided_grammar" => {
                raw.constraint = Some(constraint::guided(name, value)?);
            }
            "seed" => self.seed = Some(seed(&value)?),
            "stream" => self.stream = boolean(name, &value)?,
            "stream_options" => self.include_usage = include_usage(value)?,
            "user" | "safety_identifier" => raw.user_id = string(name, value)?,
            "metadata" => self.metadata(value)?,
            other => neutral(other, &value)?,
        }
        Ok(())
    }

    fn metadata(&mut self, value: Value) -> Result<(), InferError> {
        let Value::Object(entries) = value else {
            return Err(wrong_type("metadata", "an object of strings"));
        };
        for (key, value) in entries {
            let Value::String(value) = value else {
                return Err(wrong_type("metadata", "an object of strings"));
            };
            headers::from_metadata(self, &key, &value)?;
        }
        Ok(())
    }
}

/// Fields that change nothing at one value, and that we do not do at others.
fn neutral(name: &str, value: &Value) -> Result<(), InferError> {
    let empty = || {
        value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
    };
    let (good, only) = match name {
        "n" => (value.as_u64() == Some(1), "1 answer is given"),
        "tools" | "functions" => (empty(), "it has to be empty"),
        "tool_choice" | "function_call" => (
            value == "none" || value == "auto",
            "there are no tools here",
        ),
        "store" => (value == &Value::Bool(false), "only `false` is done"),
        "modalities" => (value == &serde_json::json!(["text"]), "only text is given"),
        "service_tier" => (value == "auto" || value == "default", "there is one"),
        "verbosity" => (value == "medium", "only `medium` is done"),
        "reasoning_effort" => (value == "none", "only `none` is done"),
        "parallel_tool_calls" | "prompt_cache_key" | "prompt_cache_retention" => (true, ""),
        "audio" | "prediction" | "web_search_options" | "moderation" => {
            (false, "it is not done here")
        }
        other => {
            let name: String = other
                .chars()
                .take(64)
                .flat_map(char::escape_debug)
                .collect();
            let message = format!("there is no parameter `{name}`");
            return Err(refuse("UNKNOWN_PARAMETER", &name, message));
        }
    };
    if good {
        Ok(())
    } else {
        Err(unsupported(name, only))
    }
}

fn messages(value: Value) -> Result<Vec<Message>, InferError> {
    let Value::Array(items) = value else {
        return Err(wrong_type("messages", "an array of messages"));
    };
    let message = |(at, item)| message(&format!("messages[{at}]"), item);
    items.into_iter().enumerate().map(message).collect()
}

fn message(path: &str, value: Value) -> Result<Message, InferError> {
    let Value::Object(fields) = value else {
        return Err(wrong_type(path, "an object with `role` and `content`"));
    };
    let (mut role, mut text) = (None, None);
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        match name.as_str() {
            "role" => role = Some(self::role(&path, &value)?),
            "content" if !value.is_null() => text = Some(content(&path, value)?),
            // Clients hand whole answers back, with empty fields in them.
            _ if is_empty(&value) => {}
            _ => return Err(unsupported(&path, "it is not done here")),
        }
    }
    let missing = |name| {
        let message = format!("`{path}.{name}` is required");
        refuse(
            "MISSING_REQUIRED_PARAMETER",
            &format!("{path}.{name}"),
            message,
        )
    };
    Ok(Message {
        role: role.ok_or_else(|| missing("role"))?,
        text: text.ok_or_else(|| missing("content"))?,
    })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn role(path: &str, value: &Value) -> Result<Role, InferError> {
    match value.as_str() {
        Some("system" | "developer") => Ok(Role::System),
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        Some("tool" | "function") => Err(unsupported(path, "there are no tools here")),
        _ => Err(refuse(
            "INVALID_VALUE",
            path,
            format!("`{path}` is one of system, developer, user and assistant"),
        )),
    }
}

/// A string, or text parts, which are joined by line ends.
fn content(path: &str, value: Value) -> Result<String, InferError> {
    let parts = match value {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        _ => return Err(wrong_type(path, "a string or an array of text parts")),
    };
    let mut text = String::new();
    for (at, mut part) in parts.into_iter().enumerate() {
        let kind = part.get("type").and_then(Value::as_str);
        if kind != Some("text") {
            let path = format!("{path}[{at}].type");
            return Err(unsupported(&path, "only parts of type `text` are read"));
        }
        let Some(Value::String(part)) = part.get_mut("text").map(Value::take) else {
            return Err(wrong_type(&format!("{path}[{at}].text"), "a string"));
        };
        if at > 0 {
            text.push('\n');
        }
        text.push_str(&part);
    }
    Ok(text)
}

fn stops(value: Value) -> Result<Vec<String>, InferError> {
    match value {
        Value::String(stop) => Ok(vec![stop]),
        Value::Array(stops) => stops.into_iter().map(|stop| string("stop", stop)).collect(),
        _ => Err(wrong_type("stop", "a string or an array of strings")),
    }
}

/// Biases by token: an object whose keys are numbers.
fn biases(name: &str, value: Value) -> Result<Vec<(u32, f32)>, InferError> {
    let wrong = || wrong_type(name, "an object of numbers by token ids");
    let Value::Object(biases) = value else {
        return Err(wrong());
    };
    let bias = |(token, bias): (String, Value)| {
        let token = token.parse().map_err(|_| wrong())?;
        Ok((token, float(name, &bias)?))
    };
    biases.into_iter().map(bias).collect()
}

/// Some clients say −1 for all tokens, where the mesh says 0.
fn top_k(name: &str, value: &Value) -> Result<u32, InferError> {
    if value.as_i64() == Some(-1) {
        return Ok(0);
    }
    let kept = whole(name, value)?.min(u64::from(u32::MAX));
    Ok(u32::try_from(kept).unwrap_or(u32::MAX))
}

fn seed(value: &Value) -> Result<u64, InferError> {
    let signed = || value.as_i64().map(i64::cast_unsigned);
    value
        .as_u64()
        .or_else(signed)
        .ok_or_else(|| wrong_type("seed", "a whole number"))
}

fn include_usage(value: Value) -> Result<bool, InferError> {
    let Value::Object(options) = value else {
        return Err(wrong_type("stream_options", "an object"));
    };
    let mut usage = false;
    for (name, value) in options {
        let path = format!("stream_options.{name}");
        match name.as_str() {
            "include_usage" => usage = boolean(&path, &value)?,
            // Padding against traffic analysis: leaving it out is allowed.
            "include_obfuscation" => {}
            _ => return Err(unsupported(&path, "it is not done here")),
        }
    }
    Ok(usage)
}

fn string(name: &str, value: Value) -> Result<String, InferError> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(wrong_type(name, "a string")),
    }
}

fn boolean(name: &str, value: &Value) -> Result<bool, InferError> {
    value
        .as_bool()
        .ok_or_else(|| wrong_type(name, "true or false"))
}

fn whole(name: &str, value: &Value) -> Result<u64, InferError> {
    value
        .as_u64()
        .ok_or_else(|| wrong_type(name, "a whole number"))
}

#[expect(clippy::cast_possible_truncation, reason = "f32 is what sampling uses")]
fn float(name: &str, value: &Value) -> Result<f32, InferError> {
    let number = value.as_f64().ok_or_else(|| wrong_type(name, "a number"))?;
    Ok(number as f32)
}

pub(super) fn wrong_type(name: &str, expected: &str) -> InferError {
    refuse("INVALID_TYPE", name, format!("`{name}` is {expected}"))
}

pub(super) fn unsupported(name: &str, why: &str) -> InferError {
    let message = format!("`{name}` is not supported with this value: {why}");
    refuse("UNSUPPORTED_PARAMETER", name, message)
}

pub(super) fn refuse(reason: &'static str, name: &str, message: String) -> InferError {
    InferError::new(ErrorClass::InvalidArgument, reason, message).with("field", name)
}
