//! One training or test example, and the JSON it is answered with.

use serde::Serialize;

use crate::tokens::{END, EXTRACT, TITLE};

/// The language of a title.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// No Thai letters.
    En,
    /// Thai, at most with units and model codes in Latin letters.
    Th,
    /// Thai and Latin words.
    Mixed,
}

impl Language {
    /// The language of `title` by its letters: a Latin word is a run of at least two Latin
    /// letters that touches no digit, so `500ml` and `A55` do not make a Thai title mixed.
    #[must_use]
    pub fn of(title: &str) -> Self {
        if !title.chars().any(is_thai) {
            return Self::En;
        }
        let latin_word = title
            .split(|c: char| !c.is_ascii_alphanumeric())
            .any(|run| run.len() >= 2 && run.chars().all(|c| c.is_ascii_alphabetic()));
        if latin_word { Self::Mixed } else { Self::Th }
    }
}

/// True for a character of the Thai block.
#[must_use]
pub fn is_thai(c: char) -> bool {
    ('\u{0E01}'..='\u{0E5B}').contains(&c)
}

/// What an answer says of the category.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Category {
    /// This one.
    Is(String),
    /// The text names no product: `null`.
    NoProduct,
    /// The row does not say; such a row teaches the brand and the language only.
    Unlabelled,
}

/// A title, split around its brand, with its labels.
///
/// The three parts let an augmentation change the words around a brand, or the brand, and keep
/// the label right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// What stands before the brand; the whole title where there is none.
    pub before: String,
    /// The brand as the title spells it.
    pub brand: Option<String>,
    /// What stands after the brand.
    pub after: String,
    /// The category label.
    pub category: Category,
}

#[derive(Serialize)]
struct Answer<'a> {
    brand: Option<&'a str>,
    category: Option<&'a str>,
    language: Language,
}

impl Example {
    /// The title as a user would write it.
    #[must_use]
    pub fn title(&self) -> String {
        let brand = self.brand.as_deref().unwrap_or_default();
        format!("{}{brand}{}", self.before, self.after)
    }

    /// The language label.
    #[must_use]
    pub fn language(&self) -> Language {
        Language::of(&self.title())
    }

    /// The prompt the model reads.
    #[must_use]
    pub fn prompt(&self) -> String {
        prompt(&self.title())
    }

    /// The answer, up to and with the end token. An unlabelled category is an empty string,
    /// which is never scored.
    #[must_use]
    pub fn answer(&self) -> String {
        let answer = Answer {
            brand: self.brand.as_deref(),
            category: match &self.category {
                Category::Is(name) => Some(name),
                Category::NoProduct => None,
                Category::Unlabelled => Some(""),
            },
            language: self.language(),
        };
        let json = serde_json::to_string(&answer).expect("three strings always serialize");
        json + END
    }
}

/// The prompt for a title.
#[must_use]
pub fn prompt(title: &str) -> String {
    format!("{TITLE}{title}{EXTRACT}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_model_codes_leave_a_thai_title_thai() {
        assert_eq!(Language::of("ซัมซุง ทีวี 55 นิ้ว 500ml A55"), Language::Th);
        assert_eq!(Language::of("Samsung ทีวี 55 นิ้ว"), Language::Mixed);
        assert_eq!(Language::of("samsung tv"), Language::En);
    }

    #[test]
    fn answer_is_json_even_with_quotes_in_the_brand() {
        let example = Example {
            before: "new ".into(),
            brand: Some("a\"b\\c".into()),
            after: " mouse".into(),
            category: Category::Is("mice".into()),
        };
        let answer = example.answer();
        let json: serde_json::Value =
            serde_json::from_str(answer.strip_suffix(END).unwrap()).unwrap();
        assert_eq!(json["brand"], "a\"b\\c");
        assert_eq!(json["language"], "en");
    }
}
