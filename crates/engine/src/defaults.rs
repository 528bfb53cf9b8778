//! `generation_config.json`: what a model's author sets for its answers.

use serde_json::{Map, Value};

use crate::sampler::{SamplingError, SamplingOptions, SamplingParams};

/// The file's name.
pub const GENERATION_CONFIG: &str = "generation_config.json";
/// The most end tokens of a model.
const MAX_EOS: usize = 16;

/// Why a model's generation defaults are refused.
#[derive(Debug, thiserror::Error)]
pub enum GenerationConfigError {
    /// The file is no JSON object.
    #[error("generation_config.json cannot be parsed")]
    Json(#[source] serde_json::Error),
    /// The file says something that cannot be.
    #[error("generation_config.json: {key} = {value} is not allowed; allowed: {allowed}")]
    Field {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The repetition penalty is out of its range.
    #[error("generation_config.json: {0}")]
    Penalty(SamplingError),
}

/// What a model's answers are like when nobody asks for anything else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Tokens that end an answer; empty when the file does not say.
    pub eos: Vec<u32>,
    /// Applied to every answer that does not ask for another, greedy ones
    /// too, as `transformers` does.
    pub repetition_penalty: Option<f32>,
    /// What the author would sample with; none where the model is meant to be
    /// greedy. It is told and not applied: a request without a temperature is
    /// greedy.
    pub sampling: Option<SamplingDefaults>,
}

/// The author's recommendation. Values may be outside of what is served.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplingDefaults {
    /// Temperature.
    pub temperature: Option<f32>,
    /// Likeliest tokens kept.
    pub top_k: Option<u32>,
    /// Mass kept.
    pub top_p: Option<f32>,
    /// Share of the likeliest token's probability.
    pub min_p: Option<f32>,
}

impl GenerationDefaults {
    /// Reads the file. Keys it does not know are for others.
    ///
    /// # Errors
    ///
    /// When it is no JSON object, a value is of the wrong type, or the
    /// repetition penalty cannot be applied.
    pub fn from_json(json: &[u8]) -> Result<Self, GenerationConfigError> {
        let fields: Map<String, Value> =
            serde_json::from_slice(json).map_err(GenerationConfigError::Json)?;
        let fields = Fields(fields);
        let sampled = match fields.get("do_sample") {
            None => false,
            Some(value) => value
                .as_bool()
                .ok_or_else(|| wrong("do_sample", value, "true or false"))?,
        };
        let recommended = SamplingDefaults {
            temperature: fields.number("temperature")?,
            top_k: fields.whole("top_k")?,
            top_p: fields.number("top_p")?,
            min_p: fields.number("min_p")?,
        };
        let repetition_penalty = fields.number("repetition_penalty")?;
        if let Some(repetition_penalty) = repetition_penalty {
            SamplingParams::new(SamplingOptions {
                repetition_penalty,
                ..SamplingOptions::default()
            })
            .map_err(GenerationConfigError::Penalty)?;
        }
        Ok(Self {
            eos: fields.eos()?,
            repetition_penalty,
            sampling: sampled.then_some(recommended),
        })
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    #[expect(clippy::cast_possible_truncation, reason = "f32 is what sampling uses")]
    fn number(&self, key: &'static str) -> Result<Option<f32>, GenerationConfigError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let number = value.as_f64().map(|number| number as f32);
        let usable = number.filter(|number| number.is_finite());
        usable
            .map(Some)
            .ok_or_else(|| wrong(key, value, "a number"))
    }

    fn whole(&self, key: &'static str) -> Result<Option<u32>, GenerationConfigError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
        let allowed = "a whole number";
        number.map(Some).ok_or_else(|| wrong(key, value, allowed))
    }

    fn eos(&self) -> Result<Vec<u32>, GenerationConfigError> {
        const KEY: &str = "eos_token_id";
        const ALLOWED: &str = "a token's id, or a list of at most 16";
        let Some(value) = self.get(KEY) else {
            return Ok(Vec::new());
        };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids: Option<Vec<u32>> = match value {
            Value::Array(ids) if ids.len() <= MAX_EOS => ids.iter().map(id).collect(),
            Value::Array(_) => None,
            one => id(one).map(|id| vec![id]),
        };
        ids.ok_or_else(|| wrong(KEY, value, ALLOWED))
    }
}

fn wrong(key: &'static str, value: &Value, allowed: &'static str) -> GenerationConfigError {
    GenerationConfigError::Field {
        key,
        value: value.to_string().chars().take(80).collect(),
        allowed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> Result<GenerationDefaults, GenerationConfigError> {
        GenerationDefaults::from_json(value.to_string().as_bytes())
    }

    #[test]
    fn one_end_token_or_many_and_the_authors_sampling() {
        let defaults = read(&json!({
            "bos_token_id": 1, "eos_token_id": [2, 7], "do_sample": true, "temperature": 0.6,
            "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.1, "transformers_version": "5",
        }));
        assert_eq!(
            defaults.unwrap(),
            GenerationDefaults {
                eos: vec![2, 7],
                repetition_penalty: Some(1.1),
                sampling: Some(SamplingDefaults {
                    temperature: Some(0.6),
                    top_k: Some(20),
                    top_p: Some(0.95),
                    min_p: None,
                }),
            }
        );
        let one = read(&json!({"eos_token_id": 2, "temperature": 0.6})).unwrap();
        assert_eq!((one.eos, one.sampling), (vec![2], None));
        assert_eq!(
            read(&json!({"eos_token_id": null})).unwrap(),
            GenerationDefaults::default()
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        for (key, value) in [
            ("eos_token_id", json!(-1)),
            ("eos_token_id", json!(vec![1; 17])),
            ("temperature", json!("hot")),
            ("top_k", json!(0.5)),
            ("do_sample", json!(1)),
            ("repetition_penalty", json!(0.0)),
        ] {
            let error = read(&json!({ key: value })).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        assert!(GenerationDefaults::from_json(b"[]").is_err());
    }
}
