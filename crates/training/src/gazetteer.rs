//! Brand names from the public lists, and invented ones.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use fastrand::Rng;
use serde::Deserialize;

use crate::example::is_thai;
use crate::rows::{Row, digest_modulo};

const THAI_PAIRS: &str = include_str!("../data/thai_brands.tsv");

/// Brand names to put into titles, each list in a fixed order.
#[derive(Debug, Default)]
pub struct Names {
    /// In Latin letters.
    pub latin: Vec<String>,
    /// In Thai letters.
    pub thai: Vec<String>,
    /// Well-known brands in Latin letters, a part of `latin`.
    pub known: Vec<String>,
}

impl Names {
    /// A name in Latin letters: known, listed or invented.
    pub fn pick_latin(&self, rng: &mut Rng) -> String {
        match rng.u8(..20) {
            0..4 => pick(rng, &self.known).clone(),
            4..13 => pick(rng, &self.latin).clone(),
            _ => invent_latin(rng),
        }
    }

    /// A name in Thai letters: listed or invented.
    pub fn pick_thai(&self, rng: &mut Rng) -> String {
        match rng.u8(..20) {
            0..9 => pick(rng, &self.thai).clone(),
            9..14 => invent_thai(rng),
            _ => spell_thai(rng),
        }
    }
}

/// Names for training and names for the generated tests, which share none.
#[derive(Debug, Default)]
pub struct Gazetteer {
    /// For training.
    pub train: Names,
    /// For tests only.
    pub held_out: Names,
}

#[derive(Deserialize)]
struct Icon {
    title: String,
}

#[derive(Deserialize)]
struct ThaiEntry {
    names: std::collections::BTreeMap<String, String>,
}

/// Reads the lists under `data`. A name that only held-out rows have is left out altogether, so
/// that "never seen in training" is true of the lists too; every tenth name by its digest is for
/// tests.
///
/// # Errors
///
/// When a list is missing or malformed.
pub fn read(data: &Path, held_out_only: &BTreeSet<String>) -> Result<Gazetteer> {
    let mut latin = BTreeSet::new();
    let mut thai = BTreeSet::new();
    let mut known = BTreeSet::new();
    for line in text(data, "nsi_all_brands.tsv")?.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        latin.extend(
            columns
                .iter()
                .skip(2)
                .take(2)
                .map(|name| (*name).to_owned()),
        );
    }
    let icons: Vec<Icon> = serde_json::from_str(&text(data, "simple_icons.json")?)
        .context("simple_icons.json is malformed")?;
    latin.extend(icons.into_iter().map(|icon| icon.title));
    for line in text(data, "nsi_thai_brands.jsonl")?.lines() {
        let entry: ThaiEntry =
            serde_json::from_str(line).context("nsi_thai_brands.jsonl is malformed")?;
        thai.extend(entry.names.into_values());
    }
    for (name, spelling) in thai_pairs() {
        known.insert(name.to_owned());
        thai.insert(spelling.to_owned());
    }
    latin.extend(known.iter().cloned());
    let mut gazetteer = Gazetteer::default();
    let mut place = |name: &str, list: fn(&mut Names) -> &mut Vec<String>| {
        let names = match digest_modulo(&name.to_lowercase(), 10) {
            0 => &mut gazetteer.held_out,
            _ => &mut gazetteer.train,
        };
        list(names).push(name.to_owned());
    };
    let usable =
        |name: &&String| is_copyable(name) && !held_out_only.contains(&name.to_lowercase());
    let is_latin =
        |name: &&String| name.is_ascii() && name.chars().any(|c| c.is_ascii_alphabetic());
    latin
        .iter()
        .filter(usable)
        .filter(is_latin)
        .for_each(|name| place(name, |n| &mut n.latin));
    known
        .iter()
        .filter(usable)
        .for_each(|name| place(name, |n| &mut n.known));
    (thai.iter().filter(usable))
        .filter(|name| {
            name.chars()
                .all(|c| is_thai(c) || "- 0123456789".contains(c))
        })
        .filter(|name| name.chars().any(is_thai))
        .for_each(|name| place(name, |n| &mut n.thai));
    Ok(gazetteer)
}

/// Brands that occur in held-out rows and nowhere else.
#[must_use]
pub fn held_out_only(held_out: &[Row], others: &[&[Row]]) -> BTreeSet<String> {
    let seen: BTreeSet<&str> = (others.iter().flat_map(|rows| rows.iter()))
        .map(|row| row.brand.as_str())
        .collect();
    (held_out.iter())
        .filter(|row| !seen.contains(row.brand.as_str()))
        .map(|row| row.brand.clone())
        .collect()
}

/// The pairs of Latin and Thai spellings that ship with this crate.
pub fn thai_pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
    (THAI_PAIRS.lines())
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('\t'))
}

/// Short, and without what JSON would escape.
fn is_copyable(name: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || is_thai(c) || " -.&'+!".contains(c);
    (2..=24).contains(&name.chars().count())
        && name.split(' ').count() <= 3
        && name.chars().all(plain)
}

/// One of `items`, which is never empty in this crate.
pub(crate) fn pick<'a, T>(rng: &mut Rng, items: &'a [T]) -> &'a T {
    &items[rng.usize(..items.len())]
}

/// One of a list of fixed words.
pub(crate) fn choose(rng: &mut Rng, words: &[&'static str]) -> &'static str {
    words[rng.usize(..words.len())]
}

fn invent_latin(rng: &mut Rng) -> String {
    const ONSETS: [&str; 26] = [
        "b", "br", "c", "ch", "d", "dr", "f", "fl", "g", "h", "j", "k", "kr", "l", "m", "n", "p",
        "qu", "r", "s", "st", "t", "tr", "v", "x", "z",
    ];
    const RIMES: [&str; 22] = [
        "a", "e", "i", "o", "u", "an", "ar", "el", "en", "er", "ex", "ia", "ic", "in", "ix", "o",
        "on", "or", "os", "um", "ay", "oo",
    ];
    const ENDINGS: [&str; 14] = [
        "tek", "tech", "co", "ify", "ware", "mate", "max", "pro", "lab", "gear", "line", "zone",
        "star", "well",
    ];
    let mut name = String::new();
    for _ in 0..rng.usize(1..=3) {
        name += choose(rng, &ONSETS);
        name += choose(rng, &RIMES);
    }
    if rng.u8(..3) == 0 || name.len() < 3 {
        name += choose(rng, &ENDINGS);
    }
    let name = match rng.u8(..8) {
        0 => name.to_uppercase(),
        1 => format!("{name} {}", choose(rng, &ENDINGS)),
        2 => format!("{name}-{}", choose(rng, &RIMES)),
        _ => name,
    };
    capitalized(&name)
}

fn invent_thai(rng: &mut Rng) -> String {
    const SYLLABLES: [&str; 40] = [
        "มา",
        "ซู",
        "นี",
        "โต",
        "ลา",
        "วี",
        "โก",
        "ไท",
        "เบล",
        "ริน",
        "ดา",
        "แพน",
        "คิว",
        "ฟู",
        "จิ",
        "เซน",
        "ทอง",
        "ชัย",
        "ศรี",
        "พร",
        "มิว",
        "โอ",
        "เท็ค",
        "นา",
        "รี",
        "แม็ก",
        "ซ์",
        "โซ",
        "ลี่",
        "บี",
        "สยาม",
        "กู๊ด",
        "เพชร",
        "ดาว",
        "วิน",
        "เอ็ม",
        "ทู",
        "ไลฟ์",
        "แอร์",
        "คลา",
    ];
    (0..rng.usize(2..=4))
        .map(|_| choose(rng, &SYLLABLES))
        .collect()
}

/// Syllables put together letter by letter, so that hardly two names share their clusters.
fn spell_thai(rng: &mut Rng) -> String {
    const CONSONANTS: [&str; 28] = [
        "ก", "ข", "ค", "ง", "จ", "ช", "ซ", "ด", "ต", "ท", "น", "บ", "ป", "ผ", "พ", "ฟ", "ม", "ย",
        "ร", "ล", "ว", "ส", "ห", "อ", "กร", "คล", "พร", "ตร",
    ];
    const LEADING: [&str; 5] = ["เ", "แ", "โ", "ไ", "ใ"];
    const FOLLOWING: [&str; 9] = ["า", "ี", "ู", "ิ", "ุ", "ะ", "ั", "ื", "ำ"];
    const TONES: [&str; 6] = ["", "", "", "่", "้", "๊"];
    const FINALS: [&str; 12] = ["", "", "", "น", "ม", "ง", "ก", "ด", "บ", "ล์", "ส", "ร์"];
    let mut name = String::new();
    for _ in 0..rng.usize(2..=3) {
        if rng.u8(..3) == 0 {
            name += choose(rng, &LEADING);
            name += choose(rng, &CONSONANTS[..24]);
            name += choose(rng, &TONES);
            name += choose(rng, &FINALS);
        } else {
            name += choose(rng, &CONSONANTS);
            let vowel = choose(rng, &FOLLOWING);
            let stands_behind = matches!(vowel, "า" | "ะ" | "ำ");
            let tone = choose(rng, &TONES);
            name += if stands_behind { tone } else { vowel };
            name += if stands_behind { vowel } else { tone };
            // A short "a" needs a final consonant.
            let finals = if vowel == "ั" {
                &FINALS[3..]
            } else {
                &FINALS[..]
            };
            name += choose(rng, finals);
        }
    }
    name
}

/// Every word with its first letter in upper case, the rest as it was.
#[must_use]
pub fn capitalized(text: &str) -> String {
    let mut at_start = true;
    (text.chars())
        .map(|c| {
            let shown = if at_start { c.to_ascii_uppercase() } else { c };
            at_start = !c.is_alphanumeric() && c != '\'';
            shown
        })
        .collect()
}

fn text(data: &Path, name: &str) -> Result<String> {
    let path = data.join(name);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}
