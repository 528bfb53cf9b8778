//! How many tokens a second does one node write for many, beside llama.cpp's
//! server?
//!
//! 1, 4, 16 and 64 clients, each with one request at a time, on Qwen2.5-0.5B's
//! shape in q8 and two threads. Lengths are those of real conversations, scaled
//! down. llama.cpp's server gets the same tokens, and as many slots as there
//! are clients. Ours is the engine itself; the server adds HTTP, which costs
//! microseconds a token on this scale.

use clap::Parser as _;
use cli::{Flags, say};
use figures::Figures;
use lengths::{Length, lengths};
use models::{Models, THREADS};
use others::Watch;
use serde_json::json;
use server::Server;
use stats::quantile;
use std::num::NonZeroUsize;
use tiermesh_engine::{
    Engine, EngineOptions, KernelChoice, LoadOptions, Model, PrefixSharing, Quantization,
};

#[path = "../common/cli.rs"]
mod cli;
#[path = "../common/figures.rs"]
mod figures;
mod lengths;
#[path = "../common/models.rs"]
#[expect(dead_code, reason = "the peer here is a server, not a script")]
mod models;
#[path = "../common/others.rs"]
mod others;
mod ours;
#[path = "../common/process.rs"]
#[expect(dead_code, reason = "only the machine's time is asked here")]
mod process;
mod server;
#[path = "../common/stats.rs"]
mod stats;
#[path = "../common/talker.rs"]
#[expect(dead_code, reason = "the peer here is a server, not a script")]
mod talker;

const QUESTION: &str = "How many tokens a second are written for 1, 4, 16 and 64 clients with \
    Qwen2.5-0.5B's shape in q8 on two threads? The ratio is that of 16 clients over llama.cpp's \
    server.";
const LEVELS: [usize; 4] = [1, 4, 16, 64];

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Rounds to measure.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Requests a client makes at each level.
    #[arg(long, default_value_t = 2)]
    each: usize,
}

/// What one level's requests took.
#[derive(Debug, Default)]
pub(crate) struct Level {
    /// Seconds of the whole level.
    wall_s: f64,
    tokens: usize,
    first_ms: Vec<f64>,
    between_ms: Vec<f64>,
}

/// One request: token ids, and how many to write.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    text: String,
    ids: Vec<u32>,
    tokens: u32,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let smoke = arguments.flags.smoke;
    let models = Models::find("qwen-0.5b", "tiny-llama", smoke)?;
    let levels: &[usize] = if models.is_real() { &LEVELS } else { &[1, 4] };
    let rounds = if models.is_real() {
        arguments.rounds
    } else {
        1
    };
    let directory = match models.is_real() {
        true => models.artifact(Quantization::Q8)?,
        false => models.source.clone(),
    };
    let options = LoadOptions::new(KernelChoice::Auto.resolve()?, Quantization::Q8);
    let model = Model::load(&directory, options)?;
    let requests: Vec<Request> = lengths(models.is_real())?
        .into_iter()
        .enumerate()
        .map(|(index, length)| request(&model, index, length))
        .collect::<anyhow::Result<_>>()?;
    let engine = Engine::start(
        vec![model],
        EngineOptions {
            streams: NonZeroUsize::new(64).unwrap_or(NonZeroUsize::MIN),
            threads: NonZeroUsize::new(THREADS).unwrap_or(NonZeroUsize::MIN),
            kv_bytes: 1 << 30,
            // The server is told to forget prompts too.
            prefix_sharing: PrefixSharing::Off,
            ..EngineOptions::default()
        },
    )?;
    let mut figures = Figures::default();
    figures.say_ours("threads", json!(THREADS));
    if models.is_real() {
        figures.say_peer(
            "server",
            json!("llama-server, llama.cpp of llama-cpp-python 0.3.36"),
        );
    }
    for number in 0..rounds {
        for clients in levels {
            let count = (clients * arguments.each).max(4).min(requests.len());
            let server = match models.is_real() {
                true => Server::start(&models, *clients, THREADS)?,
                false => None,
            };
            let watch = Watch::start(server.iter().map(Server::pid))?;
            let turn = |ours: bool| -> anyhow::Result<Option<Level>> {
                match (ours, &server) {
                    (true, _) => ours::run(&engine, &requests[..count], *clients).map(Some),
                    (false, Some(server)) => server.run(&requests[..count], *clients).map(Some),
                    (false, None) => Ok(None),
                }
            };
            let ours_first = number % 2 == 0;
            let (first, second) = (turn(ours_first)?, turn(!ours_first)?);
            let (ours, peer) = if ours_first {
                (first, second)
            } else {
                (second, first)
            };
            for (level, is_ours) in [(ours, true), (peer, false)] {
                let Some(level) = level else { continue };
                tell(&mut figures, *clients, &level, is_ours);
            }
            let others = watch.others_percent()?;
            figures.ours("others_percent_of_a_core", others);
            say(&format!(
                "round {} of {rounds}, {clients} clients: others took {others:.0} % of a core",
                number + 1
            ));
        }
    }
    let load = engine.load();
    let error = load
        .models
        .first()
        .map_or(0.0, |state| state.calibration_error);
    figures.ours("first_token_prediction_error", f64::from(error));
    let headline = if models.is_real() {
        "clients16_tokens_s"
    } else {
        "clients4_tokens_s"
    };
    figures.report(QUESTION, headline, arguments.flags)
}

fn tell(figures: &mut Figures, clients: usize, level: &Level, is_ours: bool) {
    let mut add = |name: &str, value: f64| {
        let name = format!("clients{clients}_{name}");
        match is_ours {
            true => figures.ours(&name, value),
            false => figures.peer(&name, value),
        }
    };
    add("tokens_s", level.tokens as f64 / level.wall_s);
    for (name, samples) in [
        ("first_token", &level.first_ms),
        ("between_tokens", &level.between_ms),
    ] {
        if !samples.is_empty() {
            add(&format!("{name}_ms_p50"), quantile(samples, 0.5));
            add(&format!("{name}_ms_p99"), quantile(samples, 0.99));
        }
    }
}

/// A prompt of about so many tokens that no other begins like.
fn request(model: &Model, index: usize, length: Length) -> anyhow::Result<Request> {
    let words = [
        "stadium", "lamp", "river", "copper", "seven", "market", "cloud", "tram",
    ];
    let mut text = format!("{index} ");
    let mut ids = Vec::new();
    let mut word = index;
    while ids.len() < length.prompt {
        for _ in 0..(length.prompt - ids.len()).div_ceil(3).max(1) {
            text.push_str(words[word % words.len()]);
            text.push(' ');
            word = word.wrapping_mul(31).wrapping_add(7);
        }
        ids = model.encode_trusted(&text)?;
    }
    Ok(Request {
        text,
        ids,
        tokens: length.answer,
    })
}
