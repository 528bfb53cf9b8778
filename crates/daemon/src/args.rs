//! The arguments every daemon takes.

use crate::announce::show;
use crate::config::{ConfigError, load, print};
use serde::Serialize;
use serde::de::DeserializeOwned;
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

/// The configuration to run with; `None` when the arguments asked to look at
/// it and no more, which is done then.
///
/// # Errors
/// When the file cannot be read or does not hold what it may.
pub fn configured<T: Serialize + DeserializeOwned>(
    args: &DaemonArgs,
    validate: impl FnOnce(&T) -> Result<(), ConfigError>,
) -> Result<Option<T>, ConfigError> {
    let config: T = load(&args.config)?;
    validate(&config)?;
    if args.print_config {
        show(&print(&config));
        return Ok(None);
    }
    if args.check_config {
        show(&format!("{}: ok", args.config.display()));
        return Ok(None);
    }
    Ok(Some(config))
}
