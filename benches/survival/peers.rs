//! The same faults under gateways that are not ours, by
//! `benches/peers/survival.py`.

use crate::cli::say;
use anyhow::Context as _;
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What became of so many streams through each of them; none where
/// `benches/peers/gateways` has not installed them. Blocks for minutes.
pub(crate) fn run(streams: usize, seed: u64) -> anyhow::Result<Option<Value>> {
    let Some(python) = place().map(|dir| dir.join("venv-gateways/bin/python")) else {
        return Ok(None);
    };
    if !python.exists() {
        say(&format!(
            "peers: no {} (benches/peers/gateways sets it up); none measured",
            python.display()
        ));
        return Ok(None);
    }
    say(&format!("peers: {streams} streams each"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/survival.py");
    let mut child = Command::new(python)
        .arg("-B")
        .arg(script)
        .args(["--streams", &streams.to_string()])
        .args(["--seed", &seed.to_string(), "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start benches/peers/survival.py")?;
    let lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
    let mut last = String::new();
    for line in lines {
        // The last one is the report; those before it are the table's rows.
        let before = std::mem::replace(&mut last, line?);
        if !before.is_empty() {
            say(&before);
        }
    }
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "benches/peers/survival.py: {status}");
    let report = serde_json::from_str(&last);
    Ok(Some(report.with_context(|| {
        format!("no report at the end of benches/peers/survival.py: {last}")
    })?))
}

/// The folder that `benches/peers/gateways` sets up.
fn place() -> Option<PathBuf> {
    match std::env::var_os("TIERMESH_PEERS") {
        Some(dir) => Some(PathBuf::from(dir)),
        None => Some(std::env::home_dir()?.join(".cache/tiermesh")),
    }
}
