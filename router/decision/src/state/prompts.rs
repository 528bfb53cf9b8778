//! How many tokens a prompt is to a model, learnt from what models counted.

use super::sketch::Moments;
use std::collections::BTreeMap;
use tiermesh_core::{ModelId, ModelSelector, RequestMeta};

/// Models that are learnt apart; of further ones only the mean is known.
const MAX_MODELS: usize = 1_024;
/// Prompts of a model before they say more than those of all.
const ENOUGH: f64 = 5.0;
/// A tokenizer differs from the estimate by no more than this either way.
const MOST: f64 = 8.0;

/// What models' tokenizers made of prompts, over the estimate by their bytes.
#[derive(Debug, Clone)]
pub struct Prompts {
    of_model: BTreeMap<ModelId, Moments>,
    of_all: Moments,
}

impl Default for Prompts {
    fn default() -> Self {
        Self {
            of_model: BTreeMap::new(),
            of_all: Moments::new(0.01),
        }
    }
}

impl Prompts {
    /// A model counted the tokens of a request's prompt.
    pub fn record(&mut self, meta: &RequestMeta, model: &ModelId, tokens: u64) {
        if tokens == 0 {
            return;
        }
        let estimate = f64::from(meta.estimated_prompt_tokens().max(1));
        let ratio = (tokens as f64 / estimate).clamp(1.0 / MOST, MOST);
        self.of_all.record(ratio);
        if let Some(known) = self.of_model.get_mut(model) {
            known.record(ratio);
        } else if self.of_model.len() < MAX_MODELS {
            let mut known = Moments::new(0.02);
            known.record(ratio);
            self.of_model.insert(model.clone(), known);
        }
    }

    /// Tokens of a request's prompt, by the model it asks for, else by all;
    /// none before enough was learnt.
    #[must_use]
    pub fn expect(&self, meta: &RequestMeta) -> Option<u32> {
        let of_model = match &meta.model {
            ModelSelector::Named(id) => self.of_model.get(id),
            ModelSelector::Auto => None,
        };
        let of_model = of_model.filter(|known| known.samples() >= ENOUGH);
        let known = of_model.unwrap_or(&self.of_all);
        if known.samples() < ENOUGH {
            return None;
        }
        let estimate = f64::from(meta.estimated_prompt_tokens());
        Some((estimate * known.mean_or(ENOUGH, 1.0)).ceil() as u32)
    }
}
