//! How positions turn: the base, and how it is scaled for long contexts.

use std::f64::consts::PI;

use serde_json::{Value, json};

use super::architecture::Architecture;
use super::header::{Header, shortest};
use super::shape::Shape;
use crate::checkpoint::{CheckpointError, ReadAt};

const DEFAULT_THETA: f64 = 10_000.0;
/// Factors are f32; what they are made from is recovered if it gives them
/// back this closely, relative to one.
const TOLERANCE: f64 = 1e-4;
/// More frequencies than any head has.
const MAX_FACTORS: usize = 1 << 12;

/// What `config.json` says of it.
pub(super) struct Rope {
    pub(super) theta: f64,
    /// An object, or null.
    pub(super) scaling: Value,
}

impl Rope {
    pub(super) fn read(
        header: &Header,
        file: &dyn ReadAt,
        architecture: Architecture,
        shape: &Shape,
    ) -> Result<Self, CheckpointError> {
        let metadata = &header.metadata;
        let key = |name: &str| format!("{}.rope.{name}", architecture.prefix());
        let theta = metadata.float(&key("freq_base"))?.unwrap_or(DEFAULT_THETA);
        check_dimensions(header, architecture, shape)?;
        let kind_key = key("scaling.type");
        let kind = metadata.text(&kind_key)?.unwrap_or("none");
        let factor = match metadata.float(&key("scaling.factor"))? {
            Some(factor) => Some(factor),
            // What the key was called at first.
            None => metadata.float(&key("scale_linear"))?,
        };
        let scaling = match (kind, factor) {
            ("none" | "longrope", _) => factors(header, file, architecture, theta)?,
            ("linear", Some(factor)) => json!({"rope_type": "linear", "factor": factor}),
            ("yarn", Some(factor)) => yarn(header, architecture, factor)?,
            ("linear" | "yarn", None) => {
                return Err(metadata.absent(&key("scaling.factor"), "a number"));
            }
            _ => {
                let expected = "none, linear, yarn or longrope";
                return Err(metadata.refuse(&kind_key, format!("{kind:?}"), expected));
            }
        };
        Ok(Self { theta, scaling })
    }
}

/// Only Phi-3's `config.json` can say that a part of a head is turned.
fn check_dimensions(
    header: &Header,
    architecture: Architecture,
    shape: &Shape,
) -> Result<(), CheckpointError> {
    let key = format!("{}.rope.dimension_count", architecture.prefix());
    let Some(found) = header.metadata.unsigned(&key)? else {
        return Ok(());
    };
    let partial = architecture == Architecture::Phi3 && found <= shape.head_dim;
    if found == shape.head_dim || (partial && found > 0) {
        return Ok(());
    }
    let expected = format!("{}, the size of a head", shape.head_dim);
    Err(header.metadata.refuse(&key, found.to_string(), expected))
}

fn yarn(
    header: &Header,
    architecture: Architecture,
    factor: f64,
) -> Result<Value, CheckpointError> {
    let metadata = &header.metadata;
    let key = |name: &str| format!("{}.rope.scaling.{name}", architecture.prefix());
    let original = key("original_context_length");
    let original = metadata
        .unsigned(&original)?
        .ok_or_else(|| metadata.absent(&original, "an integer"))?;
    let mut scaling = json!({
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
    });
    for (from, to) in [
        ("yarn_attn_factor", "attention_factor"),
        ("yarn_beta_fast", "beta_fast"),
        ("yarn_beta_slow", "beta_slow"),
    ] {
        if let Some(value) = metadata.float(&key(from))? {
            scaling[to] = json!(value);
        }
    }
    Ok(scaling)
}

/// Scaling that the file has as one divisor for each frequency.
fn factors(
    header: &Header,
    file: &dyn ReadAt,
    architecture: Architecture,
    theta: f64,
) -> Result<Value, CheckpointError> {
    if architecture == Architecture::Phi3 {
        let long = read_factors(header, file, "rope_factors_long.weight")?;
        let short = read_factors(header, file, "rope_factors_short.weight")?;
        return Ok(match (long, short) {
            (Some(long), Some(short)) => {
                let decimal =
                    |factors: Vec<f32>| -> Vec<f64> { factors.into_iter().map(shortest).collect() };
                json!({
                    "rope_type": "longrope",
                    "long_factor": decimal(long),
                    "short_factor": decimal(short),
                })
            }
            _ => Value::Null,
        });
    }
    let name = "rope_freqs.weight";
    let Some(factors) = read_factors(header, file, name)? else {
        return Ok(Value::Null);
    };
    if factors.iter().all(|factor| *factor == 1.0) {
        return Ok(Value::Null);
    }
    match Llama3::recover(&factors, theta) {
        Some(scaling) => Ok(scaling.json()),
        None => Err(CheckpointError::tensor(
            header.metadata.file(),
            name,
            "its factors follow no rule that config.json can state",
            "those of Llama 3",
        )),
    }
}

fn read_factors(
    header: &Header,
    file: &dyn ReadAt,
    name: &str,
) -> Result<Option<Vec<f32>>, CheckpointError> {
    let Some(info) = header.tensors.get(name) else {
        return Ok(None);
    };
    if info.values > MAX_FACTORS {
        return Err(CheckpointError::tensor(
            header.metadata.file(),
            name,
            format!("it has {} values", info.values),
            format!("at most {MAX_FACTORS}, one for each frequency"),
        ));
    }
    let mut factors = vec![0.0; info.values];
    info.kind
        .read(file, info.offset, 0, &mut factors)
        .map_err(|source| CheckpointError::Read {
            file: header.metadata.file().to_owned(),
            source,
        })?;
    if factors
        .iter()
        .all(|factor| factor.is_finite() && *factor > 0.0)
    {
        return Ok(Some(factors));
    }
    Err(CheckpointError::tensor(
        header.metadata.file(),
        name,
        "a value is not above zero and finite",
        "divisors of frequencies",
    ))
}

/// Llama 3's scaling: short waves stay, long ones are stretched by `factor`,
/// and between the two it blends.
#[derive(Clone, Copy, Debug)]
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

impl Llama3 {
    /// What gives these factors. A blend's weight is linear in the frequency,
    /// so two blended factors give two of the three numbers behind it; the
    /// third only scales the others and is what it always is, `low` = 1.
    fn recover(factors: &[f32], theta: f64) -> Option<Self> {
        let factors: Vec<f64> = factors.iter().copied().map(f64::from).collect();
        let waves: Vec<f64> = (0..factors.len())
            .map(|i| 2.0 * PI * theta.powf(i as f64 / factors.len() as f64))
            .collect();
        let factor = shortest(*factors.last()? as f32);
        let usual = Self {
            factor,
            low: 1.0,
            high: 4.0,
            original: 8192.0,
        };
        let fits = |scaling: &Self| {
            waves
                .iter()
                .zip(&factors)
                .all(|(wave, factor)| (scaling.divisor(*wave) - factor).abs() <= TOLERANCE * factor)
        };
        if fits(&usual) {
            return Some(usual);
        }
        // How far along the blend each factor is, with one over its wave.
        let mut blended = waves
            .iter()
            .zip(&factors)
            .filter(|(_, f)| **f > 1.0 + TOLERANCE && **f < factor * (1.0 - TOLERANCE))
            .map(|(wave, f)| (1.0 / wave, (1.0 / f - 1.0 / factor) / (1.0 - 1.0 / factor)));
        let (x0, y0) = blended.next()?;
        let (x1, y1) = blended.next_back()?;
        let slope = (y1 - y0) / (x1 - x0);
        let offset = slope * x0 - y0;
        let fitted = Self {
            factor,
            low: 1.0,
            high: (1000.0 * (1.0 + 1.0 / offset)).round() / 1000.0,
            original: (slope / offset).round(),
        };
        (fitted.high > 1.0 && fits(&fitted)).then_some(fitted)
    }

    fn divisor(&self, wave: f64) -> f64 {
        if wave < self.original / self.high {
            1.0
        } else if wave > self.original / self.low {
            self.factor
        } else {
            let blend = (self.original / wave - self.low) / (self.high - self.low);
            1.0 / ((1.0 - blend) / self.factor + blend)
        }
    }

    fn json(&self) -> Value {
        json!({
            "rope_type": "llama3",
            "factor": self.factor,
            "low_freq_factor": self.low,
            "high_freq_factor": self.high,
            "original_max_position_embeddings": self.original as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(scaling: &Llama3, theta: f64, count: usize) -> Vec<f32> {
        (0..count)
            .map(|i| 2.0 * PI * theta.powf(i as f64 / count as f64))
            .map(|wave| scaling.divisor(wave) as f32)
            .collect()
    }

    #[test]
    fn what_made_the_factors_is_recovered() {
        for (factor, low, high, original) in [
            (8.0, 1.0, 4.0, 8192.0),
            (32.0, 1.0, 4.0, 8192.0),
            (8.0, 1.0, 4.0, 4096.0),
            (16.0, 1.0, 8.0, 2048.0),
        ] {
            let scaling = Llama3 {
                factor,
                low,
                high,
                original,
            };
            for count in [32, 64] {
                let made = factors(&scaling, 500_000.0, count);
                let found = Llama3::recover(&made, 500_000.0).expect("it is Llama 3's rule");
                let found = [found.factor, found.low, found.high, found.original];
                assert_eq!(found, [factor, low, high, original]);
            }
        }
    }

    #[test]
    fn factors_of_another_rule_are_not_taken_for_llama_3s() {
        let rising: Vec<f32> = (0..32).map(|i| 1.0 + i as f32 / 10.0).collect();
        assert!(Llama3::recover(&rising, 500_000.0).is_none());
        assert!(Llama3::recover(&[], 500_000.0).is_none());
        assert!(Llama3::recover(&[1.0, 2.0, 1.0], 10_000.0).is_none());
    }
}
