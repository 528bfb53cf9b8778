//! The figures of the model card.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::corpus::Corpus;
use crate::example::{Category, Example, Language};
use crate::generate::{Script, Wanted};
use crate::rows::Words;

/// The group whose brand accuracy is the goal and the artifact's `quality`.
pub const GOAL: &str = "held out, brand in the title";

/// Fixes the generated tests.
const SEED: u64 = 2_024;
/// Titles in a group of generated tests.
const GENERATED: usize = 200;

/// One line of the card.
#[derive(Clone, Debug, Serialize)]
pub struct Score {
    /// Which titles.
    pub group: String,
    /// How many.
    pub titles: usize,
    /// Share whose brand is the label, letter for letter; null where the label is null.
    pub brand: f64,
    /// Share of the titles with a category label whose category is the label.
    pub category: Option<f64>,
    /// Share whose language is the label.
    pub language: f64,
    /// Share of answers that are JSON of the promised form.
    pub valid: f64,
}

/// Something that answers titles, in their order.
pub type Answerer<'a> = &'a mut dyn FnMut(&[String]) -> Result<Vec<String>>;

/// A group of test titles.
#[derive(Clone, Debug)]
pub struct Group {
    /// What the card calls it.
    pub name: &'static str,
    /// The titles with their labels.
    pub examples: Vec<Example>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    brand: Option<String>,
    category: Option<String>,
    language: Language,
}

/// Every test group: the held-out rows, and generated titles from held-out templates and names.
#[must_use]
pub fn groups(corpus: &Corpus) -> Vec<Group> {
    let mut groups = held_out(corpus);
    let kinds = [
        ("generated, English", Script::English, true, true),
        (
            "generated, Thai with a Thai brand",
            Script::Thai,
            true,
            false,
        ),
        (
            "generated, Thai with a Latin brand",
            Script::Thai,
            true,
            true,
        ),
        (
            "generated, English without a brand",
            Script::English,
            false,
            true,
        ),
        ("generated, Thai without a brand", Script::Thai, false, true),
    ];
    for (i, (name, script, brand, latin_brand)) in kinds.into_iter().enumerate() {
        let wanted = Wanted {
            script,
            brand,
            held_out: true,
            latin_brand,
        };
        let examples = corpus.generated_tests(SEED + i as u64, GENERATED, wanted);
        groups.push(Group { name, examples });
    }
    groups.push(Group {
        name: "Thai chatter, no product",
        examples: corpus.chatter_tests(),
    });
    groups
}

fn held_out(corpus: &Corpus) -> Vec<Group> {
    let split = &corpus.split;
    let seen: BTreeSet<&str> = (split.train.iter()).map(|row| row.brand.as_str()).collect();
    let words = Words::of(&split.train);
    let category = |label: &str| match label {
        "" => Category::Unlabelled,
        label => Category::Is(label.to_owned()),
    };
    let mut groups = [
        GOAL,
        "held out, brand seen in training",
        "held out, brand never seen in training",
        "held out, the label's brand not in the title",
        "held out, no brand in the title",
    ]
    .map(|name| Group {
        name,
        examples: Vec::new(),
    });
    for row in &split.held_out {
        let example = Example {
            before: row.title.clone(),
            brand: None,
            after: String::new(),
            category: category(&row.category),
        };
        if !row.brand_in_title {
            if row.example(&words).is_some() {
                groups[4].examples.push(example.clone());
            }
            groups[3].examples.push(example);
        } else if let Some(example) = row.example(&words) {
            let part = if seen.contains(row.brand.as_str()) {
                1
            } else {
                2
            };
            groups[part].examples.push(example.clone());
            groups[0].examples.push(example);
        }
    }
    groups.into()
}

/// Scores every group of [`groups`].
///
/// # Errors
///
/// When the answerer fails.
pub fn scores(corpus: &Corpus, answer: Answerer) -> Result<Vec<Score>> {
    (groups(corpus).iter())
        .map(|group| score(group, answer))
        .collect()
}

/// The brand accuracy of the goal's group, from 0 to 1.
#[must_use]
pub fn quality(scores: &[Score]) -> f64 {
    let goal = scores.iter().find(|score| score.group == GOAL);
    goal.map_or(0.0, |score| score.brand)
}

/// Scores a group.
///
/// # Errors
///
/// When the answerer fails.
pub fn score(group: &Group, answer: Answerer) -> Result<Score> {
    let titles: Vec<String> = group.examples.iter().map(Example::title).collect();
    let answers = answer(&titles)?;
    let (mut brand, mut category, mut labelled, mut language, mut valid) = (0, 0, 0, 0, 0);
    for (example, text) in group.examples.iter().zip(&answers) {
        labelled += usize::from(example.category != Category::Unlabelled);
        let Ok(found) = serde_json::from_str::<Answer>(text) else {
            continue;
        };
        valid += 1;
        brand += usize::from(found.brand == example.brand);
        language += usize::from(found.language == example.language());
        category += usize::from(match &example.category {
            Category::Is(name) => found.category.as_ref() == Some(name),
            Category::NoProduct => found.category.is_none(),
            Category::Unlabelled => false,
        });
    }
    let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
    let all = group.examples.len();
    Ok(Score {
        group: group.name.to_owned(),
        titles: all,
        brand: share(brand, all),
        category: (labelled > 0).then(|| share(category, labelled)),
        language: share(language, all),
        valid: share(valid, all),
    })
}

/// The scores as the table of the model card.
#[must_use]
pub fn table(scores: &[Score]) -> String {
    let mut table = "| titles | number | brand | category | language | valid JSON |\n\
                     |---|---|---|---|---|---|\n"
        .to_owned();
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    for score in scores {
        let category = score.category.map_or_else(|| "–".to_owned(), percent);
        let _ = writeln!(
            table,
            "| {} | {} | {} | {category} | {} | {} |",
            score.group,
            score.titles,
            percent(score.brand),
            percent(score.language),
            percent(score.valid),
        );
    }
    table
}

/// Wrong brands of a group, for a person to read: title, label, answer.
///
/// # Errors
///
/// When the answerer fails.
pub fn mistakes(group: &Group, answer: Answerer) -> Result<Vec<[String; 3]>> {
    let titles: Vec<String> = group.examples.iter().map(Example::title).collect();
    let answers = answer(&titles)?;
    let wrong = |(example, text): &(&Example, String)| {
        serde_json::from_str::<Answer>(text).map_or(true, |found| found.brand != example.brand)
    };
    Ok((group.examples.iter().zip(answers))
        .filter(wrong)
        .map(|(example, text)| {
            let label = example.brand.clone().unwrap_or_else(|| "null".to_owned());
            [example.title(), label, text]
        })
        .collect())
}
