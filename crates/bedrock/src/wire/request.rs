//! Converse's request body as a raw request of the mesh.
//!
//! The body is walked by hand instead of derived, so that an error names the
//! path of the offending field and never repeats what the field holds.

use serde_json::{Map, Value};
use tiermesh_core::{
    Content, Continuity, ErrorClass, InferError, Message, Privacy, RawRequest, Role, Task,
};

/// Fields that change nothing in the answer's text: hints on price and speed,
/// and what to report besides.
const HINTS: [&str; 3] = [
    "performanceConfig",
    "serviceTier",
    "additionalModelResponseFieldPaths",
];

/// Reads a body for the model that the path named.
///
/// # Errors
/// `InvalidArgument` with the field's path, for anything that is not a request
/// of text that the mesh can serve.
pub fn parse(model: &str, body: &[u8]) -> Result<RawRequest, InferError> {
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        invalid(
            "body",
            format!("is not JSON at line {line}, column {column}"),
        )
    })?;
    let body = object(&value, "body")?;
    let mut raw = RawRequest {
        task: Some(Task::Chat),
        model: model.to_owned(),
        ..RawRequest::default()
    };
    let mut said = Vec::new();
    for (key, value) in body.iter().filter(|(_, value)| !value.is_null()) {
        match key.as_str() {
            // Instructions first, wherever the body has them.
            "system" => said.splice(0..0, system(value)?).for_each(drop),
            "messages" => said.extend(messages(value)?),
            "inferenceConfig" => inference(object(value, key)?, &mut raw)?,
            "additionalModelRequestFields" => additional(object(value, key)?, &mut raw)?,
            "requestMetadata" => metadata(object(value, key)?, &mut raw)?,
            key if HINTS.contains(&key) => {}
            key => return Err(unsupported(&shown(key))),
        }
    }
    if !said.iter().any(|message| message.role != Role::System) {
        return Err(invalid("messages", "has no text: at least one is needed"));
    }
    raw.content = Some(Content::Messages(said));
    Ok(raw)
}

fn system(value: &Value) -> Result<Vec<Message>, InferError> {
    let blocks = array(value, "system")?;
    let mut said = Vec::with_capacity(blocks.len());
    for (at, block) in blocks.iter().enumerate() {
        if let Some(text) = text_of(block, &format!("system[{at}]"))? {
            let (role, text) = (Role::System, text.to_owned());
            said.push(Message { role, text });
        }
    }
    Ok(said)
}

fn messages(value: &Value) -> Result<Vec<Message>, InferError> {
    let list = array(value, "messages")?;
    let mut said = Vec::with_capacity(list.len());
    for (at, message) in list.iter().enumerate() {
        let path = format!("messages[{at}]");
        let message = object(message, &path)?;
        let role = match message.get("role").and_then(Value::as_str) {
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            _ => {
                let path = format!("{path}.role");
                return Err(invalid(&path, "must be `user` or `assistant`"));
            }
        };
        let path = format!("{path}.content");
        let blocks = array(message.get("content").unwrap_or(&Value::Null), &path)?;
        let mut texts = Vec::with_capacity(blocks.len());
        for (at, block) in blocks.iter().enumerate() {
            texts.extend(text_of(block, &format!("{path}[{at}]"))?);
        }
        let text = texts.join("\n");
        said.push(Message { role, text });
    }
    Ok(said)
}

/// The text of a block; nothing for a cache point, which is a hint.
fn text_of<'a>(block: &'a Value, path: &str) -> Result<Option<&'a str>, InferError> {
    let block = object(block, path)?;
    let mut members = block.iter().filter(|(_, value)| !value.is_null());
    let (Some((kind, value)), None) = (members.next(), members.next()) else {
        return Err(invalid(
            path,
            "must have exactly one member, such as `text`",
        ));
    };
    match (kind.as_str(), value) {
        ("text", Value::String(text)) => Ok(Some(text)),
        ("text", _) => Err(invalid(&format!("{path}.text"), "must be a string")),
        ("cachePoint", _) => Ok(None),
        (kind, _) => Err(unsupported(&format!("{path}.{}", shown(kind)))),
    }
}

fn inference(config: &Map<String, Value>, raw: &mut RawRequest) -> Result<(), InferError> {
    for (key, value) in config.iter().filter(|(_, value)| !value.is_null()) {
        let path = || format!("inferenceConfig.{}", shown(key));
        match key.as_str() {
            "maxTokens" => raw.max_tokens = Some(whole(value, &path())?),
            "temperature" => raw.temperature = Some(number(value, &path())?),
            "topP" => raw.top_p = Some(number(value, &path())?),
            "stopSequences" => {
                let list = array(value, &path())?;
                let stops = list.iter().map(|stop| stop.as_str().map(str::to_owned));
                let stops: Option<Vec<String>> = stops.collect();
                raw.stop = stops.ok_or_else(|| invalid(&path(), "must hold strings"))?;
            }
            _ => return Err(unsupported(&path())),
        }
    }
    Ok(())
}

/// The one model-specific field the mesh has too, in the spellings of
/// Anthropic's and of Amazon's models.
fn additional(fields: &Map<String, Value>, raw: &mut RawRequest) -> Result<(), InferError> {
    for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let path = format!("additionalModelRequestFields.{}", shown(key));
        match key.as_str() {
            "top_k" | "topK" => raw.top_k = Some(whole(value, &path)?),
            "inferenceConfig" => additional(object(value, &path)?, raw)?,
            _ => return Err(unsupported(&path)),
        }
    }
    Ok(())
}

fn metadata(map: &Map<String, Value>, raw: &mut RawRequest) -> Result<(), InferError> {
    for (key, value) in map {
        let path = format!("requestMetadata.{}", shown(key));
        let text = value
            .as_str()
            .ok_or_else(|| invalid(&path, "must be a string"))?;
        let wrong = |allowed: &str| invalid(&path, format!("must be {allowed}"));
        match key.as_str() {
            "policy" => raw.policy = text.to_owned(),
            "user_id" => raw.user_id = text.to_owned(),
            "residency" => raw.residency = text.to_owned(),
            "privacy" => raw.privacy = Some(privacy(text).ok_or_else(|| wrong(PRIVACIES))?),
            "continuity" => {
                raw.continuity = Some(continuity(text).ok_or_else(|| wrong(CONTINUITIES))?);
            }
            "seed" => raw.seed = text.parse().map_err(|_| wrong("a whole number"))?,
            "max_cost_usd" => {
                let cost = text.parse().map_err(|_| wrong("a number of US dollars"))?;
                raw.max_cost_usd = Some(cost);
            }
            "first_token_ms" | "total_ms" => {
                let ms = text.parse().map_err(|_| wrong("whole milliseconds"))?;
                match key.as_str() {
                    "total_ms" => raw.total_ms = Some(ms),
                    _ => raw.first_token_ms = Some(ms),
                }
            }
            _ => {}
        }
    }
    Ok(())
}

const PRIVACIES: &str = "`device`, `edge`, `region` or `any`";
const CONTINUITIES: &str = "`exact`, `same_model`, `prefill` or `fail`";

fn privacy(text: &str) -> Option<Privacy> {
    let all = [
        Privacy::Device,
        Privacy::Edge,
        Privacy::Region,
        Privacy::Any,
    ];
    all.into_iter().find(|privacy| privacy.as_str() == text)
}

/// `restart` is missing: this wire has no way to take back what was said.
fn continuity(text: &str) -> Option<Continuity> {
    let all = [
        Continuity::Exact,
        Continuity::SameModel,
        Continuity::Prefill,
        Continuity::Fail,
    ];
    all.into_iter().find(|kind| kind.as_str() == text)
}

fn object<'a>(value: &'a Value, path: &str) -> Result<&'a Map<String, Value>, InferError> {
    value
        .as_object()
        .ok_or_else(|| invalid(path, "must be an object"))
}

fn array<'a>(value: &'a Value, path: &str) -> Result<&'a Vec<Value>, InferError> {
    value
        .as_array()
        .ok_or_else(|| invalid(path, "must be a list"))
}

fn whole(value: &Value, path: &str) -> Result<u32, InferError> {
    value
        .as_u64()
        .and_then(|n| u32::try_from(n).ok())
        .ok_or_else(|| invalid(path, "must be a whole number of 0 or more"))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "sampling is in single precision"
)]
fn number(value: &Value, path: &str) -> Result<f32, InferError> {
    value
        .as_f64()
        .map(|n| n as f32)
        .ok_or_else(|| invalid(path, "must be a number"))
}

fn unsupported(path: &str) -> InferError {
    invalid(path, "is not supported: the mesh serves text blocks only")
}

fn invalid(path: &str, problem: impl AsRef<str>) -> InferError {
    let message = format!("`{path}` {}", problem.as_ref());
    InferError::new(ErrorClass::InvalidArgument, "INVALID_FIELD", message).with("field", path)
}

/// A key a client chose, short and printable.
fn shown(key: &str) -> String {
    let short: String = key.chars().take(40).collect();
    short.escape_debug().to_string()
}

#[cfg(test)]
mod tests;
