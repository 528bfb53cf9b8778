//! `tiermesh model`: models on this machine, without a mesh.

mod embed;
mod import;
mod inspect;
mod library;
mod list;
mod progress;
mod remove;
mod run;
mod source;
mod staging;
mod store;
mod verify;
mod view;

use anyhow::Context as _;

/// Arguments of `tiermesh model`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tiermesh model import hf:Qwen/Qwen2.5-0.5B-Instruct
  tiermesh model import ./checkpoint --quantize q4 --out models/mine
  tiermesh model list
  tiermesh model run Qwen2.5-0.5B-Instruct --chat --prompt \"What is an edge node?\"
  tiermesh model verify Qwen2.5-0.5B-Instruct")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Turn a Hugging Face directory, a hub repository or a GGUF file into a model.
    Import(import::Args),
    /// List the models in the models directory.
    List(list::Args),
    /// Say what a model is: family, quantization, licence, digest, files.
    Inspect(inspect::Args),
    /// Hash every file of a model and compare with its manifest.
    Verify(verify::Args),
    /// Delete a model.
    Remove(remove::Args),
    /// Run a model on this machine, without a mesh, and stream its answer.
    Run(Box<run::Args>),
    /// Turn texts into vectors.
    Embed(embed::Args),
}

/// Runs the command.
///
/// # Errors
/// What the sub-command could not do, and why.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Import(args) => Box::pin(import::run(args)).await,
        Command::List(args) => list::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Remove(args) => remove::run(&args),
        Command::Run(args) => Box::pin(run::run(*args)).await,
        Command::Embed(args) => embed::run(args).await,
    }
}

/// Work that computes, on a thread of its own: a signal is heard meanwhile, and
/// ending the process does not wait for it.
async fn computed<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("model".to_owned())
        .spawn(move || {
            // Nobody listens any more after Ctrl-C.
            let _ = send.send(work());
        })
        .context("cannot start a thread")?;
    receive.await.context("the work ended in a panic")?
}
