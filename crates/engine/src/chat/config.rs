//! `tokenizer_config.json`: special tokens by their purpose, and the template.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The file's name.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Purposes of special tokens, as templates know them.
const PURPOSES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
/// Lists of more of them.
const MORE: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// Why a model's chat template is refused.
#[derive(Debug, thiserror::Error)]
pub enum ChatTemplateError {
    /// The configuration is no JSON object.
    #[error("tokenizer_config.json cannot be parsed")]
    Json(#[source] serde_json::Error),
    /// The configuration says something that cannot be.
    #[error("tokenizer_config.json: {key} is not allowed; allowed: {allowed}")]
    Field {
        /// The key.
        key: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The template is no text.
    #[error("chat_template.jinja is not UTF-8")]
    NotUtf8(#[source] std::str::Utf8Error),
    /// The template is longer than any has to be.
    #[error("{file}: a chat template of {bytes} bytes is not allowed; allowed: 262144 bytes")]
    TooLong {
        /// The file.
        file: &'static str,
        /// Its template's length.
        bytes: usize,
    },
    /// The template is no Jinja.
    #[error("{file}: the chat template cannot be parsed in line {line}: {problem}")]
    Syntax {
        /// The file.
        file: &'static str,
        /// The line in the template.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
}

/// What of it matters here.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TokenizerConfig {
    tokens: BTreeMap<String, String>,
    more: Vec<String>,
    template: Option<String>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
}

impl TokenizerConfig {
    /// Reads the file; a model without one has nothing of it.
    pub(crate) fn parse(json: Option<&[u8]>) -> Result<Self, ChatTemplateError> {
        let Some(json) = json else {
            return Ok(Self::default());
        };
        let fields: Map<String, Value> =
            serde_json::from_slice(json).map_err(ChatTemplateError::Json)?;
        let mut config = Self::default();
        for purpose in PURPOSES {
            let field = fields.get(purpose).filter(|value| !value.is_null());
            if let Some(value) = field {
                let token = token(value).ok_or(ChatTemplateError::Field {
                    key: purpose,
                    allowed: "a token's text, or an object with its `content`",
                })?;
                config.tokens.insert(purpose.to_owned(), token.to_owned());
            }
        }
        for list in MORE {
            // A list, or an object of tokens by their purposes.
            let tokens: Vec<&Value> = match fields.get(list) {
                Some(Value::Array(tokens)) => tokens.iter().collect(),
                Some(Value::Object(tokens)) => tokens.values().collect(),
                _ => continue,
            };
            let texts = tokens.into_iter().filter_map(token);
            config.more.extend(texts.map(str::to_owned));
        }
        config.template = template(fields.get("chat_template"))?;
        config.add_bos = fields.get("add_bos_token").and_then(Value::as_bool);
        config.add_eos = fields.get("add_eos_token").and_then(Value::as_bool);
        Ok(config)
    }

    pub(super) fn chat_template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    /// Special tokens by their purposes.
    pub(crate) fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.tokens
    }

    /// Every token that is special by name.
    pub(crate) fn named(&self) -> impl Iterator<Item = &str> {
        self.tokens.values().chain(&self.more).map(String::as_str)
    }

    /// The tokens to put before and after a text, where the configuration
    /// decides that instead of the tokenizer.
    pub(crate) fn around(&self) -> Option<[Option<&str>; 2]> {
        if self.add_bos.is_none() && self.add_eos.is_none() {
            return None;
        }
        let token = |wanted: Option<bool>, purpose: &str| {
            let token = self.tokens.get(purpose).map(String::as_str);
            token.filter(|_| wanted == Some(true))
        };
        Some([
            token(self.add_bos, "bos_token"),
            token(self.add_eos, "eos_token"),
        ])
    }
}

/// A text, or a token's whole description.
fn token(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A template, or a list of them by name: `default` is for conversations.
fn template(value: Option<&Value>) -> Result<Option<String>, ChatTemplateError> {
    let wrong = ChatTemplateError::Field {
        key: "chat_template",
        allowed: "a template, or a list of objects with `name` and `template`",
    };
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|one| one["name"] == "default");
            match default.map(|default| &default["template"]) {
                None => Ok(None),
                Some(Value::String(template)) => Ok(Some(template.clone())),
                Some(_) => Err(wrong),
            }
        }
        Some(_) => Err(wrong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: &Value) -> Result<TokenizerConfig, ChatTemplateError> {
        TokenizerConfig::parse(Some(value.to_string().as_bytes()))
    }

    #[test]
    fn tokens_come_as_texts_or_as_descriptions() {
        let config = parse(&json!({
            "bos_token": "<s>",
            "eos_token": {"content": "</s>", "lstrip": false},
            "pad_token": null,
            "additional_special_tokens": ["<a>", {"content": "<b>"}],
            "extra_special_tokens": {"image_token": "<c>"},
            "model_max_length": 1e30,
        }));
        let config = config.unwrap();
        let named: Vec<&str> = config.named().collect();
        assert_eq!(named, ["<s>", "</s>", "<a>", "<b>", "<c>"]);
        assert_eq!(config.around(), None);
        let error = parse(&json!({"eos_token": 2})).unwrap_err();
        assert!(error.to_string().contains("eos_token"), "{error}");
        assert!(TokenizerConfig::parse(Some(b"[]")).is_err());
    }

    #[test]
    fn what_stands_around_a_text_is_decided_by_the_flags_and_the_tokens() {
        let around = |value| {
            let config = parse(&value).unwrap();
            let around = config.around();
            around.map(|around| around.map(|token| token.map(str::to_owned)))
        };
        let tokens = json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true});
        assert_eq!(around(tokens), Some([Some("<s>".into()), None]));
        let none = json!({"bos_token": null, "add_bos_token": true, "add_eos_token": false});
        assert_eq!(around(none), Some([None, None]));
    }

    #[test]
    fn a_list_of_templates_has_a_default_one() {
        let of = |value| parse(&json!({ "chat_template": value })).map(|c| c.template);
        let both = json!([{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]);
        assert_eq!(of(both).unwrap().as_deref(), Some("d"));
        assert_eq!(of(json!([{"name": "rag", "template": "r"}])).unwrap(), None);
        assert_eq!(of(json!("t")).unwrap().as_deref(), Some("t"));
        assert_eq!(of(json!(null)).unwrap(), None);
        assert!(of(json!(7)).is_err());
        assert!(of(json!([{"name": "default"}])).is_err());
    }
}
