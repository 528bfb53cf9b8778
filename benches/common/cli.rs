//! What every benchmark program takes, and the JSON line it ends with.

use serde::Serialize;
use serde_json::Value;
use std::io::Write as _;

/// The flags of every benchmark.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Flags {
    /// End with one JSON line.
    #[arg(long)]
    pub(crate) json: bool,
    /// A short run that shows that the program works; its figures say nothing.
    #[arg(long)]
    pub(crate) smoke: bool,
    /// What `cargo bench` passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The JSON line, as `/benches/README.md` describes it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What was asked.
    pub(crate) question: &'static str,
    /// Our figures, their units in their names.
    pub(crate) ours: Value,
    /// The peer's figures of the same run.
    pub(crate) peer: Option<Value>,
    /// Ours over the peer's.
    pub(crate) ratio: Option<f64>,
    /// The least and the most over the runs.
    pub(crate) spread: Value,
    /// How many runs the figures come from.
    pub(crate) runs: usize,
}

impl Report {
    /// Ends the program's output.
    pub(crate) fn print(&self, flags: Flags) -> anyhow::Result<()> {
        if flags.json {
            say(&serde_json::to_string(self)?);
        }
        Ok(())
    }
}

/// A line on stdout. A closed pipe ends the output, not the run.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
