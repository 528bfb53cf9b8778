//! How a token is chosen, checked.

use tiermesh_core::request::{MAX_LOGIT_BIASES, MAX_TOP_LOGPROBS};

/// How a token is chosen, as somebody asks for it. [`SamplingParams::new`]
/// checks it; the default is greedy and changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// 0 takes the likeliest token; at most 2.
    pub temperature: f32,
    /// Keep this many likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the likeliest tokens until their probabilities sum to this; over
    /// 0, at most 1.
    pub top_p: f32,
    /// Keep tokens at least this much as likely as the likeliest; 0 to 1.
    pub min_p: f32,
    /// Logits of the prompt's and the answer's tokens are divided by this
    /// where positive and multiplied where negative; 0.1 to 10, 1 changes
    /// nothing.
    pub repetition_penalty: f32,
    /// Taken off the logit of every token the answer has; −2 to 2.
    pub presence_penalty: f32,
    /// Taken off a token's logit as often as the answer has it; −2 to 2.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens, −100 to 100. At most
    /// [`MAX_LOGIT_BIASES`], each token once.
    pub logit_bias: Vec<(u32, f32)>,
    /// Tell each token's log-probability, and those of so many likeliest
    /// tokens, at most [`MAX_TOP_LOGPROBS`].
    pub logprobs: Option<u8>,
}

impl SamplingOptions {
    const NEUTRAL: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: Vec::new(),
        logprobs: None,
    };
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self::NEUTRAL
    }
}

/// A parameter that is out of its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{parameter} = {value} is not allowed; allowed: {allowed}")]
pub struct SamplingError {
    /// Its name.
    pub parameter: &'static str,
    /// Its value.
    pub value: f64,
    /// What is allowed.
    pub allowed: &'static str,
}

/// How a token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams(SamplingOptions);

impl SamplingParams {
    /// The likeliest token, always.
    pub const GREEDY: Self = Self(SamplingOptions::NEUTRAL);

    /// Checks every range.
    ///
    /// # Errors
    ///
    /// The first parameter that is out of its own.
    pub fn new(mut options: SamplingOptions) -> Result<Self, SamplingError> {
        let SamplingOptions {
            temperature,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            ..
        } = options;
        let in_range = |parameter, value: f32, low: f32, high: f32, allowed| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(refused(parameter, f64::from(value), allowed))
        };
        in_range("temperature", temperature, 0.0, 2.0, "0 to 2")?;
        in_range("top_p", top_p, f32::MIN_POSITIVE, 1.0, "over 0, at most 1")?;
        in_range("min_p", min_p, 0.0, 1.0, "0 to 1")?;
        in_range(
            "repetition_penalty",
            repetition_penalty,
            0.1,
            10.0,
            "0.1 to 10",
        )?;
        in_range("presence_penalty", presence_penalty, -2.0, 2.0, "-2 to 2")?;
        in_range("frequency_penalty", frequency_penalty, -2.0, 2.0, "-2 to 2")?;
        for (_, bias) in &options.logit_bias {
            in_range("logit_bias", *bias, -100.0, 100.0, "-100 to 100")?;
        }
        options.logit_bias.sort_unstable_by_key(|(id, _)| *id);
        let twice = options.logit_bias.windows(2).find(|w| w[0].0 == w[1].0);
        if let Some(twice) = twice {
            let id = f64::from(twice[0].0);
            return Err(refused("logit_bias", id, "each token once"));
        }
        if options.logit_bias.len() > MAX_LOGIT_BIASES {
            let count = options.logit_bias.len() as f64;
            return Err(refused("logit_bias", count, "at most 1024 tokens"));
        }
        if let Some(top) = options.logprobs.filter(|top| *top > MAX_TOP_LOGPROBS) {
            return Err(refused("top_logprobs", f64::from(top), "0 to 20"));
        }
        Ok(Self(options))
    }

    /// What was asked for, biases in order of their tokens.
    #[must_use]
    pub fn options(&self) -> &SamplingOptions {
        &self.0
    }
}

fn refused(parameter: &'static str, value: f64, allowed: &'static str) -> SamplingError {
    SamplingError {
        parameter,
        value,
        allowed,
    }
}
