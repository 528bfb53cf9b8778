//! `tiermesh key`: API keys and shared secrets for gateways.

use crate::out;
use anyhow::Context as _;
use serde_json::json;
use std::io::Read as _;
use tiermesh_identity::{KeyDigest, MAX_KEY_BYTES, generate_key, new_secret};

/// Arguments of `tiermesh key`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tiermesh key new                       a key for a caller, and its digest for gateway.toml
  tiermesh key digest < key.txt          the digest of a key you have
  (umask 077; tiermesh key secret > resume.key)")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make an API key. It is printed once and kept nowhere.
    New {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print the digest of the key on stdin, for a gateway's `keys`.
    Digest,
    /// Print 32 random bytes as `resume.key` of gateways reads them.
    Secret,
}

/// Runs the command.
///
/// # Errors
/// When stdin holds no key.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::New { json } => {
            let key = generate_key();
            let digest = KeyDigest::of(&key)?;
            if json {
                out::line(&json!({"key": key, "digest": digest}).to_string());
            } else {
                out::line(&format!("key     {key}\ndigest  {digest}"));
                out::note(
                    "give the key to its holder, and put the digest into [[keys]]: the key is shown this once",
                );
            }
        }
        Command::Digest => {
            let mut text = String::new();
            let most = MAX_KEY_BYTES as u64 + 2;
            let read = std::io::stdin().lock().take(most).read_to_string(&mut text);
            read.context("cannot read a key from stdin")?;
            let key = text.trim_end_matches(['\r', '\n']);
            out::line(&KeyDigest::of(key)?.to_string());
        }
        Command::Secret => out::line(&new_secret()),
    }
    Ok(())
}
