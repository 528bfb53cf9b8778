//! Variations of real titles that keep their labels right.

use fastrand::Rng;

use crate::example::Example;
use crate::gazetteer::{Names, capitalized, choose, pick};
use crate::generate::recase;

/// A real title with some of what sellers vary changed: case, model digits, the order and the
/// number of the words after the brand, and where the brand stands.
pub fn vary(rng: &mut Rng, example: &Example) -> Example {
    let mut varied = example.clone();
    if rng.u8(..10) < 4 {
        varied.after = other_digits(rng, &varied.after);
        if varied.brand.is_some() {
            varied.before = other_digits(rng, &varied.before);
        }
    }
    if rng.u8(..10) < 3 {
        varied.after = fewer_words(rng, &varied.after);
    }
    if rng.u8(..20) < 3 {
        varied.after = shuffled(rng, &varied.after);
    }
    if varied.brand.is_some() && varied.before.is_empty() && varied.after.starts_with(' ') {
        match rng.u8(..40) {
            0..4 => varied.before = "new-".to_owned(),
            4 => varied.before = "genuine ".to_owned(),
            5 => varied.before = "new ".to_owned(),
            6..9 => move_brand_inside(rng, &mut varied),
            _ => {}
        }
    }
    match rng.u8(..20) {
        0..3 => recase(&mut varied, capitalized),
        3 => recase(&mut varied, |text| text.to_uppercase()),
        _ => {}
    }
    varied
}

/// The title with another brand, so that the answer has to be copied. `None` where the brand is
/// a part of a word (`fuji` in `fujifilm`).
pub fn with_other_brand(rng: &mut Rng, example: &Example, names: &Names) -> Option<Example> {
    example.brand.as_ref()?;
    let glued = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    if glued(example.before.chars().next_back()) || glued(example.after.chars().next()) {
        return None;
    }
    let name = names.pick_latin(rng);
    let mut swapped = example.clone();
    swapped.brand = Some(name.to_lowercase());
    let mut swapped = vary(rng, &swapped);
    if rng.u8(..8) == 0 {
        swapped.brand = Some(name);
    }
    Some(swapped)
}

/// The title without its brand; `None` where it had none, or where the rest says it again.
pub fn without_brand(rng: &mut Rng, example: &Example) -> Option<Example> {
    let brand = example.brand.as_ref()?;
    let rest = format!("{}{}", example.before, example.after);
    let rest = rest.split_whitespace().collect::<Vec<_>>().join(" ");
    if rest.contains(brand.as_str()) || rest.len() < 8 {
        return None;
    }
    let bare = Example {
        before: rest.trim_start_matches("- ").to_owned(),
        brand: None,
        after: String::new(),
        category: example.category.clone(),
    };
    Some(vary(rng, &bare))
}

/// Words and signs no template has, put before, behind or into a title, so that what stands
/// beside a brand does not matter.
pub fn with_noise(rng: &mut Rng, example: &mut Example, fillers: &[String]) {
    const AROUND: [[&str; 2]; 12] = [
        ["", " "],
        ["", " - "],
        ["", " | "],
        ["", ": "],
        ["(", ") "],
        ["[", "] "],
        ["【", "】"],
        ["*", "* "],
        ["", " / "],
        ["#", " "],
        ["\"", "\" "],
        ["~", "~ "],
    ];
    for _ in 0..rng.usize(1..=2) {
        let [open, close] = AROUND[rng.usize(..AROUND.len())];
        let filler = pick(rng, fillers).as_str();
        match rng.u8(..4) {
            0 | 1 => example.before = format!("{open}{filler}{close}{}", example.before),
            2 => example.after = format!("{} {open}{filler}{}", example.after, close.trim_end()),
            _ => {
                let part = if rng.bool() {
                    &mut example.before
                } else {
                    &mut example.after
                };
                let gaps: Vec<usize> = part.match_indices(' ').map(|(i, _)| i).collect();
                if !gaps.is_empty() {
                    let gap = *pick(rng, &gaps);
                    part.insert_str(gap, &format!(" {filler}"));
                }
            }
        }
    }
}

fn other_digits(rng: &mut Rng, text: &str) -> String {
    let mut varied = String::with_capacity(text.len());
    for word in text.split_inclusive(' ') {
        let change = rng.bool();
        varied.extend(word.chars().map(|c| {
            if change && c.is_ascii_digit() {
                char::from(rng.u8(b'0'..=b'9'))
            } else {
                c
            }
        }));
    }
    varied
}

fn fewer_words(rng: &mut Rng, text: &str) -> String {
    let kept: String = (text.split_inclusive(' '))
        .filter(|word| *word == " " || rng.u8(..8) != 0)
        .collect();
    kept.trim_end().to_owned()
}

fn shuffled(rng: &mut Rng, text: &str) -> String {
    if !text.starts_with(' ') {
        return text.to_owned();
    }
    let mut words: Vec<&str> = text.split_whitespace().collect();
    rng.shuffle(&mut words);
    words.iter().map(|word| format!(" {word}")).collect()
}

/// Puts one to four of the words after the brand before it.
fn move_brand_inside(rng: &mut Rng, example: &mut Example) {
    let words: Vec<&str> = example.after.split_whitespace().collect();
    if words.len() < 3 {
        return;
    }
    let count = rng.usize(1..=4).min(words.len() - 1);
    let joiner = choose(rng, &[" ", " ", " by ", " - "]);
    let before = words[..count].join(" ") + joiner;
    let after = words[count..]
        .iter()
        .map(|word| format!(" {word}"))
        .collect();
    (example.before, example.after) = (before, after);
}
