//! One daemon as a child process.

use anyhow::{Context as _, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tiermesh_daemon::Announcement;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// How long a daemon may take to load its model and listen.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A running daemon. It is killed when this value is dropped.
pub struct Daemon {
    /// Its node id.
    pub name: String,
    /// Where it listens.
    pub announcement: Announcement,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `exe SUBCOMMAND ARGS…` and waits for its announcement. Its log
    /// goes to `NAME.log` in `dir`. `environment` is beside our own.
    ///
    /// # Errors
    /// When it cannot be started or ends before it is ready; with the end of
    /// its log.
    pub async fn start(
        exe: &Path,
        dir: &Path,
        name: &str,
        arguments: &[String],
        environment: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let stderr =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(exe);
        command
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            // Ctrl-C at the terminal is for whoever started us: it stops us in
            // order.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {} for `{name}`", exe.display()))?;
        let stdout = child.stdout.take().context("the child has a stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let first = tokio::time::timeout(READY_WITHIN, lines.next_line()).await;
        let announcement = match first {
            Ok(Ok(Some(line))) => serde_json::from_str(&line)
                .with_context(|| format!("`{name}` announced `{line}`"))?,
            _ => bail!("`{name}` did not start:\n{}", tail(&log)),
        };
        Ok(Self {
            name: name.to_owned(),
            announcement,
            child,
            log,
        })
    }

    /// Where clients reach it.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.announcement.endpoint
    }

    /// Its process.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.announcement.pid
    }

    /// `kill -9`: it says nothing to anybody any more.
    ///
    /// # Errors
    /// When the process cannot be signalled or waited for.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.start_kill()?;
        self.child.wait().await?;
        Ok(())
    }

    /// Sends a signal, for example `libc::SIGSTOP`.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: i32) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id().context("the process has ended")?)?;
        #[expect(unsafe_code, reason = "no safe signal call without another dependency")]
        // SAFETY: kill has no memory effects; the child is ours and not yet
        // waited for, so its id is not another process's.
        let sent = unsafe { libc::kill(pid, signal) };
        anyhow::ensure!(sent == 0, "cannot signal `{}`", self.name);
        Ok(())
    }

    /// Asks it to drain and waits for its end; then its exit code.
    ///
    /// # Errors
    /// When it does not end within `within`.
    pub async fn stop(mut self, within: Duration) -> anyhow::Result<i32> {
        self.signal(libc::SIGTERM)?;
        let status = tokio::time::timeout(within, self.child.wait())
            .await
            .with_context(|| format!("`{}` does not end:\n{}", self.name, tail(&self.log)))??;
        Ok(status.code().unwrap_or(-1))
    }

    /// Whether it has ended by itself.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
