//! The stream of training examples: an endless, seeded mixture of real and generated titles.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use fastrand::Rng;

use crate::augment;
use crate::example::{Category, Example};
use crate::gazetteer::{self, Gazetteer, pick};
use crate::generate::{Phrasebook, Script, Wanted};
use crate::rows::{self, Row, Split, Words};

/// Thai social-media lines, which name no product.
const CHATTER: &str = "wisesight_q.txt";

/// Everything examples are made from.
#[derive(Debug)]
pub struct Corpus {
    /// The rows by use.
    pub split: Split,
    /// Training rows as examples, with a brand.
    branded: Vec<Example>,
    /// Training rows as examples, without one.
    unbranded: Vec<Example>,
    /// Lines of chatter for training; the rest is for tests.
    chatter: Vec<String>,
    held_out_chatter: Vec<String>,
    /// Ordinary words, for noise.
    fillers: Vec<String>,
    /// The words of every held-out title, in order of the alphabet.
    forbidden: BTreeSet<Vec<String>>,
    /// Brand names.
    pub gazetteer: Gazetteer,
    /// Templates and products.
    pub phrasebook: Phrasebook,
}

impl Corpus {
    /// Reads the data folder.
    ///
    /// # Errors
    ///
    /// When a file is missing or malformed.
    pub fn read(data: &Path) -> Result<Self> {
        let split = rows::read(data)?;
        let held_out_only =
            gazetteer::held_out_only(&split.held_out, &[&split.train, &split.validation]);
        let gazetteer = gazetteer::read(data, &held_out_only)?;
        let words = Words::of(&split.train);
        let (branded, unbranded): (Vec<Example>, Vec<Example>) = (split.train.iter())
            .filter_map(|row| row.example(&words))
            .partition(|example| example.brand.is_some());
        let path = data.join(CHATTER);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let (held_out_chatter, chatter): (Vec<String>, Vec<String>) =
            (text.lines().filter(|line| !line.trim().is_empty()))
                .map(|line| line.chars().take(60).collect::<String>())
                .partition(|line| rows::digest_modulo(line, 10) == 0);
        let forbidden = (split.held_out.iter())
            .map(|row| sorted_words(&row.title))
            .collect();
        let fillers = fillers(&branded, &chatter);
        Ok(Self {
            split,
            branded,
            unbranded,
            chatter,
            held_out_chatter,
            fillers,
            forbidden,
            gazetteer,
            phrasebook: Phrasebook::new(),
        })
    }

    /// The next training example. Changing digits or the order of words may turn a title into a
    /// held-out one; such an example is drawn again.
    ///
    /// A share of `noise` of those that name a product get words and signs put into them.
    pub fn draw(&self, rng: &mut Rng, noise: f64) -> Example {
        loop {
            let mut example = self.draw_any(rng);
            let is_product = example.category != Category::NoProduct;
            if noise > 0.0 && is_product && rng.f64() < noise {
                augment::with_noise(rng, &mut example, &self.fillers);
            }
            if !self.forbidden.contains(&sorted_words(&example.title())) {
                return example;
            }
        }
    }

    fn draw_any(&self, rng: &mut Rng) -> Example {
        let names = &self.gazetteer.train;
        match rng.u8(..100) {
            roll @ 0..36 => {
                let rows = if roll < 31 {
                    &self.branded
                } else {
                    &self.unbranded
                };
                let example = pick(rng, rows);
                augment::vary(rng, example)
            }
            36..58 => {
                let example = pick(rng, &self.branded);
                augment::with_other_brand(rng, example, names).unwrap_or_else(|| example.clone())
            }
            58..62 => {
                let example = pick(rng, &self.branded);
                augment::without_brand(rng, example).unwrap_or_else(|| example.clone())
            }
            62..65 => chatter(pick::<String>(rng, &self.chatter)),
            roll => {
                let wanted = Wanted {
                    script: if roll < 74 {
                        Script::English
                    } else {
                        Script::Thai
                    },
                    brand: rng.u8(..100) >= 15,
                    held_out: false,
                    latin_brand: rng.bool(),
                };
                self.phrasebook.write(rng, names, wanted)
            }
        }
    }

    /// Text for the tokenizer, with weights: real titles, brand names and phrases.
    #[must_use]
    pub fn texts(&self) -> Vec<(String, u64)> {
        let names = &self.gazetteer.train;
        let rows = &self.split.train;
        let categories = rows.iter().map(|row| (row.category.clone(), 2));
        (rows.iter().map(|row| (row.title.clone(), 4)))
            .chain(rows.iter().map(|row| (capitalized_title(row), 1)))
            .chain(rows.iter().map(|row| (row.brand.clone(), 2)))
            .chain(categories)
            .chain(
                self.phrasebook
                    .products
                    .iter()
                    .map(|p| (p.category.to_owned(), 20)),
            )
            .chain(self.phrasebook.phrases().map(|phrase| (phrase, 30)))
            .chain(names.thai.iter().map(|name| (name.clone(), 10)))
            .chain(names.known.iter().map(|name| (name.clone(), 5)))
            .chain(names.latin.iter().map(|name| (name.clone(), 1)))
            .chain(names.latin.iter().map(|name| (name.to_lowercase(), 1)))
            .chain(self.chatter.iter().map(|line| (line.clone(), 2)))
            .collect()
    }

    /// Validation rows with their brand in the title, and those that have none.
    #[must_use]
    pub fn validation(&self) -> Vec<Example> {
        let words = Words::of(&self.split.train);
        (self.split.validation.iter())
            .filter_map(|row| row.example(&words))
            .collect()
    }

    /// Generated titles from held-out templates and held-out names.
    #[must_use]
    pub fn generated_tests(&self, seed: u64, count: usize, wanted: Wanted) -> Vec<Example> {
        let mut rng = Rng::with_seed(seed);
        (0..count)
            .map(|_| {
                self.phrasebook
                    .write(&mut rng, &self.gazetteer.held_out, wanted)
            })
            .collect()
    }

    /// Chatter kept from training.
    #[must_use]
    pub fn chatter_tests(&self) -> Vec<Example> {
        self.held_out_chatter
            .iter()
            .map(|line| chatter(line))
            .collect()
    }
}

/// Words that stand behind brands in training titles, and short stretches of Thai chatter.
fn fillers(branded: &[Example], chatter: &[String]) -> Vec<String> {
    // Vowels and tone marks that belong to the consonant before them.
    let hangs = |c: char| matches!(c, '\u{0E30}'..='\u{0E3A}' | '\u{0E45}'..='\u{0E4E}');
    let words = (branded.iter()).filter_map(|example| {
        let word = example.after.split_whitespace().nth(2)?;
        word.chars()
            .all(|c| c.is_ascii_lowercase())
            .then(|| word.to_owned())
    });
    let thai = chatter.iter().flat_map(|line| {
        let mut stretches: Vec<String> = vec![String::new()];
        for c in line.chars().take_while(|&c| !c.is_whitespace()) {
            let last = stretches
                .last()
                .map_or(0, |stretch| stretch.chars().count());
            if last >= 5 && !hangs(c) {
                stretches.push(String::new());
            }
            if let Some(stretch) = stretches.last_mut() {
                stretch.push(c);
            }
        }
        stretches
            .into_iter()
            .filter(|stretch| stretch.chars().count() >= 3)
    });
    words.chain(thai).collect()
}

fn sorted_words(title: &str) -> Vec<String> {
    let mut words: Vec<String> = (title.split_whitespace()).map(str::to_lowercase).collect();
    words.sort();
    words
}

fn capitalized_title(row: &Row) -> String {
    gazetteer::capitalized(&row.title)
}

fn chatter(line: &str) -> Example {
    Example {
        before: line.to_owned(),
        brand: None,
        after: String::new(),
        category: Category::NoProduct,
    }
}
