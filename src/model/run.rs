//! `tiermesh model run`: one model, one answer, no mesh.

use super::computed;
use super::library::{
    self, Engine, Finished, Kernel, KvCache, Output, Question, Sampling, TokenStream,
};
use super::store::ModelsDir;
use crate::out;
use anyhow::{Context as _, bail};
use serde_json::json;
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};
use tiermesh_daemon::stop_requested;
use tokio_stream::StreamExt as _;

/// The longest prompt: no context holds more.
const MAX_PROMPT: u64 = 16 << 20;

/// Arguments of `tiermesh model run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tiermesh model run Qwen2.5-0.5B-Instruct --chat --prompt \"What is an edge node?\"
  tiermesh model run ./models/mine --prompt \"Once upon a time\" --max-tokens 64 --json
  cat letter.txt | tiermesh model run mine --chat --system \"Summarise.\" --prompt -

--json prints one object at the end and nothing else: text, token_ids (what the model wrote,
without the prompt; with the end token, which has no text, where the model wrote it),
finish_reason (stop, length or cancelled), prompt_tokens, output_tokens, prefill_tok_s,
decode_tok_s, load_ms, first_token_ms, total_ms, peak_rss_bytes, seed, model, digest, numerics_id.")]
pub(super) struct Args {
    /// A model's directory, or its name in the models directory.
    #[arg(value_name = "PATH|NAME")]
    model: String,
    /// What the model reads; `-` reads stdin, without its last line break.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// Put the model's chat template around the prompt.
    #[arg(long)]
    chat: bool,
    /// What is said to the model before the prompt.
    #[arg(
        long,
        value_name = "TEXT",
        requires = "chat",
        allow_hyphen_values = true
    )]
    system: Option<String>,
    /// The answer's length at most.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    #[command(flatten)]
    sampling: Sampling,
    /// With a token's position decides every draw.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// The answer ends before this; may be given more than once.
    #[arg(long, value_name = "S", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Threads that compute [default: the processor's].
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// The code path that computes.
    #[arg(long, value_enum, default_value = "auto")]
    kernel: Kernel,
    /// How keys and values are held.
    #[arg(long, value_name = "TYPE", value_enum, default_value = "auto")]
    kv_cache: KvCache,
    /// Print one JSON object at the end instead of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsDir,
}

/// An answer as far as it came.
#[derive(Debug, Default)]
struct Answer {
    text: String,
    token_ids: Vec<u32>,
    /// None if it was cancelled.
    finished: Option<Finished>,
    first_token: Option<Duration>,
    total: Duration,
}

/// Runs the command: text to stdout as it comes, the summary to stderr.
///
/// # Errors
/// What kept the model from loading or answering; and Ctrl-C.
pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let path = args.models.find(&args.model)?;
    let question = question(&args)?;
    let threads = match args.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    };
    let begun = Instant::now();
    let (directory, kernel, kv_cache) = (path, args.kernel, args.kv_cache);
    let starting =
        computed(move || library::start(library::load(&directory, kernel, kv_cache)?, threads));
    // One listener for all of it: a signal between two would be lost.
    let stop = stop_requested();
    tokio::pin!(stop);
    let engine = tokio::select! {
        biased;
        _ = &mut stop => bail!("cancelled"),
        engine = starting => engine?,
    };
    let load = begun.elapsed();
    let stream = library::submit(&engine, question)?;
    let mut answer = read(stream, !args.json, stop).await?;
    if let Some(finished) = &answer.finished {
        answer.token_ids.extend(finished.end_token);
    }
    if args.json {
        out::line(&record(&args, &engine, &answer, load).to_string());
    } else {
        out::line("");
        out::note(&summary(&engine, &answer));
    }
    if answer.finished.is_none() {
        bail!("cancelled");
    }
    Ok(())
}

fn question(args: &Args) -> anyhow::Result<Question> {
    let mut prompt = args.prompt.clone();
    if prompt == "-" {
        prompt.clear();
        std::io::stdin()
            .take(MAX_PROMPT + 1)
            .read_to_string(&mut prompt)
            .context("cannot read the prompt from stdin")?;
        if let Some(shorter) = prompt.strip_suffix('\n') {
            prompt = shorter.strip_suffix('\r').unwrap_or(shorter).to_owned();
        }
    }
    if prompt.len() as u64 > MAX_PROMPT {
        bail!("the prompt has more than the {MAX_PROMPT} bytes it may have");
    }
    if args.stop.iter().any(String::is_empty) {
        bail!("--stop is empty: every answer would end at once");
    }
    Ok(Question {
        prompt,
        chat: args.chat,
        system: args.system.clone(),
        sampling: args.sampling,
        seed: args.seed,
        max_tokens: args.max_tokens,
        stop: args.stop.clone(),
    })
}

/// Reads until the end or Ctrl-C; dropping the stream then stops the model at
/// its next step.
async fn read(
    mut stream: TokenStream,
    is_shown: bool,
    mut stop: Pin<&mut impl Future>,
) -> anyhow::Result<Answer> {
    let begun = Instant::now();
    let mut answer = Answer::default();
    loop {
        let output = tokio::select! {
            biased;
            _ = &mut stop => break,
            output = stream.next() => output,
        };
        match output {
            Some(Ok(Output::Tokens { items, .. })) => {
                answer.first_token.get_or_insert_with(|| begun.elapsed());
                for token in items {
                    if is_shown {
                        out::text(&token.text);
                    }
                    answer.text.push_str(&token.text);
                    answer.token_ids.extend(token.id);
                }
            }
            Some(Ok(Output::Finished(finished))) => {
                answer.first_token = finished.first_token;
                answer.finished = Some(finished);
                answer.total = finished.total;
                return Ok(answer);
            }
            Some(Err(error)) => {
                if is_shown {
                    out::line("");
                }
                return Err(error.into());
            }
            // Only encoders have results, and they are asked with `embed`.
            Some(Ok(Output::Result(_))) => {}
            None => bail!("the answer ended without saying why"),
        }
    }
    answer.total = begun.elapsed();
    Ok(answer)
}

impl Answer {
    /// Prompt tokens a second until the first token was there.
    fn prefill_tok_s(&self) -> Option<f64> {
        let prompt = self.finished?.prompt_tokens;
        rate(prompt, self.first_token?)
    }

    /// Tokens a second after the first.
    fn decode_tok_s(&self) -> Option<f64> {
        let after = (self.token_ids.len() as u64).checked_sub(1)?;
        rate(after, self.total.checked_sub(self.first_token?)?)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn rate(tokens: u64, time: Duration) -> Option<f64> {
    let seconds = time.as_secs_f64();
    (tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds)
}

fn record(args: &Args, engine: &Engine, answer: &Answer, load: Duration) -> serde_json::Value {
    let model = library::info(engine);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    json!({
        "text": answer.text,
        "token_ids": answer.token_ids,
        "finish_reason": answer.finished.map_or("cancelled", |finished| finished.reason.as_str()),
        "prompt_tokens": answer.finished.map(|finished| finished.prompt_tokens),
        "output_tokens": answer.token_ids.len(),
        "prefill_tok_s": answer.prefill_tok_s(),
        "decode_tok_s": answer.decode_tok_s(),
        "load_ms": ms(load),
        "first_token_ms": answer.first_token.map(ms),
        "total_ms": ms(answer.total),
        "peak_rss_bytes": peak_rss_bytes(),
        "seed": args.seed,
        "model": model.id.as_str(),
        "digest": model.digest.as_str(),
        "numerics_id": model.numerics_id.as_str(),
    })
}

fn summary(engine: &Engine, answer: &Answer) -> String {
    let model = library::info(engine);
    let first = answer.first_token.map_or_else(String::new, |first| {
        format!(", first token {:.1} ms", first.as_secs_f64() * 1e3)
    });
    let rates = [
        ("prefill", answer.prefill_tok_s()),
        ("decode", answer.decode_tok_s()),
    ];
    let rates = rates.map(|(what, rate)| {
        rate.map_or_else(String::new, |rate| format!(", {what} {rate:.0} tokens/s"))
    });
    format!(
        "{} {}: {} tokens{first}{}",
        model.id,
        model.quantization.as_str(),
        answer.token_ids.len(),
        rates.concat()
    )
}

/// The most memory this process ever had, where the system says.
pub(super) fn peak_rss_bytes() -> Option<u64> {
    peak(&std::fs::read_to_string(Path::new("/proc/self/status")).ok()?)
}

fn peak(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// A number from `LOW` to `HIGH`.
pub(super) fn between<const LOW: i16, const HIGH: i16>(text: &str) -> Result<f32, String> {
    let allowed = f32::from(LOW)..=f32::from(HIGH);
    match text.parse::<f32>() {
        Ok(value) if allowed.contains(&value) => Ok(value),
        _ => Err(format!("use a number from {LOW} to {HIGH}")),
    }
}

/// A number from `-MOST` to `MOST`.
pub(super) fn within<const MOST: i16>(text: &str) -> Result<f32, String> {
    let most = f32::from(MOST);
    match text.parse::<f32>() {
        Ok(value) if (-most..=most).contains(&value) => Ok(value),
        _ => Err(format!("use a number from -{MOST} to {MOST}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_bytes() {
        assert_eq!(peak("Name:\tx\nVmHWM:\t    2048 kB\n"), Some(2_097_152));
        assert_eq!(peak("Name:\tx\n"), None);
    }

    #[test]
    fn numbers_out_of_range_are_refused_with_the_range() {
        assert_eq!(between::<0, 1>("0.5"), Ok(0.5));
        for bad in ["-0.1", "1.1", "NaN", "inf", "x", ""] {
            assert!(
                between::<0, 1>(bad).unwrap_err().contains("0 to 1"),
                "{bad}"
            );
        }
        assert_eq!(within::<2>("-2"), Ok(-2.0));
        assert!(within::<2>("2.1").is_err());
    }
}
