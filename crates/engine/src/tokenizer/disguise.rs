//! Users' texts that cannot contain a special token.
//!
//! A chat template mixes its own special tokens with users' texts, trims and
//! splits those, and gives one string. What came from whom cannot be seen in
//! it any more, so users' texts are changed before: the first character of
//! whatever looks like a special token is replaced by a stand-in, a character
//! of the private use areas that occurs nowhere. A template treats it as any
//! other character; nobody finds a special token there; and before the text is
//! split into words the stand-in becomes what it stands for.
//!
//! Two texts may end up side by side, so the beginning of a special token at a
//! text's end, and the end of one at its beginning, are disguised as well. A
//! template that itself writes half of a special token next to a user's text
//! is not guarded against.

use std::collections::{BTreeMap, BTreeSet};

use aho_corasick::AhoCorasick;

/// What a user's text must not contain.
#[derive(Default)]
pub(super) struct Guard {
    texts: Vec<String>,
    search: Option<AhoCorasick>,
}

/// Stand-ins and what they stand for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disguise {
    originals: BTreeMap<char, char>,
    /// A character that none of the texts has, and that stands for nothing.
    spare: char,
}

impl Disguise {
    /// Whether nothing needed one.
    pub(crate) fn is_empty(&self) -> bool {
        self.originals.is_empty()
    }

    /// A character that none of the texts has.
    pub(crate) fn spare(&self) -> char {
        self.spare
    }

    /// What a character stands for, itself mostly.
    pub(super) fn original(&self, c: char) -> char {
        self.originals.get(&c).copied().unwrap_or(c)
    }
}

impl Guard {
    pub(super) fn new(texts: Vec<String>) -> Result<Self, String> {
        let search = (!texts.is_empty())
            .then(|| AhoCorasick::new(&texts))
            .transpose()
            .map_err(|error| error.to_string())?;
        Ok(Self { texts, search })
    }

    /// The texts in disguise. No stand-in occurs in them or in `beside`.
    pub(super) fn disguise(&self, texts: &[&str], beside: &str) -> (Vec<String>, Disguise) {
        let all = texts.iter().copied().chain([beside]);
        let tokens = self.texts.iter().map(String::as_str);
        let used: BTreeSet<char> = all
            .chain(tokens)
            .flat_map(str::chars)
            .filter(|c| is_private(*c))
            .collect();
        // 137,000 characters; a request has less than 90,000 that are as long.
        let mut free = private().filter(|c| !used.contains(c));
        let mut disguise = Disguise {
            spare: free.next().unwrap_or(char::REPLACEMENT_CHARACTER),
            originals: BTreeMap::new(),
        };
        let mut stand_ins: BTreeMap<char, char> = BTreeMap::new();
        let mut disguised = Vec::with_capacity(texts.len());
        for text in texts {
            let mut out = String::with_capacity(text.len());
            let mut done = 0;
            for place in self.places(text) {
                let Some(original) = text[place..].chars().next() else {
                    continue;
                };
                let stand_in = *stand_ins.entry(original).or_insert_with(|| {
                    let stand_in = free.next().unwrap_or(char::REPLACEMENT_CHARACTER);
                    disguise.originals.insert(stand_in, original);
                    stand_in
                });
                out.push_str(&text[done..place]);
                out.push(stand_in);
                done = place + original.len_utf8();
            }
            out.push_str(&text[done..]);
            disguised.push(out);
        }
        (disguised, disguise)
    }

    /// Where characters have to be disguised, in bytes.
    fn places(&self, text: &str) -> BTreeSet<usize> {
        let Some(search) = &self.search else {
            return BTreeSet::new();
        };
        let found = search.find_overlapping_iter(text);
        let mut places: BTreeSet<usize> = found.map(|found| found.start()).collect();
        // Templates trim; what is left meets its neighbour.
        let (head, tail) = (text.trim_start(), text.trim_end());
        for token in &self.texts {
            for (at, _) in token.char_indices().skip(1) {
                if tail.ends_with(&token[..at]) {
                    places.insert(tail.len() - at);
                }
                if head.starts_with(&token[at..]) {
                    places.insert(text.len() - head.len());
                }
            }
        }
        places
    }
}

fn is_private(c: char) -> bool {
    matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..='\u{ffffd}' | '\u{100000}'..='\u{10fffd}')
}

fn private() -> impl Iterator<Item = char> {
    ('\u{e000}'..='\u{f8ff}')
        .chain('\u{f0000}'..='\u{ffffd}')
        .chain('\u{100000}'..='\u{10fffd}')
}
