//! A template's source, made ready for the library.
//!
//! Two things are changed, and nothing that is written: `transformers`' own
//! `{% generation %}` blocks, which mark an answer for training, become blocks
//! that are always taken; and what makes texts grow, or reads long ones, is
//! counted (see [`super::limits`]): the sides of `+`, `~` and `*`, what goes
//! into a filter, what `in` looks through and what is sliced go through a
//! filter of ours, and a long literal has a call in its middle that writes
//! nothing.

use std::ops::Range;

use super::environment::{FACTOR, GROWN, LITERAL, SLICED, TEXT};

/// Literals up to this long are not counted: an instruction writes one.
const SHORT_LITERAL: usize = 64;
/// The longest run of white space, and the longest `raw` block, which are not
/// counted either.
const LONGEST_BLANK: usize = 1024;

/// What cannot be made ready.
pub(super) struct Problem {
    pub(super) line: usize,
    pub(super) message: &'static str,
}

/// The source with its changes.
pub(super) fn prepare(source: &str) -> Result<String, Problem> {
    let mut edits = Vec::new();
    let mut at = 0;
    while let Some(open) = next_open(source, at) {
        literal(source, at..open, &mut edits)?;
        let tag = &source[open..open + 2];
        if tag == "{#" {
            match source[open..].find("#}") {
                Some(length) => at = open + length + 2,
                None => return Ok(apply(source, &edits)),
            }
            continue;
        }
        // What has no end is the library's to refuse, with its own words.
        let Some((tokens, end)) = code(source, open + 2, tag == "{%") else {
            return Ok(apply(source, &edits));
        };
        at = end;
        let keyword = tokens
            .first()
            .filter(|first| tag == "{%" && first.kind == Kind::Name);
        match keyword.map(|first| &source[first.range.clone()]) {
            Some("generation") => edits.push((tokens[0].range.clone(), "if true".to_owned())),
            Some("endgeneration") => edits.push((tokens[0].range.clone(), "endif".to_owned())),
            Some("raw") => at = raw(source, end)?,
            _ => operators(source, &tokens, &mut edits),
        }
    }
    literal(source, at..source.len(), &mut edits)?;
    Ok(apply(source, &edits))
}

/// Whether the template compares something with this text, or splits at it:
/// it stands there as a string of its own, in brackets or before `in`.
pub(super) fn inspects(source: &str, text: &str) -> bool {
    ['\'', '"'].into_iter().any(|quote| {
        let literal = format!("{quote}{text}{quote}");
        source.match_indices(&literal).any(|(at, _)| {
            let before = source[..at].trim_end();
            let after = source[at + literal.len()..].trim_start();
            before.ends_with('(') || after.starts_with("in ") || after.starts_with("not in ")
        })
    })
}

fn next_open(source: &str, from: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    (from..bytes.len().saturating_sub(1))
        .find(|at| bytes[*at] == b'{' && matches!(bytes[at + 1], b'{' | b'%' | b'#'))
}

/// Puts a call into a long literal, after its first character that is not
/// white space and before another one: what is trimmed around tags stays what
/// it was.
fn literal(
    source: &str,
    range: Range<usize>,
    edits: &mut Vec<(Range<usize>, String)>,
) -> Result<(), Problem> {
    let text = &source[range.clone()];
    if text.len() <= SHORT_LITERAL {
        return Ok(());
    }
    let mut visible = text.char_indices().filter(|(_, c)| !c.is_whitespace());
    let first = visible.next().map(|(at, c)| at + c.len_utf8());
    if let (Some(first), Some(_)) = (first, visible.next()) {
        let place = range.start + first;
        let call = format!("{{{{ {LITERAL}({}) }}}}", text.len());
        edits.push((place..place, call));
    } else if text.len() > LONGEST_BLANK {
        return Err(problem(
            source,
            range.start,
            "more than 1024 blanks in a row",
        ));
    }
    Ok(())
}

/// The end of a `raw` block that begins at `from`.
fn raw(source: &str, from: usize) -> Result<usize, Problem> {
    let mut at = from;
    while let Some(open) = source[at..].find("{%").map(|length| at + length) {
        let inside = source[open + 2..]
            .trim_start_matches(['-', '+'])
            .trim_start();
        if inside.starts_with("endraw") {
            if open - from > LONGEST_BLANK {
                return Err(problem(source, from, "a raw block of more than 1024 bytes"));
            }
            return Ok(source[open..]
                .find("%}")
                .map_or(source.len(), |l| open + l + 2));
        }
        at = open + 2;
    }
    Ok(source.len())
}

fn problem(source: &str, at: usize, message: &'static str) -> Problem {
    Problem {
        line: source[..at].matches('\n').count() + 1,
        message,
    }
}

/// `edits` are in order of their places but for those of one piece of code.
fn apply(source: &str, edits: &[(Range<usize>, String)]) -> String {
    let mut edits: Vec<_> = edits.iter().collect();
    edits.sort_by_key(|(range, _)| range.start);
    let mut out = String::with_capacity(source.len() + edits.len() * 24);
    let mut done = 0;
    for (range, with) in edits {
        out.push_str(&source[done..range.start]);
        out.push_str(with);
        done = range.end;
    }
    out.push_str(&source[done..]);
    out
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Name,
    /// A number or a string.
    Value,
    Open,
    Close,
    Operator,
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    range: Range<usize>,
}

/// The tokens of the code that begins at `from`, and where its tag has ended.
/// Nothing when it does not end.
fn code(source: &str, from: usize, block: bool) -> Option<(Vec<Token>, usize)> {
    let bytes = source.as_bytes();
    let end = if block { "%}" } else { "}}" };
    let mut tokens = Vec::new();
    let (mut at, mut depth) = (from, 0usize);
    if matches!(bytes.get(at), Some(b'-' | b'+')) {
        at += 1;
    }
    loop {
        let rest = source.get(at..)?;
        let c = rest.chars().next()?;
        if depth == 0 {
            let closing = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            if closing.starts_with(end) {
                return Some((tokens, at + (rest.len() - closing.len()) + 2));
            }
        }
        let (kind, length) = match c {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '\'' | '"' => (Kind::Value, string(rest, c)?),
            '(' | '[' | '{' => {
                depth += 1;
                (Kind::Open, 1)
            }
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                (Kind::Close, 1)
            }
            c if c.is_ascii_digit() => {
                (Kind::Value, run(rest, |c| c.is_alphanumeric() || c == '_'))
            }
            c if c.is_alphabetic() || c == '_' => {
                (Kind::Name, run(rest, |c| c.is_alphanumeric() || c == '_'))
            }
            _ => {
                let double = ["**", "//", "==", "!=", ">=", "<="];
                let two = double.iter().any(|two| rest.starts_with(two));
                (Kind::Operator, if two { 2 } else { c.len_utf8() })
            }
        };
        tokens.push(Token {
            kind,
            range: at..at + length,
        });
        at += length;
    }
}

fn run(rest: &str, part: impl Fn(char) -> bool) -> usize {
    rest.find(|c| !part(c)).unwrap_or(rest.len())
}

/// The length of the string that `rest` begins with.
fn string(rest: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Puts filters around what has to be counted. Filters bind tighter than
/// operators, so nothing else changes.
fn operators(source: &str, tokens: &[Token], edits: &mut Vec<(Range<usize>, String)>) {
    let mut filter = |at: usize, filter: &str| {
        let place = tokens[at].range.end;
        edits.push((place..place, format!("|{filter}")));
    };
    for at in 1..tokens.len() {
        let counted = match (tokens[at].kind, &source[tokens[at].range.clone()]) {
            (Kind::Operator, "+") => GROWN,
            (Kind::Operator, "~") => TEXT,
            (Kind::Operator, "*") => FACTOR,
            (Kind::Operator, "|") => {
                filter(at - 1, GROWN);
                continue;
            }
            (Kind::Name, "in") => {
                if let Some(right) = operand(source, tokens, at + 1) {
                    filter(right, GROWN);
                }
                continue;
            }
            (Kind::Open, "[") if slices(source, tokens, at) => {
                if let Some(end) = members(source, tokens, at - 1) {
                    filter(end, SLICED);
                }
                continue;
            }
            _ => continue,
        };
        if ends_operand(source, &tokens[at - 1])
            && let Some(right) = operand(source, tokens, at + 1)
        {
            filter(at - 1, counted);
            filter(right, counted);
        }
    }
}

/// Whether the bracket at `open` holds a slice of what stands before it.
fn slices(source: &str, tokens: &[Token], open: usize) -> bool {
    let Some(close) = closing(tokens, open) else {
        return false;
    };
    let mut depth = 0usize;
    let colon = tokens[open + 1..close].iter().any(|token| {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && &source[token.range.clone()] == ":"
    });
    colon && ends_operand(source, &tokens[open - 1])
}

fn ends_operand(source: &str, token: &Token) -> bool {
    let words = ["and", "or", "not", "in", "is", "if", "else"];
    match token.kind {
        Kind::Name => !words.contains(&&source[token.range.clone()]),
        Kind::Value | Kind::Close => true,
        Kind::Open | Kind::Operator => false,
    }
}

/// The last token of the operand that begins at `at`: signs, then a name, a
/// value or brackets, then members, calls, subscripts and filters.
fn operand(source: &str, tokens: &[Token], mut at: usize) -> Option<usize> {
    let text = |at: usize| tokens.get(at).map(|t| &source[t.range.clone()]);
    while matches!(text(at), Some("-" | "+" | "not")) {
        at += 1;
    }
    at = match tokens.get(at)?.kind {
        Kind::Open => closing(tokens, at)?,
        Kind::Name | Kind::Value => at,
        Kind::Close | Kind::Operator => return None,
    };
    members(source, tokens, at)
}

/// The last token of what follows the one at `at` and belongs to it.
fn members(source: &str, tokens: &[Token], mut at: usize) -> Option<usize> {
    let text = |at: usize| tokens.get(at).map(|t| &source[t.range.clone()]);
    loop {
        let next = tokens.get(at + 1);
        at = match (next.map(|t| t.kind), text(at + 1)) {
            (Some(Kind::Operator), Some("." | "|")) => at + 2,
            (Some(Kind::Open), Some("(" | "[")) => closing(tokens, at + 1)?,
            _ => return (at < tokens.len()).then_some(at),
        };
    }
}

/// The bracket that closes the one at `open`.
fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close if depth == 1 => return Some(at),
            Kind::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests;
