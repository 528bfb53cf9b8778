//! How many sentences a second are embedded, beside onnxruntime?
//!
//! all-MiniLM-L6-v2 on two threads, one sentence at a time and 32 together, of
//! whatever lengths they have: f32 against onnxruntime's f32, q8 against its
//! int8, f16 alone. Our times include making text into tokens, the peer's do
//! not: it gets the tokens. How long that takes is measured beside. Outputs
//! are compared with the peer's in f32.

use anyhow::Context as _;
use clap::Parser as _;
use cli::{Flags, say};
use figures::Figures;
use models::{Models, weights_bytes};
use others::Watch;
use serde_json::json;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;
use talker::Talker;
use texts::{Texts, least_cosine};
use tiermesh_engine::{Embedder, KernelChoice, LoadOptions, Quantization};

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
#[path = "../common/talker.rs"]
mod talker;
mod texts;

const QUESTION: &str = "How many sentences a second does all-MiniLM-L6-v2 embed on two threads? \
    The ratio is f32, one sentence at a time, over onnxruntime's; our time includes tokenization.";
const BATCHES: [usize; 2] = [1, 32];

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Rounds to measure.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let models = Models::find("minilm", "families/bert", arguments.flags.smoke)?;
    let (rounds, texts) = match models.is_real() {
        true => (arguments.rounds, 256),
        false => (2, 32),
    };
    let texts = Texts::read(&models.source, texts)?;
    models::pool()?.install(|| run(&models, rounds, &texts, arguments.flags))
}

fn run(models: &Models, rounds: usize, texts: &Texts, flags: Flags) -> anyhow::Result<()> {
    let mut figures = Figures::default();
    let mut sides = sides(models)?;
    describe(&mut figures, texts, &sides)?;
    compare(&mut figures, texts, &mut sides)?;
    let peers = sides.iter().filter_map(|side| side.peer.as_ref());
    let peers: Vec<u32> = peers.map(|peer| peer.child.id()).collect();
    for number in 0..rounds {
        let watch = Watch::start(peers.iter().copied())?;
        let tokenize_us = texts.tokenize_us()?;
        figures.ours("tokenize_us_per_sentence", tokenize_us);
        for side in &mut sides {
            for batch in BATCHES {
                let name = format!("{}_batch{batch}_sentences_s", side.name);
                let ours_first = number % 2 == 0;
                let (ours, peer) = side.turns(texts, batch, ours_first)?;
                let count = texts.texts.len() as f64;
                figures.ours(&name, count / ours);
                if let Some(peer) = peer {
                    figures.peer(&name, count / peer);
                }
                let share = tokenize_us * count / 1e6 / ours;
                let name = format!("{}_batch{batch}_tokenize_percent", side.name);
                figures.ours(&name, share * 100.0);
            }
        }
        let others = watch.others_percent()?;
        figures.ours("others_percent_of_a_core", others);
        say(&format!(
            "round {} of {rounds}: others took {others:.0} % of a core",
            number + 1
        ));
    }
    figures.report(QUESTION, "f32_batch1_sentences_s", flags)
}

/// A precision of ours, and what it is measured against.
struct Side {
    name: &'static str,
    ours: Embedder,
    /// Bytes of its weights in the file.
    bytes: u64,
    peer: Option<Talker>,
}

fn sides(models: &Models) -> anyhow::Result<[Side; 3]> {
    let side = |quantization: Quantization, onnx: Option<&str>| {
        let packed;
        let directory: &Path = match quantization {
            // The checkpoint as it is: f32 needs no artifact.
            Quantization::F32 => &models.source,
            _ => {
                packed = models.artifact(quantization)?;
                &packed
            }
        };
        let options = LoadOptions::new(KernelChoice::Auto.resolve()?, quantization);
        let ours = Embedder::load(directory, options);
        anyhow::Ok(Side {
            name: quantization.as_str(),
            ours: ours.with_context(|| format!("cannot load {}", directory.display()))?,
            bytes: weights_bytes(directory)?,
            peer: match onnx {
                Some(onnx) => models.peer("onnx_peer.py", onnx, &[])?,
                None => None,
            },
        })
    };
    Ok([
        side(Quantization::F32, Some("minilm.onnx"))?,
        side(Quantization::Q8, Some("minilm-int8.onnx"))?,
        side(Quantization::F16, None)?,
    ])
}

fn describe(figures: &mut Figures, texts: &Texts, sides: &[Side]) -> anyhow::Result<()> {
    figures.say_ours("kernel", json!(KernelChoice::Auto.resolve()?.as_str()));
    figures.say_ours("texts", json!(texts.from));
    figures.say_ours("texts_count", json!(texts.texts.len()));
    figures.say_ours("tokens_per_text", json!(stats::round(texts.mean_tokens())));
    for side in sides {
        let mb = stats::round(side.bytes as f64 / 1e6);
        figures.say_ours(&format!("{}_weights_mb", side.name), json!(mb));
    }
    if let Some(peer) = sides.iter().find_map(|side| side.peer.as_ref()) {
        figures.say_peer("name", peer.ready["peer"].clone());
    }
    Ok(())
}

/// The least cosine between each side's embeddings and the peer's in f32, or
/// without a peer ours in f32. Warms all sides, too.
fn compare(figures: &mut Figures, texts: &Texts, sides: &mut [Side]) -> anyhow::Result<()> {
    let mut reference = None;
    for side in sides {
        let ours = side.ours(texts, BATCHES[1])?;
        let theirs = side.theirs(texts, BATCHES[1])?;
        let truth = match &mut reference {
            Some(truth) => &*truth,
            None => &*reference.insert(theirs.clone().unwrap_or_else(|| ours.clone())),
        };
        let name = format!("{}_least_cosine", side.name);
        let cosine = |embeddings: &[Vec<f32>]| -> anyhow::Result<_> {
            let least = least_cosine(embeddings, truth)?;
            Ok(json!((least * 1e7).round() / 1e7))
        };
        let value = cosine(&ours)?;
        say(&format!("{name}: {value}"));
        figures.say_ours(&name, value);
        if let Some(theirs) = theirs {
            figures.say_peer(&name, cosine(&theirs)?);
        }
    }
    Ok(())
}

impl Side {
    /// Seconds for all texts, ours and the peer's.
    fn turns(
        &mut self,
        texts: &Texts,
        batch: usize,
        ours_first: bool,
    ) -> anyhow::Result<(f64, Option<f64>)> {
        if ours_first {
            let ours = self.ours_seconds(texts, batch)?;
            return Ok((ours, self.peer_seconds(texts, batch)?));
        }
        let peer = self.peer_seconds(texts, batch)?;
        Ok((self.ours_seconds(texts, batch)?, peer))
    }

    fn ours(&self, texts: &Texts, batch: usize) -> anyhow::Result<Vec<Vec<f32>>> {
        let mut all = Vec::with_capacity(texts.texts.len());
        for texts in texts.texts.chunks(batch) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            all.extend(self.ours.embed(&texts)?);
        }
        Ok(all)
    }

    fn ours_seconds(&self, texts: &Texts, batch: usize) -> anyhow::Result<f64> {
        let began = Instant::now();
        black_box(self.ours(texts, batch)?);
        Ok(began.elapsed().as_secs_f64())
    }

    fn theirs(&mut self, texts: &Texts, batch: usize) -> anyhow::Result<Option<Vec<Vec<f32>>>> {
        let Some(peer) = &mut self.peer else {
            return Ok(None);
        };
        let mut all = Vec::with_capacity(texts.ids.len());
        for ids in texts.ids.chunks(batch) {
            let mut answer = peer.ask(&json!({"op": "embed", "ids": ids, "return": true}))?;
            let each: Vec<Vec<f32>> = serde_json::from_value(answer["embeddings"].take())?;
            all.extend(each);
        }
        Ok(Some(all))
    }

    fn peer_seconds(&mut self, texts: &Texts, batch: usize) -> anyhow::Result<Option<f64>> {
        let Some(peer) = &mut self.peer else {
            return Ok(None);
        };
        let mut total = 0.0;
        for ids in texts.ids.chunks(batch) {
            total += peer.seconds(&json!({"op": "embed", "ids": ids}))?;
        }
        Ok(Some(total))
    }
}
