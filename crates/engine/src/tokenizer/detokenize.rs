//! Tokens to text as they come, characters whole and stop strings cut.

use super::TextTokenizer;
use super::spelling::Spelling;

/// Trailing replacement characters that may still turn into text: one for
/// each byte of an incomplete character, at most.
const UNSETTLED: usize = 3;
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Turns token after token into the text it adds. A character whose bytes
/// span tokens comes with its last one; text that may be the beginning of a
/// stop string waits until that is settled.
pub(crate) struct Detokenizer {
    text: Text,
    stop: Stop,
}

/// What a token adds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    /// This text, and then a stop string, which is not part of the answer.
    Stopped(String),
}

enum Text {
    Bytes(Bytes),
    Window(Window),
}

impl Detokenizer {
    pub(crate) fn new(tokenizer: &TextTokenizer, stop: &[String]) -> Self {
        let text = match &tokenizer.spelling {
            Spelling::Other => Text::Window(Window::default()),
            Spelling::ByteLevel => Text::Bytes(Bytes::new(None)),
            Spelling::Pieces(pieces) => Text::Bytes(Bytes::new(pieces.strip)),
        };
        Self {
            text,
            stop: Stop::new(stop),
        }
    }

    /// The text that `id` settles.
    pub(crate) fn push(&mut self, tokenizer: &TextTokenizer, id: u32) -> Piece {
        let Some(token) = tokenizer.spoken(id) else {
            return self.stop.push("");
        };
        let new = match &mut self.text {
            Text::Bytes(bytes) => bytes.push(&tokenizer.spelling, &token),
            Text::Window(window) => window.push(tokenizer, id),
        };
        self.stop.push(&new)
    }

    /// What is still held back, at the end.
    pub(crate) fn finish(&mut self, tokenizer: &TextTokenizer) -> Piece {
        let new = match &mut self.text {
            Text::Bytes(bytes) => bytes.settle(true),
            Text::Window(window) => window.finish(tokenizer),
        };
        match self.stop.push(&new) {
            Piece::Text(text) => Piece::Text(text + &self.stop.take()),
            stopped => stopped,
        }
    }
}

/// Text from tokens whose bytes are known one by one. Bytes that are no
/// character become U+FFFD, and harm no other.
struct Bytes {
    /// The beginning of a character.
    pending: Vec<u8>,
    /// No token came yet.
    first: bool,
    /// How many of this character may still be left out at the start.
    strip: Option<(char, usize)>,
}

impl Bytes {
    fn new(strip: Option<(char, usize)>) -> Self {
        Self {
            pending: Vec::new(),
            first: true,
            strip,
        }
    }

    fn push(&mut self, spelling: &Spelling, token: &str) -> String {
        let bytes = spelling.bytes(token, self.first);
        self.first = false;
        self.pending.extend(bytes.unwrap_or_default());
        self.settle(false)
    }

    /// The characters that are whole; at the end, all there is.
    fn settle(&mut self, end: bool) -> String {
        let mut text = String::new();
        let mut settled = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            settled += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            let last = settled + invalid.len() == self.pending.len();
            if last && !end && is_beginning(invalid) {
                break;
            }
            text.push(REPLACEMENT);
            settled += invalid.len();
        }
        self.pending.drain(..settled);
        self.stripped(text)
    }

    fn stripped(&mut self, text: String) -> String {
        let Some((content, left)) = &mut self.strip else {
            return text;
        };
        let mut rest = text.as_str();
        while *left > 0 && !rest.is_empty() {
            match rest.strip_prefix(*content) {
                Some(shorter) => (rest, *left) = (shorter, *left - 1),
                None => *left = 0,
            }
        }
        rest.to_owned()
    }
}

/// Whether more bytes can make this a character.
fn is_beginning(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// Text from a decoder that is known only by what it makes of whole lists.
#[derive(Default)]
struct Window {
    /// The tokens since the last settled point, after one token of context
    /// (some decoders treat a text's first token differently). None of them is
    /// special: those have no text, and would be no context.
    ids: Vec<u32>,
    /// Bytes of the window's text that are given out.
    given: usize,
}

impl Window {
    fn push(&mut self, tokenizer: &TextTokenizer, id: u32) -> String {
        self.ids.push(id);
        let text = tokenizer.decode(&self.ids);
        let settled = settled_len(&text);
        let new = self.take(&text, settled);
        if settled == text.len() {
            self.restart(tokenizer);
        }
        new
    }

    fn finish(&mut self, tokenizer: &TextTokenizer) -> String {
        let text = tokenizer.decode(&self.ids);
        self.take(&text, text.len())
    }

    fn take(&mut self, text: &str, settled: usize) -> String {
        // Should a decoder change its mind about bytes already given out, what
        // it changed is lost; the stream only ever grows.
        let new = text.get(self.given..settled).unwrap_or_default().to_owned();
        self.given = self.given.max(settled);
        new
    }

    /// All is given out: keep one token of context.
    fn restart(&mut self, tokenizer: &TextTokenizer) {
        self.ids.drain(..self.ids.len().saturating_sub(1));
        self.given = tokenizer.decode(&self.ids).len();
    }
}

/// How much of a text cannot change any more.
fn settled_len(text: &str) -> usize {
    let tail = text
        .chars()
        .rev()
        .take(UNSETTLED)
        .take_while(|c| *c == REPLACEMENT)
        .count();
    text.len() - tail * REPLACEMENT.len_utf8()
}

/// Finds stop strings in a text that comes in pieces.
struct Stop {
    strings: Vec<String>,
    held: String,
}

impl Stop {
    fn new(strings: &[String]) -> Self {
        let strings = strings.iter().filter(|s| !s.is_empty()).cloned().collect();
        Self {
            strings,
            held: String::new(),
        }
    }

    fn push(&mut self, text: &str) -> Piece {
        self.held.push_str(text);
        if self.strings.is_empty() {
            return Piece::Text(self.take());
        }
        if let Some(at) = self
            .strings
            .iter()
            .filter_map(|s| self.held.find(s.as_str()))
            .min()
        {
            let mut text = self.take();
            text.truncate(at);
            return Piece::Stopped(text);
        }
        let mut settled = self.held.len();
        for string in &self.strings {
            let start = (1..string.len())
                .rev()
                .filter(|len| string.is_char_boundary(*len))
                .find(|len| self.held.ends_with(&string[..*len]));
            settled = settled.min(self.held.len() - start.unwrap_or(0));
        }
        let waiting = self.held.split_off(settled);
        Piece::Text(std::mem::replace(&mut self.held, waiting))
    }

    fn take(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}
