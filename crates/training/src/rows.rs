//! The real titles: reading them, and keeping the held-out part out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::example::{Category, Example};

/// The file of real titles in the data folder.
pub const FILE: &str = "walmart_amazon_title_brand_train.tsv";

/// One row of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The product title.
    pub title: String,
    /// The brand, which the title may lack.
    pub brand: String,
    /// A free-form category, or nothing.
    pub category: String,
    /// Whether the brand's letters stand in the title.
    pub brand_in_title: bool,
}

/// The rows by use.
#[derive(Debug, Default)]
pub struct Split {
    /// Every row that may be trained on.
    pub train: Vec<Row>,
    /// A part kept from training to choose between checkpoints.
    pub validation: Vec<Row>,
    /// Never trained on, and looked at once, for the model card.
    pub held_out: Vec<Row>,
}

/// Reads and splits the rows under `data`.
///
/// Held out is every row whose title's SHA-256, read as a big-endian integer, divides by five;
/// validation, every row whose digest leaves 1 when divided by 25.
///
/// # Errors
///
/// When the file is missing or a row has not four columns.
pub fn read(data: &Path) -> Result<Split> {
    let path = data.join(FILE);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut split = Split::default();
    for (number, line) in text.lines().enumerate().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [title, brand, category, brand_in_title] = columns[..] else {
            bail!("{}:{}: not four columns", path.display(), number + 1);
        };
        let row = Row {
            title: title.to_owned(),
            brand: brand.to_owned(),
            category: category.to_owned(),
            brand_in_title: brand_in_title == "1",
        };
        if is_held_out(title) {
            split.held_out.push(row);
        } else if digest_modulo(title, 25) == 1 {
            split.validation.push(row);
        } else {
            split.train.push(row);
        }
    }
    Ok(split)
}

/// Whether a title belongs to the held-out rows.
#[must_use]
pub fn is_held_out(title: &str) -> bool {
    digest_modulo(title, 5) == 0
}

/// The SHA-256 of `text` as a big-endian integer, modulo `modulus`.
#[must_use]
pub fn digest_modulo(text: &str, modulus: u64) -> u64 {
    Sha256::digest(text.as_bytes())
        .iter()
        .fold(0, |remainder, &byte| {
            (remainder * 256 + u64::from(byte)) % modulus
        })
}

impl Row {
    /// The row as an example when its labels can be read off its title.
    ///
    /// A row whose brand the title lacks becomes one without a brand, unless the title spells the
    /// brand with other spaces, or opens with a word from `brands` or one that never stands
    /// elsewhere: then nobody can say whether the label is null, and the row is left out.
    #[must_use]
    pub fn example(&self, words: &Words) -> Option<Example> {
        let category = if self.category.is_empty() {
            Category::Unlabelled
        } else {
            Category::Is(self.category.clone())
        };
        let title = self.title.as_str();
        if let Some((start, end)) = self.span() {
            return Some(Example {
                before: title[..start].to_owned(),
                brand: Some(title[start..end].to_owned()),
                after: title[end..].to_owned(),
                category,
            });
        }
        let squashed =
            |text: &str| -> String { text.chars().filter(|c| c.is_alphanumeric()).collect() };
        let hidden = squashed(title).contains(&squashed(&self.brand));
        (!hidden && !words.opens_with_a_name(title)).then(|| Example {
            before: title.to_owned(),
            brand: None,
            after: String::new(),
            category,
        })
    }

    /// Where the title has the brand: as whole words if it can, else anywhere.
    fn span(&self) -> Option<(usize, usize)> {
        if !self.brand_in_title || self.brand.is_empty() {
            return None;
        }
        let places: Vec<usize> = (self.title.match_indices(&self.brand))
            .map(|(start, _)| start)
            .collect();
        let whole = places.iter().copied().find(|&start| {
            let end = start + self.brand.len();
            let before = self.title[..start].chars().next_back();
            let after = self.title[end..].chars().next();
            !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
        });
        let start = whole.or_else(|| places.first().copied())?;
        Some((start, start + self.brand.len()))
    }
}

/// What the training titles say of words: which are brands, and which are ordinary.
#[derive(Debug, Default)]
pub struct Words {
    brands: BTreeSet<String>,
    inside: BTreeMap<String, usize>,
}

impl Words {
    /// Counts over the rows that may be trained on.
    #[must_use]
    pub fn of(rows: &[Row]) -> Self {
        let mut words = Self::default();
        for row in rows {
            words.brands.insert(row.brand.clone());
            for word in row.title.split_whitespace().skip(1) {
                *words.inside.entry(word.to_owned()).or_default() += 1;
            }
        }
        words
    }

    /// Whether the first words of `title` are a brand, or the first word may well be one.
    fn opens_with_a_name(&self, title: &str) -> bool {
        let is_brand = (self.brands.iter())
            .any(|brand| title.starts_with(&format!("{brand} ")) || title == brand);
        let first = title.split_whitespace().next().unwrap_or_default();
        let ordinary = first.chars().any(|c| c.is_ascii_digit())
            || self.inside.get(first).is_some_and(|&count| count >= 2);
        is_brand || !ordinary
    }
}
