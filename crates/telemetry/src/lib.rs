//! Tracing set-up shared by every tiermesh process: one line a record on
//! stderr, so that stdout stays what the command prints.

use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Starts logging. `filter` has the syntax of `RUST_LOG`, for example
/// `info,tiermesh_link=debug`. A second call changes nothing.
///
/// # Errors
/// The part of `filter` that is no directive.
pub fn init(filter: &str, format: Format) -> Result<(), String> {
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|error| format!("`{filter}` is not a log filter: {error}; try `info`"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let _ = match format {
        Format::Text => builder.finish().try_init(),
        Format::Json => builder.json().finish().try_init(),
    };
    Ok(())
}
