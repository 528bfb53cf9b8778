//! How long from nothing to the first token, and how much memory does it take?
//!
//! Each start is a process of its own. Ours is this program run again: it
//! loads a q8 artifact, reads one token and has its logits; llama.cpp does the
//! same with Q8_0, its Python's own start left out. With the file in the page
//! cache, and, where we may empty it, from disk. Then what a process holds,
//! alone and beside another with the same model, and how fast a bf16
//! checkpoint is imported.

use child::ChildArguments;
use clap::Parser as _;
use cli::{Flags, say};
use figures::Figures;
use memory::{Memory, drop_page_cache};
use models::{Models, weights_bytes};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use talker::Talker;
use tempfile::TempDir;
use tiermesh_engine::Quantization;

mod child;
#[path = "../common/cli.rs"]
mod cli;
#[path = "../common/figures.rs"]
mod figures;
mod memory;
#[path = "../common/models.rs"]
mod models;
#[path = "../common/stats.rs"]
mod stats;
#[path = "../common/talker.rs"]
mod talker;

const QUESTION: &str = "How long from a q8 file in the page cache to the first token, and how much \
    memory does it take? The ratio is our time over llama.cpp's with Q8_0: less is better.";
const HEADLINE: &str = "warm_load_and_first_token_ms";
const GGUF: &str = "qwen-0.5b-q8_0.gguf";

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    child: ChildArguments,
    /// Rounds to measure.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.child.obey()? {
        return Ok(());
    }
    let models = Models::find("qwen-0.5b", "tiny-llama", arguments.flags.smoke)?;
    let rounds = if models.is_real() {
        arguments.rounds
    } else {
        2
    };
    let artifact = models.artifact(Quantization::Q8)?;
    let mut bench = Bench {
        artifact,
        models,
        figures: Figures::default(),
    };
    let bytes = weights_bytes(&bench.artifact)?;
    let mib = stats::round(bytes as f64 / f64::from(1 << 20));
    bench.figures.say_ours("weights_mib", json!(mib));
    for number in 0..rounds {
        bench.round(number % 2 == 0)?;
        say(&format!("round {} of {rounds} done", number + 1));
    }
    bench.shared()?;
    for number in 0..rounds.min(3) {
        bench.import(number == 0)?;
    }
    bench.figures.report(QUESTION, HEADLINE, arguments.flags)
}

struct Bench {
    models: Models,
    /// Ours in q8.
    artifact: PathBuf,
    figures: Figures,
}

impl Bench {
    /// Warm starts of both sides by turns, then cold ones.
    fn round(&mut self, ours_first: bool) -> anyhow::Result<()> {
        // Whatever was emptied last, the files are in the page cache now.
        drop(self.start_ours()?);
        drop(self.start_peer()?);
        for ours in [ours_first, !ours_first] {
            match ours {
                true => self.ours("warm")?,
                false => self.peer("warm")?,
            }
        }
        if !self.models.is_real() {
            return Ok(());
        }
        for ours in [ours_first, !ours_first] {
            if !drop_page_cache() {
                self.figures.say_ours("cold", json!("not allowed here"));
                break;
            }
            match ours {
                true => self.ours("cold")?,
                false => self.peer("cold")?,
            }
        }
        Ok(())
    }

    /// One start of ours, and what the process then holds.
    fn ours(&mut self, state: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        let child = self.start_ours()?;
        let whole = began.elapsed().as_secs_f64() * 1e3;
        let figures = &mut self.figures;
        figures.ours(&format!("{state}_process_to_first_token_ms"), whole);
        for (name, key) in [
            ("load", "load_ms"),
            ("load_and_first_token", "first_token_ms"),
        ] {
            let value = child.ready[key].as_f64().unwrap_or(f64::NAN);
            figures.ours(&format!("{state}_{name}_ms"), value);
        }
        if state == "warm" {
            let memory = Memory::of(child.child.id())?;
            for (name, value) in named(&memory) {
                figures.ours(name, value);
            }
        }
        Ok(())
    }

    fn peer(&mut self, state: &str) -> anyhow::Result<()> {
        let Some((child, first)) = self.start_peer()? else {
            return Ok(());
        };
        let load = child.ready["load_seconds"].as_f64().unwrap_or(f64::NAN);
        let figures = &mut self.figures;
        figures.peer(&format!("{state}_load_ms"), load * 1e3);
        let both = (load + first) * 1e3;
        figures.peer(&format!("{state}_load_and_first_token_ms"), both);
        figures.say_peer("name", child.ready["peer"].clone());
        figures.say_peer(
            "resident_is_with",
            json!("the Python interpreter and numpy"),
        );
        if state == "warm" {
            let memory = Memory::of(child.child.id())?;
            for (name, value) in named(&memory) {
                figures.peer(name, value);
            }
        }
        Ok(())
    }

    fn start_ours(&self) -> anyhow::Result<Talker> {
        let mut command = Command::new(std::env::current_exe()?);
        Talker::start(command.arg("--first-token").arg(&self.artifact))
    }

    /// The peer, and the seconds its first token took.
    fn start_peer(&self) -> anyhow::Result<Option<(Talker, f64)>> {
        let Some(mut peer) = self.models.peer("llama_peer.py", GGUF, &[])? else {
            return Ok(None);
        };
        let seconds = peer.seconds(&json!({"op": "prefill", "ids": [1]}))?;
        Ok(Some((peer, seconds)))
    }

    /// Two processes with the same model.
    fn shared(&mut self) -> anyhow::Result<()> {
        let pair = [self.start_ours()?, self.start_ours()?];
        for child in &pair {
            let memory = Memory::of(child.child.id())?;
            self.figures
                .ours("proportional_of_two_mib", memory.proportional_mib);
        }
        drop(pair);
        if let (Some((one, _)), Some((two, _))) = (self.start_peer()?, self.start_peer()?) {
            for child in [&one, &two] {
                let memory = Memory::of(child.child.id())?;
                self.figures
                    .peer("proportional_of_two_mib", memory.proportional_mib);
            }
        }
        Ok(())
    }

    /// An import of the checkpoint in each quantization.
    fn import(&mut self, first: bool) -> anyhow::Result<()> {
        let bytes = weights_bytes(&self.models.source)? as f64;
        if first {
            let mb = stats::round(bytes / 1e6);
            self.figures.say_ours("checkpoint_mb", json!(mb));
            // Into the page cache, as a checkpoint just downloaded is.
            let path = self.models.source.join("model.safetensors");
            std::io::copy(&mut std::fs::File::open(path)?, &mut std::io::sink())?;
        }
        for (name, flag) in [("q8", None), ("q4", Some("--q4"))] {
            // On the disk where artifacts live.
            let folder = TempDir::new_in(&self.models.artifacts)?;
            let child = self.importer(&folder.path().join("artifact"), flag)?;
            let figure = |key: &str| child.ready[key].as_f64().unwrap_or(f64::NAN);
            let speed = bytes / 1e6 / figure("seconds");
            self.figures.ours(&format!("import_{name}_mb_s"), speed);
            self.figures
                .ours(&format!("import_{name}_peak_mib"), figure("peak_mib"));
        }
        Ok(())
    }

    fn importer(&self, target: &Path, flag: Option<&str>) -> anyhow::Result<Talker> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--import").arg(&self.models.source);
        command.arg("--to").arg(target).args(flag);
        Talker::start(&mut command)
    }
}

fn named(memory: &Memory) -> [(&'static str, f64); 4] {
    [
        ("resident_mib", memory.resident_mib),
        ("resident_anonymous_mib", memory.anonymous_mib),
        ("resident_file_mib", memory.file_mib),
        ("resident_peak_mib", memory.peak_mib),
    ]
}
