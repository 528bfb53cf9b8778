//! What the command prints. A closed pipe ends the output, not the work.

use std::io::Write as _;

/// Text on stdout, at once.
pub(crate) fn text(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// A line on stdout.
pub(crate) fn line(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// A line on stderr.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// What went wrong, with its causes, on stderr.
pub(crate) fn error(error: &anyhow::Error) {
    note(&format!("error: {error:#}"));
}
