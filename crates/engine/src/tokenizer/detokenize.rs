//! Tokens to text as they come, characters whole and stop strings cut.

use super::TextTokenizer;

/// Trailing replacement characters that may still turn into text: one for
/// each byte of an incomplete character, at most.
const UNSETTLED: usize = 3;
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Turns token after token into the text it adds. A character whose bytes
/// span tokens comes with its last one; text that may be the beginning of a
/// stop string waits until that is settled.
pub(crate) struct Detokenizer {
    /// The tokens since the last settled point, after one token of context
    /// (some decoders treat a text's first token differently).
    window: Vec<u32>,
    /// How many of the window's tokens are context.
    context: usize,
    /// Bytes of the window's text that are given out.
    given: usize,
    stop: Stop,
}

/// What a token adds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    /// This text, and then a stop string, which is not part of the answer.
    Stopped(String),
}

impl Detokenizer {
    pub(crate) fn new(stop: &[String]) -> Self {
        Self {
            window: Vec::new(),
            context: 0,
            given: 0,
            stop: Stop::new(stop),
        }
    }

    /// The text that `id` settles.
    pub(crate) fn push(&mut self, tokenizer: &TextTokenizer, id: u32) -> Piece {
        self.window.push(id);
        let text = tokenizer.decode(&self.window);
        let settled = settled_len(&text);
        let new = self.take(&text, settled);
        if settled == text.len() {
            self.restart(tokenizer);
        }
        self.stop.push(&new)
    }

    /// What is still held back, at the end.
    pub(crate) fn finish(&mut self, tokenizer: &TextTokenizer) -> Piece {
        let text = tokenizer.decode(&self.window);
        let new = self.take(&text, text.len());
        match self.stop.push(&new) {
            Piece::Text(text) => Piece::Text(text + &self.stop.take()),
            stopped => stopped,
        }
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
        self.window.drain(..self.window.len().saturating_sub(1));
        self.context = self.window.len();
        self.given = tokenizer.decode(&self.window[..self.context]).len();
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
