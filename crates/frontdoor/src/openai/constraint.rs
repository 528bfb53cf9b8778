//! What an answer must fit: OpenAI's `response_format`, and the `guided_…`
//! fields that servers of open models share.

use super::ask::{unsupported, wrong_type};
use serde_json::Value;
use tiermesh_core::{InferError, OutputConstraint};

/// `{"type": "text" | "json_object" | "json_schema"}`.
pub(super) fn response_format(value: Value) -> Result<Option<OutputConstraint>, InferError> {
    const FIELD: &str = "response_format";
    let kind = value
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    match kind {
        "text" => Ok(None),
        "json_object" => Ok(Some(OutputConstraint::JsonSchema(
            "{\"type\":\"object\"}".to_owned(),
        ))),
        "json_schema" => match value.pointer("/json_schema/schema") {
            Some(schema @ Value::Object(_)) => {
                Ok(Some(OutputConstraint::JsonSchema(schema.to_string())))
            }
            _ => Err(wrong_type(FIELD, "an object with `json_schema.schema`")),
        },
        _ => Err(unsupported(
            FIELD,
            "`text`, `json_object` and `json_schema` are given",
        )),
    }
}

/// `guided_json` (a schema, as an object or as text), `guided_regex`,
/// `guided_choice` and `guided_grammar`.
pub(super) fn guided(name: &str, value: Value) -> Result<OutputConstraint, InferError> {
    let text = |value: Value| match value {
        Value::String(text) => Ok(text),
        _ => Err(wrong_type(name, "a string")),
    };
    Ok(match (name, value) {
        ("guided_json", schema @ Value::Object(_)) => {
            OutputConstraint::JsonSchema(schema.to_string())
        }
        ("guided_json", schema) => OutputConstraint::JsonSchema(text(schema)?),
        ("guided_regex", regex) => OutputConstraint::Regex(text(regex)?),
        ("guided_choice", Value::Array(texts)) => {
            OutputConstraint::Choice(texts.into_iter().map(text).collect::<Result<_, _>>()?)
        }
        ("guided_grammar", grammar) => OutputConstraint::Grammar(text(grammar)?),
        _ => return Err(wrong_type(name, "an array of strings")),
    })
}
