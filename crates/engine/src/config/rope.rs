//! Rotary position embeddings: frequencies as transformers computes them.

use super::raw::RawRope;
use super::{ConfigError, MAX_CONTEXT, range, unsupported, within};

const DEFAULT_THETA: f64 = 10_000.0;

/// Radians a position for each pair of a head's dimensions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rope {
    pub(crate) frequencies: Vec<f32>,
    /// What cosines and sines are multiplied with.
    pub(crate) amplitude: f32,
}

/// What a layer's rope is computed from, besides its own parameters.
#[derive(Clone, Copy)]
pub(super) struct RopeShape {
    /// Dimensions that are turned.
    pub(super) dims: usize,
    pub(super) theta: Option<f64>,
    pub(super) context: usize,
    /// `original_max_position_embeddings` beside, not inside, the scaling.
    pub(super) original: Option<usize>,
}

impl Rope {
    /// The rope, and the positions it is right for.
    pub(super) fn build(raw: &RawRope, shape: RopeShape) -> Result<(Self, usize), ConfigError> {
        let theta = raw.rope_theta.or(shape.theta).unwrap_or(DEFAULT_THETA);
        if !(1.0..=1e12).contains(&theta) {
            return Err(range("rope_theta", theta, "1 to 1e12"));
        }
        let RopeShape { dims, context, .. } = shape;
        let plain: Vec<f64> = (0..dims / 2)
            .map(|i| 1.0 / theta.powf((2 * i) as f64 / dims as f64))
            .collect();
        let original = raw.original_max_position_embeddings.or(shape.original);
        let original = within(
            "original_max_position_embeddings",
            original.unwrap_or(context),
            MAX_CONTEXT,
        )?;
        let kind = raw.rope_type.as_deref().or(raw.old_type.as_deref());
        let (frequencies, amplitude, positions) = match kind.unwrap_or("default") {
            // Dynamic scaling changes nothing up to the trained length.
            "default" | "dynamic" => (plain, 1.0, context),
            "linear" => {
                let factor = factor(raw)?;
                (plain.iter().map(|f| f / factor).collect(), 1.0, context)
            }
            "llama3" => (llama3(raw, &plain, original)?, 1.0, context),
            "yarn" => {
                let (frequencies, amplitude) = yarn(raw, &plain, theta, original)?;
                (frequencies, amplitude, context)
            }
            // The long factors change every position once a text is longer
            // than the original length: up to there the short ones hold.
            "longrope" | "su" => {
                let (frequencies, amplitude) = longrope(raw, &plain, original, context)?;
                (frequencies, amplitude, original.min(context))
            }
            other => {
                let supported = "default, linear, dynamic, llama3, yarn, longrope";
                return Err(unsupported("rope_scaling.rope_type", other, supported));
            }
        };
        if frequencies.iter().any(|f| !f.is_finite()) || !amplitude.is_finite() {
            return Err(range("rope_scaling", "(computed)", "finite frequencies"));
        }
        let rope = Self {
            frequencies: frequencies.into_iter().map(|f| f as f32).collect(),
            amplitude: amplitude as f32,
        };
        Ok((rope, positions))
    }
}

fn factor(raw: &RawRope) -> Result<f64, ConfigError> {
    let factor = raw.factor.unwrap_or(1.0);
    if !(1.0..=1e6).contains(&factor) {
        return Err(range("rope_scaling.factor", factor, "1 to 1e6"));
    }
    Ok(factor)
}

/// Long wavelengths are stretched, short ones kept, those between blended.
fn llama3(raw: &RawRope, plain: &[f64], original: usize) -> Result<Vec<f64>, ConfigError> {
    let factor = factor(raw)?;
    let low = raw.low_freq_factor.unwrap_or(1.0);
    let high = raw.high_freq_factor.unwrap_or(4.0);
    if !(low > 0.0 && high > low) {
        let found = format!("{low} and {high}");
        let allowed = "low above 0, high above low";
        return Err(range(
            "rope_scaling.low_freq_factor, high_freq_factor",
            found,
            allowed,
        ));
    }
    let original = original as f64;
    let scaled = |frequency: &f64| {
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        if wavelength < original / high {
            *frequency
        } else if wavelength > original / low {
            frequency / factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    };
    Ok(plain.iter().map(scaled).collect())
}

/// YaRN (Peng et al., 2023): dimensions that turn often within the original
/// length are kept, those that turn seldom interpolated, a ramp between.
fn yarn(
    raw: &RawRope,
    plain: &[f64],
    theta: f64,
    original: usize,
) -> Result<(Vec<f64>, f64), ConfigError> {
    let factor = factor(raw)?;
    let dims = (2 * plain.len()) as f64;
    let scale = |m: f64| {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * m * factor.ln() + 1.0
        }
    };
    let amplitude =
        raw.attention_factor
            .unwrap_or_else(|| match (raw.mscale, raw.mscale_all_dim) {
                (Some(one), Some(all)) if one != 0.0 && all != 0.0 => scale(one) / scale(all),
                _ => scale(1.0),
            });
    let dimension = |turns: f64| {
        let ratio = original as f64 / (turns * 2.0 * std::f64::consts::PI);
        dims * ratio.ln() / (2.0 * theta.ln())
    };
    let mut low = dimension(raw.beta_fast.unwrap_or(32.0));
    let mut high = dimension(raw.beta_slow.unwrap_or(1.0));
    if raw.truncate.unwrap_or(true) {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dims - 1.0));
    if low == high {
        high += 0.001;
    }
    let blended = plain.iter().enumerate().map(|(i, frequency)| {
        let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        frequency / factor * ramp + frequency * (1.0 - ramp)
    });
    Ok((blended.collect(), amplitude))
}

fn longrope(
    raw: &RawRope,
    plain: &[f64],
    original: usize,
    context: usize,
) -> Result<(Vec<f64>, f64), ConfigError> {
    let short = raw.short_factor.as_deref().unwrap_or(&[]);
    if short.len() != plain.len() {
        let allowed = format!("{} numbers", plain.len());
        return Err(range("rope_scaling.short_factor", short.len(), allowed));
    }
    let factor = raw.factor.unwrap_or(context as f64 / original as f64);
    let amplitude = raw.attention_factor.unwrap_or_else(|| match factor <= 1.0 {
        true => 1.0,
        false => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
    });
    let frequencies = plain.iter().zip(short).map(|(f, short)| f / short);
    Ok((frequencies.collect(), amplitude))
}
