//! The bytes a token stands for.
//!
//! A decoder of the tokenizer library turns a whole list of tokens into text,
//! and some of them look at the list's start, or at a run of tokens. An answer
//! comes token by token, so the decoders that models of the supported families
//! have are known here by what they do to one token.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

/// What a decoder does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Spelling {
    /// A character of the token is a byte.
    ByteLevel,
    /// SentencePiece's: a mark for the space, and `<0xE0>` for a byte.
    Pieces(Pieces),
    /// Not one of ours: whole lists have to be decoded.
    Other,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pieces {
    /// What is written for what, in order.
    replace: Vec<(String, String)>,
    byte_fallback: bool,
    /// At most so many of this character are left out at a text's start.
    pub(super) strip: Option<(char, usize)>,
    /// The mark of a space that is none in the text's first token.
    first_drops: Option<char>,
}

impl Spelling {
    /// Reads the `decoder` of a tokenizer.
    pub(super) fn of(decoder: &Value) -> Self {
        let one = std::slice::from_ref(decoder);
        let steps = match decoder["type"].as_str() {
            Some("Sequence") => decoder["decoders"].as_array().map_or(one, Vec::as_slice),
            _ => one,
        };
        if let [step] = steps {
            match step["type"].as_str() {
                Some("ByteLevel") => return Self::ByteLevel,
                Some("Metaspace") => return metaspace(step).unwrap_or(Self::Other),
                _ => {}
            }
        }
        pieces(steps).map_or(Self::Other, Self::Pieces)
    }

    /// The bytes of a token; `first` is whether it begins a text. Nothing when
    /// that cannot be said of one token.
    pub(super) fn bytes(&self, token: &str, first: bool) -> Option<Vec<u8>> {
        match self {
            Self::ByteLevel => Some(byte_level(token)),
            Self::Pieces(pieces) => Some(pieces.bytes(token, first)),
            Self::Other => None,
        }
    }
}

impl Pieces {
    fn bytes(&self, token: &str, first: bool) -> Vec<u8> {
        let mut text = token.to_owned();
        if let Some(mark) = self.first_drops.filter(|_| first) {
            text.retain(|c| c != mark);
        }
        for (from, to) in &self.replace {
            text = text.replace(from, to);
        }
        match self.byte_fallback.then(|| byte(&text)).flatten() {
            Some(byte) => vec![byte],
            None => text.into_bytes(),
        }
    }
}

/// `<0xE0>` as the byte it names.
fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

fn metaspace(step: &Value) -> Option<Spelling> {
    let mark = step["replacement"].as_str()?;
    let keeps = step["prepend_scheme"] == "never" || step["add_prefix_space"] == false;
    Some(Spelling::Pieces(Pieces {
        replace: vec![(mark.to_owned(), " ".to_owned())],
        first_drops: mark.chars().next().filter(|_| !keeps),
        ..Pieces::default()
    }))
}

/// Replacements, then bytes, then everything in one, then its start: any of
/// them, in this order.
fn pieces(steps: &[Value]) -> Option<Pieces> {
    let mut pieces = Pieces::default();
    let mut fused = false;
    for step in steps {
        match step["type"].as_str()? {
            "Replace" if !pieces.byte_fallback && !fused => {
                let from = step["pattern"]["String"].as_str()?;
                let to = step["content"].as_str()?;
                pieces.replace.push((from.to_owned(), to.to_owned()));
            }
            "ByteFallback" if !fused => pieces.byte_fallback = true,
            "Fuse" => fused = true,
            "Strip" if fused && pieces.strip.is_none() && step["stop"] == 0 => {
                let mut content = step["content"].as_str()?.chars();
                let start = usize::try_from(step["start"].as_u64()?).ok()?;
                pieces.strip = Some((content.next()?, start));
            }
            _ => return None,
        }
    }
    // An empty pattern would be found everywhere.
    let usable = pieces.replace.iter().all(|(from, _)| !from.is_empty());
    (usable && !steps.is_empty()).then_some(pieces)
}

/// GPT-2's alphabet: every byte is a printable character, those that have
/// none of their own are counted up from U+0100.
static ALPHABET: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let own = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = 0x100u32..;
    let letter = |byte: u8| match own(byte) {
        true => Some((char::from(byte), byte)),
        false => others.next().and_then(char::from_u32).map(|c| (c, byte)),
    };
    (0..=u8::MAX).filter_map(letter).collect()
});

/// A token with a character that is no byte's is plain text.
fn byte_level(token: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(|c| ALPHABET.get(&c).copied()).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_alphabet_has_every_byte_once() {
        let mut bytes: Vec<u8> = ALPHABET.values().copied().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=u8::MAX).collect::<Vec<_>>());
        assert_eq!(byte_level("Ġhi"), b" hi");
        assert_eq!(byte_level("Ċ"), b"\n");
        assert_eq!(byte_level("a b"), b"a b", "no byte is a plain space");
    }

    #[test]
    fn decoders_of_the_families_are_known_and_others_are_not() {
        let llama = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]});
        let Spelling::Pieces(pieces) = Spelling::of(&llama) else {
            panic!("it is known")
        };
        assert_eq!(pieces.strip, Some((' ', 1)));
        assert_eq!(pieces.bytes("▁the▁end", true), b" the end");
        assert_eq!(pieces.bytes("<0xE0>", false), [0xE0]);
        assert_eq!(pieces.bytes("<0xZZ>", false), b"<0xZZ>");
        let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"});
        let metaspace = Spelling::of(&metaspace);
        assert_eq!(metaspace.bytes("▁a", true).unwrap(), b"a");
        assert_eq!(metaspace.bytes("▁a", false).unwrap(), b" a");
        let byte_level = json!({"type": "Sequence", "decoders": [{"type": "ByteLevel"}]});
        assert_eq!(Spelling::of(&byte_level), Spelling::ByteLevel);
        for other in [
            json!(null),
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]}),
            json!({"type": "Replace", "pattern": {"Regex": "x"}, "content": ""}),
            json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}),
        ] {
            assert_eq!(Spelling::of(&other), Spelling::Other, "{other}");
        }
    }
}
