//! The arguments every daemon takes.

use std::path::PathBuf;

/// The arguments every daemon takes.
#[derive(Debug, Clone, clap::Args)]
pub struct DaemonArgs {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "TIERMESH_CONFIG")]
    pub config: PathBuf,
    /// Check the configuration and exit.
    #[arg(long)]
    pub check_config: bool,
    /// Print the configuration with every default filled in, and exit.
    #[arg(long)]
    pub print_config: bool,
    /// What to log, in the syntax of `RUST_LOG`.
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "info",
        env = "TIERMESH_LOG"
    )]
    pub log: String,
}

/// What a daemon was started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DaemonMode {
    /// To serve.
    Run,
    /// To look at its configuration.
    CheckConfig,
    /// To show its configuration.
    PrintConfig,
}

impl DaemonArgs {
    /// What the daemon was started for.
    #[must_use]
    pub const fn mode(&self) -> DaemonMode {
        match (self.print_config, self.check_config) {
            (true, _) => DaemonMode::PrintConfig,
            (false, true) => DaemonMode::CheckConfig,
            (false, false) => DaemonMode::Run,
        }
    }
}
