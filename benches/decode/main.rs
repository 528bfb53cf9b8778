//! How fast does one stream read its prompt and write its answer, beside
//! llama.cpp?
//!
//! Qwen2.5-0.5B's shape with random weights, two threads, batch 1: q8 against
//! Q8_0 and q4 against Q4_0. Both sides get the same prompt, choose the
//! likeliest token, and take turns within a round; who begins changes from
//! round to round. How fast memory can be read is measured in the same rounds,
//! because decoding reads every weight once a token. Our prompts are read in
//! chunks of 128 tokens, as the engine does; llama.cpp gets them whole.

use clap::Parser as _;
use cli::{Flags, say};
use figures::Figures;
use models::{Models, weights_bytes};
use others::Watch;
use serde_json::json;
use stream::{Ours, memory_gb_s};
use talker::Talker;
use tiermesh_engine::{KernelChoice, Quantization};

#[path = "../common/cli.rs"]
mod cli;
#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/models.rs"]
mod models;
#[path = "../common/others.rs"]
mod others;
#[path = "../common/process.rs"]
#[expect(dead_code, reason = "only the machine's time is asked here")]
mod process;
#[path = "../common/stats.rs"]
mod stats;
mod stream;
#[path = "../common/talker.rs"]
mod talker;

const QUESTION: &str = "How fast is one stream of a 0.5B decoder on two threads? \
    The ratio is q8 tokens a second after 128 tokens of context over llama.cpp's Q8_0.";

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Rounds to measure.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Of these, how many also decode after the long context, which takes most
    /// of a round to read.
    #[arg(long, default_value_t = 3)]
    long_rounds: usize,
}

/// How much to measure.
struct Effort {
    rounds: usize,
    /// Rounds in which the long context is measured.
    long_rounds: usize,
    /// Rounds in which the other kernel paths are measured too.
    path_rounds: usize,
    /// Tokens of context before decoding: short, the headline's, and long.
    contexts: [usize; 2],
    /// Tokens written after them.
    tokens: usize,
    prefills: [usize; 2],
    /// Bytes that are read to see how fast memory is.
    buffer: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let models = Models::find("qwen-0.5b", "tiny-llama", arguments.flags.smoke)?;
    let effort = if models.is_real() {
        Effort {
            rounds: arguments.rounds,
            long_rounds: arguments.long_rounds,
            path_rounds: arguments.rounds.min(3),
            contexts: [128, 4096],
            tokens: 32,
            prefills: [128, 512],
            buffer: 1 << 30,
        }
    } else {
        Effort {
            rounds: 2,
            long_rounds: 1,
            path_rounds: 1,
            contexts: [128, 256],
            tokens: 4,
            prefills: [128, 512],
            buffer: 8 << 20,
        }
    };
    models::pool()?.install(|| run(&models, &effort, arguments.flags))
}

fn run(models: &Models, effort: &Effort, flags: Flags) -> anyhow::Result<()> {
    let mut figures = Figures::default();
    let kernel = KernelChoice::Auto.resolve()?;
    figures.say_ours("kernel", json!(kernel.as_str()));
    let mut pairs = [
        Pair::start(models, effort, (Quantization::Q8, "qwen-0.5b-q8_0.gguf"))?,
        Pair::start(models, effort, (Quantization::Q4, "qwen-0.5b-q4_0.gguf"))?,
    ];
    for pair in &mut pairs {
        pair.describe(&mut figures);
        pair.warm(effort)?;
    }
    let paths = Paths::load(models)?;
    let buffer = vec![1_u64; effort.buffer / size_of::<u64>()];
    let peers = pairs.iter().filter_map(|pair| pair.peer.as_ref());
    let peers: Vec<u32> = peers.map(|peer| peer.child.id()).collect();
    for number in 0..effort.rounds {
        let watch = Watch::start(peers.iter().copied())?;
        let mut round = Round {
            figures: &mut figures,
            effort,
            number,
            memory: memory_gb_s(&buffer),
        };
        round.figures.ours("memory_gb_s", round.memory);
        for pair in &mut pairs {
            round.pair(pair)?;
        }
        let others = watch.others_percent()?;
        figures.ours("others_percent_of_a_core", others);
        if number < effort.path_rounds {
            paths.measure(effort, &mut figures)?;
        }
    }
    let headline = format!("q8_decode_{}_tok_s", effort.contexts[0]);
    figures.report(QUESTION, &headline, flags)
}

/// One quantization on both sides.
struct Pair {
    name: &'static str,
    ours: Ours,
    bytes: u64,
    peer: Option<Talker>,
}

impl Pair {
    fn start(
        models: &Models,
        effort: &Effort,
        (quantization, gguf): (Quantization, &str),
    ) -> anyhow::Result<Self> {
        let artifact = models.artifact(quantization)?;
        let longest = effort.contexts.iter().max().copied().unwrap_or(0);
        let context = (longest + 256).to_string();
        Ok(Self {
            name: quantization.as_str(),
            ours: Ours::load(&artifact, KernelChoice::Auto.resolve()?)?,
            bytes: weights_bytes(&artifact)?,
            peer: models.peer("llama_peer.py", gguf, &["--context", &context])?,
        })
    }

    fn describe(&self, figures: &mut Figures) {
        let bytes = format!("{}_weights_mb", self.name);
        figures.say_ours(&bytes, json!(self.bytes as f64 / 1e6));
        if let Some(peer) = &self.peer {
            let theirs = peer.ready["bytes"].as_f64().unwrap_or(f64::NAN);
            figures.say_peer(&bytes, json!(theirs / 1e6));
            figures.say_peer("name", peer.ready["peer"].clone());
            figures.say_peer("system", peer.ready["system"].clone());
        }
    }

    /// Both sides once, untimed.
    fn warm(&mut self, effort: &Effort) -> anyhow::Result<()> {
        let prompt = self.ours.prompt(effort.prefills[0]);
        self.ours.decode(&prompt, effort.tokens)?;
        if let Some(peer) = &mut self.peer {
            peer.ask(&json!({"op": "decode", "ids": prompt, "tokens": effort.tokens}))?;
        }
        Ok(())
    }

    /// Tokens a second that a side reads, or after the prompt writes.
    fn speed(&mut self, side: Side, prompt: &[u32], written: usize) -> anyhow::Result<Option<f64>> {
        let seconds = match (side, &mut self.peer) {
            (Side::Ours, _) if written == 0 => self.ours.prefill(prompt)?,
            (Side::Ours, _) => self.ours.decode(prompt, written)?,
            (Side::Peer, None) => return Ok(None),
            (Side::Peer, Some(peer)) if written == 0 => {
                peer.seconds(&json!({"op": "prefill", "ids": prompt}))?
            }
            (Side::Peer, Some(peer)) => {
                peer.seconds(&json!({"op": "decode", "ids": prompt, "tokens": written}))?
            }
        };
        let tokens = if written == 0 { prompt.len() } else { written };
        Ok(Some(tokens as f64 / seconds))
    }
}

#[derive(Clone, Copy)]
enum Side {
    Ours,
    Peer,
}

/// Both sides by turns.
struct Round<'a> {
    figures: &'a mut Figures,
    effort: &'a Effort,
    number: usize,
    memory: f64,
}

impl Round<'_> {
    fn pair(&mut self, pair: &mut Pair) -> anyhow::Result<()> {
        let [short, long] = self.effort.contexts;
        let name = format!("{}_decode_{short}", pair.name);
        let speeds = self.turns(pair, &name, short, self.effort.tokens)?;
        // Of a long context a token reads keys and values too, so only the
        // short one says how fast the weights come.
        self.weights(pair, &name, speeds);
        if self.number < self.effort.long_rounds {
            let name = format!("{}_decode_{long}", pair.name);
            self.turns(pair, &name, long, self.effort.tokens)?;
        }
        for tokens in self.effort.prefills {
            let name = format!("{}_prefill_{tokens}", pair.name);
            self.turns(pair, &name, tokens, 0)?;
        }
        Ok(())
    }

    /// One figure of both sides.
    fn turns(
        &mut self,
        pair: &mut Pair,
        name: &str,
        read: usize,
        written: usize,
    ) -> anyhow::Result<(f64, Option<f64>)> {
        let prompt = pair.ours.prompt(read);
        let (mut ours, mut peer) = (f64::NAN, None);
        let mut sides = [Side::Ours, Side::Peer];
        if self.number % 2 == 1 {
            sides.reverse();
        }
        for side in sides {
            let speed = pair.speed(side, &prompt, written)?;
            match (side, speed) {
                (Side::Ours, Some(speed)) => ours = speed,
                (_, speed) => peer = speed,
            }
        }
        let name = format!("{name}_tok_s");
        say(&format!(
            "round {}: {name} {ours:.1}, peer {:.1}",
            self.number + 1,
            peer.unwrap_or(f64::NAN)
        ));
        self.figures.ours(&name, ours);
        if let Some(peer) = peer {
            self.figures.peer(&name, peer);
        }
        Ok((ours, peer))
    }

    /// What decoding reads of its weights, against what memory can give.
    fn weights(&mut self, pair: &Pair, name: &str, (ours, peer): (f64, Option<f64>)) {
        let names = (format!("{name}_gb_s"), format!("{name}_memory_percent"));
        let rate = ours * pair.bytes as f64 / 1e9;
        self.figures.ours(&names.0, rate);
        self.figures.ours(&names.1, rate / self.memory * 100.0);
        let bytes = pair.peer.as_ref().and_then(|p| p.ready["bytes"].as_f64());
        if let (Some(peer), Some(bytes)) = (peer, bytes) {
            let rate = peer * bytes / 1e9;
            self.figures.peer(&names.0, rate);
            self.figures.peer(&names.1, rate / self.memory * 100.0);
        }
    }
}

/// Our code paths, each forced.
struct Paths(Vec<(String, Ours)>);

impl Paths {
    fn load(models: &Models) -> anyhow::Result<Self> {
        let mut paths = Vec::new();
        for quantization in [Quantization::Q8, Quantization::Q4] {
            let artifact = models.artifact(quantization)?;
            for choice in KernelChoice::ALL {
                // `auto` is what the rounds measure; a path this processor
                // lacks is left out.
                let (true, Ok(kernel)) = (choice != KernelChoice::Auto, choice.resolve()) else {
                    continue;
                };
                let name = format!("{}_{choice}", quantization.as_str());
                paths.push((name, Ours::load(&artifact, kernel)?));
            }
        }
        Ok(Self(paths))
    }

    fn measure(&self, effort: &Effort, figures: &mut Figures) -> anyhow::Result<()> {
        for (path, ours) in &self.0 {
            // Scalar is there to be compared with: sixteen tokens of it are
            // enough to wait for.
            let scalar = path.ends_with("scalar");
            let read = if scalar { 16 } else { effort.prefills[0] };
            let seconds = ours.prefill(&ours.prompt(read))?;
            figures.ours(
                &format!("{path}_prefill_{read}_tok_s"),
                read as f64 / seconds,
            );
            if !scalar {
                let context = effort.contexts[0];
                let seconds = ours.decode(&ours.prompt(context), effort.tokens)?;
                let speed = effort.tokens as f64 / seconds;
                figures.ours(&format!("{path}_decode_{context}_tok_s"), speed);
            }
        }
        Ok(())
    }
}
