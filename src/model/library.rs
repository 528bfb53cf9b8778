//! The engine's library as these commands use it. Where the engine's interface
//! changes, this file does, and no other of this folder.

use super::view::Facts;
use anyhow::Context as _;
use serde::Serialize;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;
use tiermesh_core::{Content, Message, Role, Task};
pub(super) use tiermesh_engine::{
    Embedder, Engine, FileEntry, Finished, ImportProgress, Output, TokenStream,
};
use tiermesh_engine::{
    EngineOptions, ImportOptions, Job, KernelChoice, KvCacheType, LoadOptions, Manifest, Model,
    ModelInfo, SamplingOptions, SamplingParams,
};

/// The name of an artifact's manifest.
pub(super) const MANIFEST: &str = "manifest.json";

/// What a manifest says.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Described {
    pub(super) name: String,
    pub(super) family: String,
    pub(super) architecture: String,
    pub(super) quantization: String,
    pub(super) tasks: Vec<String>,
    pub(super) license: String,
    pub(super) source: String,
    pub(super) context_tokens: u64,
    pub(super) digest: String,
    pub(super) files: Vec<FileEntry>,
}

impl Described {
    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |sum, file| sum.saturating_add(file.bytes))
    }
}

/// Reads and checks a manifest, not the files it names.
///
/// # Errors
/// When there is none, or it is not one of ours.
pub(super) fn inspect(directory: &Path) -> anyhow::Result<Described> {
    let manifest = tiermesh_engine::inspect(directory).with_context(|| {
        format!(
            "{} is no model: a model is a directory that `tiermesh model import` wrote",
            directory.display()
        )
    })?;
    Ok(describe(&manifest))
}

fn describe(manifest: &Manifest) -> Described {
    let task = |task: &Task| task.as_str().to_owned();
    Described {
        name: manifest.name().to_string(),
        family: manifest.family().to_owned(),
        architecture: manifest.architecture().to_owned(),
        quantization: manifest.quantization().as_str().to_owned(),
        tasks: manifest.tasks().iter().map(task).collect(),
        license: manifest.license().to_owned(),
        source: manifest.source().to_owned(),
        context_tokens: manifest.context_tokens().into(),
        digest: manifest.digest().to_owned(),
        files: manifest.files().to_vec(),
    }
}

/// How matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Quantization {
    /// 8 bits a weight and an f16 scale for each 32.
    Q8,
    /// 4 bits a weight and an f16 scale for each 32.
    Q4,
    /// 16-bit floats.
    F16,
    /// 32-bit floats.
    F32,
}

/// Writes the artifact of `source` to `target`, which must not exist. Where
/// `told` breaks, the import ends with an error and leaves nothing.
///
/// # Errors
/// What is wrong with the source, or cannot be written.
pub(super) fn import(
    source: &Path,
    target: &Path,
    quantization: Quantization,
    facts: &Facts,
    told: &mut dyn FnMut(ImportProgress<'_>) -> ControlFlow<()>,
) -> anyhow::Result<Described> {
    let options = ImportOptions {
        name: facts.name.clone(),
        license: facts.license.clone(),
        source: facts.source.clone(),
        ..ImportOptions::new(match quantization {
            Quantization::Q8 => tiermesh_engine::Quantization::Q8,
            Quantization::Q4 => tiermesh_engine::Quantization::Q4,
            Quantization::F16 => tiermesh_engine::Quantization::F16,
            Quantization::F32 => tiermesh_engine::Quantization::F32,
        })
    };
    let manifest = tiermesh_engine::import(source, target, &options, told)?;
    Ok(describe(&manifest))
}

/// Which code path computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kernel {
    /// The fastest this processor has.
    Auto,
    /// AVX-512 with VNNI.
    Avx512,
    /// AVX2.
    Avx2,
    /// Portable code.
    Portable,
    /// One number at a time.
    Scalar,
    /// A graphics adapter, in a program built with the feature wgpu.
    Wgpu,
}

/// How keys and values are held.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum KvCache {
    /// f16 beside quantised weights, f32 beside floats.
    Auto,
    /// Eight bits a number.
    Q8,
}

impl Kernel {
    fn options(self) -> anyhow::Result<LoadOptions> {
        let choice = match self {
            Self::Auto => KernelChoice::Auto,
            Self::Avx512 => KernelChoice::Avx512,
            Self::Avx2 => KernelChoice::Avx2,
            Self::Portable => KernelChoice::Portable,
            Self::Scalar => KernelChoice::Scalar,
            Self::Wgpu => KernelChoice::Wgpu,
        };
        Ok(LoadOptions::new(
            choice.resolve()?,
            tiermesh_engine::Quantization::Q8,
        ))
    }
}

/// Reads, verifies and builds a model that writes text.
///
/// # Errors
/// Names the file, and the key or tensor in it.
pub(super) fn load(directory: &Path, kernel: Kernel, kv_cache: KvCache) -> anyhow::Result<Model> {
    let options = LoadOptions {
        kv_cache: match kv_cache {
            KvCache::Auto => KvCacheType::Auto,
            KvCache::Q8 => KvCacheType::Q8,
        },
        ..kernel.options()?
    };
    Model::load(directory, options)
        .with_context(|| format!("cannot load the model in {}", directory.display()))
}

/// Reads, verifies and builds a model that embeds texts.
///
/// # Errors
/// Names the file, and the key or tensor in it.
pub(super) fn load_embedder(directory: &Path, kernel: Kernel) -> anyhow::Result<Embedder> {
    Embedder::load(directory, kernel.options()?)
        .with_context(|| format!("cannot load the model in {}", directory.display()))
}

/// An engine that serves one stream.
///
/// # Errors
/// When the model cannot compute or threads are refused.
pub(super) fn start(model: Model, threads: NonZeroUsize) -> anyhow::Result<Engine> {
    let options = EngineOptions {
        threads,
        ..EngineOptions::default()
    };
    Ok(Engine::start(vec![model], options)?)
}

/// What the model in an engine of [`start`] is.
pub(super) fn info(engine: &Engine) -> &ModelInfo {
    engine.models().next().expect("started with one model")
}

/// One answer to compute.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) prompt: String,
    /// The model's chat template around the prompt, or the prompt as it is.
    pub(super) chat: bool,
    pub(super) system: Option<String>,
    pub(super) sampling: Sampling,
    pub(super) seed: u64,
    pub(super) max_tokens: u32,
    pub(super) stop: Vec<String>,
}

/// How a token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, clap::Args)]
pub(super) struct Sampling {
    /// 0 takes the likeliest token, always.
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = super::run::between::<0, 100>)]
    pub(super) temperature: f32,
    /// Keep the likeliest tokens until their probabilities sum to this.
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = super::run::between::<0, 1>)]
    pub(super) top_p: f32,
    /// Keep this many likeliest tokens; 0 keeps all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) top_k: u32,
    /// Drop tokens less likely than this share of the likeliest.
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = super::run::between::<0, 1>)]
    pub(super) min_p: f32,
    /// Divide the logits of tokens that were there by this; 1 changes nothing
    /// [default: the model's own].
    #[arg(long, value_name = "X", value_parser = super::run::between::<0, 10>)]
    pub(super) repetition_penalty: Option<f32>,
    /// Take this from the logits of tokens the answer has.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, value_parser = super::run::within::<2>)]
    pub(super) presence_penalty: f32,
    /// Take this from the logits for each time the answer has the token.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, value_parser = super::run::within::<2>)]
    pub(super) frequency_penalty: f32,
}

/// Hands a question to the engine.
///
/// # Errors
/// Why it is not taken.
pub(super) fn submit(engine: &Engine, question: Question) -> anyhow::Result<TokenStream> {
    let asked = question.sampling;
    let defaults = engine.defaults(&info(engine).id);
    let own = defaults.and_then(|defaults| defaults.repetition_penalty);
    let sampling = SamplingParams::new(SamplingOptions {
        temperature: asked.temperature,
        top_k: asked.top_k,
        top_p: asked.top_p,
        min_p: asked.min_p,
        // What the model was published with holds where nobody says otherwise.
        repetition_penalty: asked.repetition_penalty.or(own).unwrap_or(1.0),
        presence_penalty: asked.presence_penalty,
        frequency_penalty: asked.frequency_penalty,
        logit_bias: Vec::new(),
        logprobs: None,
    })?;
    let content = if question.chat {
        let message = |role, text| Message { role, text };
        let system = question.system.map(|text| message(Role::System, text));
        let asked = message(Role::User, question.prompt);
        Content::Messages(system.into_iter().chain([asked]).collect())
    } else {
        Content::Prompt(question.prompt)
    };
    let asked = info(engine);
    let task = asked.tasks.first().copied().unwrap_or(Task::Generate);
    Ok(engine.submit(Job {
        sampling,
        seed: question.seed,
        stop: question.stop,
        ..Job::new(asked.id.clone(), task, content, question.max_tokens)
    })?)
}
