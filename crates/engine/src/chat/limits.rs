//! What a rendering may cost.
//!
//! The library counts instructions and depth. It does not count bytes, and a
//! text that is added to itself forty times has a terabyte. So whatever makes
//! text larger is counted here: what is written, the sides of `+` and `~`
//! ([`super::source`] puts the counting there), and the filters that can make
//! much of little.

use std::cell::Cell;
use std::error::Error as _;
use std::fmt::{self, Write as _};

use minijinja::{Error, ErrorKind, Value};
use time::OffsetDateTime;

use super::RenderError;

/// Instructions of one rendering. A message takes some hundred.
pub(super) const FUEL: u64 = 300_000;
/// A value can be wrapped in another by five instructions, and letting go of
/// a value goes as deep as it is. A stack for that costs what is touched of it.
const STACK: usize = 256 << 20;
/// Depth of blocks, ten for a macro's call.
pub(super) const DEPTH: usize = 200;
/// Bytes that one rendering may make on its way: a system message that is
/// carried through 256 turns is one copy a turn.
const WORK: usize = 64 << 20;
/// What the shortest piece of text counts for.
const PIECE: usize = 8;
/// Bytes of a rendered conversation: 16 times the most content.
const OUTPUT: usize = 4 << 20;

thread_local! {
    /// Bytes the rendering on this thread may still make.
    static LEFT: Cell<usize> = const { Cell::new(0) };
    static NOW: Cell<OffsetDateTime> = const { Cell::new(OffsetDateTime::UNIX_EPOCH) };
}

/// What ended a rendering, inside the library's error.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Raised(String),
    #[error("too much text")]
    TooMuch,
}

/// Renders within the limits; `now` is the time that templates see.
pub(super) fn within(
    now: OffsetDateTime,
    render: impl FnOnce() -> Result<String, Error> + Send,
) -> Result<String, RenderError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("chat-template".to_owned())
            .stack_size(STACK);
        let thread = thread.spawn_scoped(scope, || counted(now, render));
        // What panics is the library.
        let rendered = thread.map_err(|_| RenderError::NoThread)?.join();
        rendered.unwrap_or_else(|_| {
            Err(RenderError::Failed {
                line: 0,
                problem: "it broke the template library".to_owned(),
            })
        })
    })
}

fn counted(
    now: OffsetDateTime,
    render: impl FnOnce() -> Result<String, Error>,
) -> Result<String, RenderError> {
    LEFT.set(WORK);
    NOW.set(now);
    match render() {
        Ok(rendered) if rendered.len() > OUTPUT => Err(RenderError::Limit),
        Ok(rendered) => Ok(rendered),
        Err(error) => Err(ended(&error)),
    }
}

fn ended(error: &Error) -> RenderError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.source();
    if error.kind() == ErrorKind::OutOfFuel {
        return RenderError::Limit;
    }
    while let Some(inner) = cause {
        match inner.downcast_ref() {
            Some(Ended::Raised(message)) => return RenderError::Raised(message.clone()),
            Some(Ended::TooMuch) => return RenderError::Limit,
            None => {}
        }
        if let Some(inner) = inner.downcast_ref::<Error>()
            && inner.kind() == ErrorKind::OutOfFuel
        {
            return RenderError::Limit;
        }
        cause = inner.source();
    }
    RenderError::Failed {
        line: error.line().unwrap_or(0),
        problem: described(error),
    }
}

/// What kind of error it is. The library's whole message may quote values.
pub(super) fn described(error: &Error) -> String {
    match (error.kind(), error.detail()) {
        (ErrorKind::SyntaxError, Some(detail)) => detail.to_owned(),
        (kind, _) => kind.to_string(),
    }
}

/// A template's own refusal.
pub(super) fn raised(message: &str) -> Error {
    let message: String = message.chars().take(500).collect();
    Error::new(ErrorKind::InvalidOperation, "raised").with_source(Ended::Raised(message))
}

pub(super) fn too_much() -> Error {
    Error::new(ErrorKind::InvalidOperation, "too much text").with_source(Ended::TooMuch)
}

/// The time of this rendering.
pub(super) fn now() -> OffsetDateTime {
    NOW.get()
}

/// So many bytes are made.
pub(super) fn charge(bytes: usize) -> Result<(), Error> {
    let left = LEFT.get().checked_sub(bytes).ok_or_else(too_much)?;
    LEFT.set(left);
    Ok(())
}

/// A value as text, counted as it is written.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        charge(text.len())?;
        return Ok(text.to_owned());
    }
    let mut counted = Counted(String::new());
    write!(counted, "{value}").map_err(|_| too_much())?;
    Ok(counted.0)
}

struct Counted(String);

impl fmt::Write for Counted {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        charge(text.len().max(PIECE)).map_err(|_| fmt::Error)?;
        self.0.push_str(text);
        Ok(())
    }
}
