//! Quick checks while training, on rows that are neither trained on nor held out.

use anyhow::Result;
use burn::tensor::Device;
use fastrand::Rng;
use tokenizers::Tokenizer;

use crate::batch::{self, Encoded};
use crate::corpus::Corpus;
use crate::example::Example;
use crate::generate::{Script, Wanted};
use crate::model::Llama;

/// Sequences a forward pass.
const BATCH: usize = 32;
/// Generated titles to check.
const GENERATED: usize = 128;

/// Encoded examples by group.
pub struct Checks {
    groups: Vec<(&'static str, Vec<Encoded>)>,
    pad: i32,
}

impl Checks {
    /// Validation rows, and generated Thai and mixed titles that training is unlikely to draw.
    ///
    /// # Errors
    ///
    /// When the tokenizer is not one of this crate's.
    pub fn new(corpus: &Corpus, tokenizer: &Tokenizer) -> Result<Self> {
        let (branded, unbranded): (Vec<Example>, Vec<Example>) = corpus
            .validation()
            .into_iter()
            .partition(|example| example.brand.is_some());
        let mut rng = Rng::with_seed(u64::MAX);
        let mut generated = |script, brand| -> Vec<Example> {
            let wanted = |latin_brand| Wanted {
                script,
                brand,
                held_out: false,
                latin_brand,
            };
            (0..GENERATED)
                .map(|i| {
                    let names = &corpus.gazetteer.train;
                    corpus.phrasebook.write(&mut rng, names, wanted(i % 2 == 0))
                })
                .collect()
        };
        let groups = [
            ("rows", branded),
            ("rows without", unbranded),
            ("thai", generated(Script::Thai, true)),
            ("english", generated(Script::English, true)),
            ("thai without", generated(Script::Thai, false)),
        ];
        let groups = groups
            .into_iter()
            .map(|(name, examples)| Ok((name, batch::encode_all(tokenizer, &examples)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            groups,
            pad: batch::pad(tokenizer)?,
        })
    }

    /// Brand accuracy by group, and category accuracy given the brand.
    ///
    /// Greedy decoding gives the label exactly when the label's every token is the likeliest
    /// after those before it, so one forward pass tells.
    #[must_use]
    pub fn line(&self, model: &Llama, device: &Device) -> String {
        let mut line = "validation:".to_owned();
        for (name, encoded) in &self.groups {
            let (brand, all) = self.share_right(model, encoded, device);
            line += &format!("  {name} {brand:.3} ({all:.3})");
        }
        line
    }

    fn share_right(&self, model: &Llama, encoded: &[Encoded], device: &Device) -> (f64, f64) {
        let mut encoded = encoded.to_vec();
        encoded.sort_by_key(|one| one.ids.len());
        let (mut brands, mut answers) = (0, 0);
        for chunk in encoded.chunks(BATCH) {
            let batch = batch::batch(chunk, self.pad);
            let hidden = model.hidden(&batch.tokens, batch.length, device);
            let logits = model.logits(hidden, &batch.rows, device);
            let likeliest = logits.argmax(1).into_data();
            let right: Vec<bool> = (likeliest.iter::<i64>().zip(&batch.targets))
                .map(|(found, &wanted)| found == i64::from(wanted))
                .collect();
            let mut start = 0;
            for one in chunk {
                let brand = one.brand_end - one.prompt;
                let end = start
                    + if one.labelled {
                        one.ids.len() - one.prompt
                    } else {
                        brand
                    };
                brands += usize::from(right[start..start + brand].iter().all(|&r| r));
                answers += usize::from(right[start..end].iter().all(|&r| r));
                start = end;
            }
        }
        let count = encoded.len().max(1) as f64;
        (brands as f64 / count, answers as f64 / count)
    }
}
