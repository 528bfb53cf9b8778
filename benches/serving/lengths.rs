//! How long prompts and answers are.

use anyhow::Context as _;
use std::path::Path;

/// Conversations are shortened by this much, so that 64 of them fit a small
/// machine's patience.
const SCALE: usize = 8;

/// One request's lengths in tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Length {
    pub(crate) prompt: usize,
    pub(crate) answer: u32,
}

/// The first conversations of Azure's 2023 trace (CC-BY-4.0), shortened; where
/// it is not there, and for a smoke run, a few made-up ones.
pub(crate) fn lengths(real: bool) -> anyhow::Result<Vec<Length>> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/traces/azure2023_conv.csv");
    if !real || !path.exists() {
        let made = |index: usize| Length {
            prompt: 20 + (index * 37) % 90,
            answer: 8 + (index as u32 * 13) % 24,
        };
        return Ok((0..256).map(made).collect());
    }
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let length = |line: &str| {
        let mut cells = line.split(',').skip(1);
        let mut cell = || cells.next()?.trim().parse::<usize>().ok();
        Some(Length {
            prompt: (cell()? / SCALE).clamp(8, 256),
            answer: u32::try_from(cell()? / SCALE).ok()?.clamp(8, 64),
        })
    };
    Ok(text.lines().skip(1).filter_map(length).take(512).collect())
}
