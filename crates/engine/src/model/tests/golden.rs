//! What `transformers` computes from the fixtures' bytes, and how far from it
//! ours is. The tests on a graphics adapter include this file too.

use std::path::PathBuf;

use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) prompt: String,
    pub(crate) prompt_ids: Vec<u32>,
    /// Empty where every position has its logits.
    #[serde(default)]
    logit_positions: Vec<usize>,
    logits: Vec<Vec<f32>>,
    pub(crate) greedy_ids: Vec<u32>,
    /// What is written with the model's own ending.
    #[serde(default)]
    pub(crate) generated_ids: Vec<u32>,
    #[serde(default)]
    pub(crate) short_prompt_ids: Vec<u32>,
    #[serde(default)]
    pub(crate) short_logits: Vec<Vec<f32>>,
}

pub(crate) const DECODERS: [&str; 15] = [
    "llama2",
    "llama3",
    "llama-linear",
    "llama-yarn",
    "smollm2",
    "odd-llama",
    "sharded",
    "mistral",
    "qwen2",
    "qwen3",
    "smollm3",
    "phi3",
    "gemma",
    "gemma2",
    "gemma3",
];

pub(crate) fn directory(name: &str) -> PathBuf {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    match name.starts_with("tiny") {
        true => fixtures.join(name),
        false => fixtures.join("families").join(name),
    }
}

pub(crate) fn golden(name: &str) -> Golden {
    let json = std::fs::read(directory(name).join("golden.json")).unwrap();
    serde_json::from_slice(&json).unwrap()
}

impl Golden {
    /// The logits at the golden positions, out of `all` of the prompt's, beside
    /// the golden ones.
    pub(crate) fn beside(&self, all: &[f32]) -> Vec<(f32, f32)> {
        let width = self.logits[0].len();
        let positions: Vec<usize> = match self.logit_positions.is_empty() {
            true => (0..self.logits.len()).collect(),
            false => self.logit_positions.clone(),
        };
        let rows = positions
            .iter()
            .map(|position| &all[position * width..][..width]);
        let pairs = rows.zip(&self.logits).flat_map(|(ours, theirs)| {
            assert_eq!(ours.len(), theirs.len());
            ours.iter().copied().zip(theirs.iter().copied())
        });
        pairs.collect()
    }
}

/// The likeliest tokens after a prompt, of what `read` makes of more tokens:
/// the logits after the last of them.
pub(crate) fn likeliest(
    prompt: &[u32],
    count: usize,
    mut read: impl FnMut(&[u32]) -> Vec<f32>,
) -> Vec<u32> {
    let mut logits = read(prompt);
    let mut ids = Vec::new();
    for _ in 0..count {
        let each = logits.iter().enumerate();
        let best = each.max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32;
        ids.push(best);
        logits = read(&[best]);
    }
    ids
}

pub(crate) fn largest(pairs: &[(f32, f32)]) -> f32 {
    pairs.iter().fold(0.0, |m, (a, b)| m.max((a - b).abs()))
}

/// The root-mean-square difference, as a share of the logits' deviation.
pub(crate) fn relative_rms(pairs: &[(f32, f32)]) -> f32 {
    let count = pairs.len() as f32;
    let mean = pairs.iter().map(|(_, b)| b).sum::<f32>() / count;
    let variance = pairs.iter().map(|(_, b)| (b - mean).powi(2)).sum::<f32>() / count;
    let error = pairs.iter().map(|(a, b)| (a - b).powi(2)).sum::<f32>() / count;
    (error / variance).sqrt()
}
