//! What this program does when it runs itself again: one load, or one import,
//! in a process of its own.

use crate::cli::say;
use crate::memory::Memory;
use crate::models::pool;
use anyhow::Context as _;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tiermesh_engine::{
    ImportOptions, KernelChoice, LoadOptions, Model, Quantization, Session, import,
};

/// A child's orders; a person gives none.
#[derive(Debug, clap::Args)]
pub(crate) struct ChildArguments {
    /// Load this artifact and read a token.
    #[arg(long, hide = true)]
    first_token: Option<PathBuf>,
    /// Import this checkpoint.
    #[arg(long, hide = true, requires = "to")]
    import: Option<PathBuf>,
    /// The artifact to write.
    #[arg(long, hide = true)]
    to: Option<PathBuf>,
    /// Import as q4, not as q8.
    #[arg(long, hide = true)]
    q4: bool,
}

impl ChildArguments {
    /// Does what was ordered; false if nothing was.
    pub(crate) fn obey(&self) -> anyhow::Result<bool> {
        if let Some(artifact) = &self.first_token {
            first_token(artifact)?;
        } else if let (Some(source), Some(target)) = (&self.import, &self.to) {
            imported(source, target, self.q4)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}

fn first_token(artifact: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    let options = LoadOptions::new(KernelChoice::Auto.resolve()?, Quantization::Q8);
    let model = Model::load(artifact, options);
    let model = model.with_context(|| format!("cannot load {}", artifact.display()))?;
    let loaded = began.elapsed();
    let pool = pool()?;
    let mut session = Session::new(Arc::new(model));
    let logits = pool.install(|| session.read(&[1]))?;
    let likeliest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    anyhow::ensure!(likeliest.is_finite(), "the model computes no numbers");
    let first = began.elapsed();
    say(&json!({
        "load_ms": loaded.as_secs_f64() * 1e3,
        "first_token_ms": first.as_secs_f64() * 1e3,
    })
    .to_string());
    // What it holds is looked at from outside; nothing is given back before.
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    drop(session);
    Ok(())
}

fn imported(source: &Path, target: &Path, q4: bool) -> anyhow::Result<()> {
    let quantization = if q4 {
        Quantization::Q4
    } else {
        Quantization::Q8
    };
    let began = Instant::now();
    import(
        source,
        target,
        &ImportOptions::new(quantization),
        &mut |_| std::ops::ControlFlow::Continue(()),
    )
    .with_context(|| format!("cannot import {}", source.display()))?;
    let seconds = began.elapsed().as_secs_f64();
    let peak = Memory::of(std::process::id())?.peak_mib;
    say(&json!({"seconds": seconds, "peak_mib": peak}).to_string());
    Ok(())
}
