//! A process that answers JSON lines: a peer, or this program once more.

use anyhow::Context as _;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A running process. Dropped, it ends.
pub(crate) struct Talker {
    pub(crate) child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// The line it began with.
    pub(crate) ready: Value,
}

impl Talker {
    /// Starts it and waits for its first line.
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let requests = child.stdin.take().context("stdin is piped")?;
        let answers = child.stdout.take().context("stdout is piped")?;
        let mut talker = Self {
            child,
            requests,
            answers: BufReader::new(answers),
            ready: Value::Null,
        };
        talker.ready = talker.line()?;
        Ok(talker)
    }

    /// Asks and waits for the answer's `seconds`.
    pub(crate) fn seconds(&mut self, request: &Value) -> anyhow::Result<f64> {
        self.ask(request)?["seconds"]
            .as_f64()
            .context("an answer without seconds")
    }

    /// Asks and waits for the answer. Between requests it does nothing.
    pub(crate) fn ask(&mut self, request: &Value) -> anyhow::Result<Value> {
        writeln!(self.requests, "{request}").context("cannot ask a process that was started")?;
        self.line()
    }

    fn line(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            let status = self.child.wait()?;
            anyhow::bail!("a process that was started ended with {status}");
        }
        let answer: Value =
            serde_json::from_str(&line).with_context(|| format!("not an answer: {line}"))?;
        if let Some(error) = answer.get("error") {
            anyhow::bail!("a process that was started answers {error}");
        }
        Ok(answer)
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
