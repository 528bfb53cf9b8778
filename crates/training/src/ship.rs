//! The int8 artifact, written and run by the engine that the mesh runs.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result};
use futures::StreamExt;
use tiermesh_core::{Content, ModelId, Task};
use tiermesh_engine::{
    Engine, EngineOptions, ImportOptions, Job, KernelChoice, LoadOptions, Model, Output,
    Quantization, import,
};
use tokio::runtime::Runtime;

/// Longest answer, in tokens; the longest label has about half of it.
const MAX_ANSWER: u32 = 64;

/// Packs the Hugging Face directory `source` into `target`, beside what else lies there.
///
/// # Errors
///
/// When the source is no model or the target cannot be written.
pub fn pack(source: &Path, target: &Path) -> Result<()> {
    let draft = target.with_extension("new");
    import(
        source,
        &draft,
        &ImportOptions::new(Quantization::Q8),
        &mut |_| ControlFlow::Continue(()),
    )?;
    fs::create_dir_all(target).with_context(|| format!("cannot create {}", target.display()))?;
    for entry in fs::read_dir(&draft)? {
        let entry = entry?;
        let path = target.join(entry.file_name());
        fs::rename(entry.path(), &path)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    fs::remove_dir(&draft).with_context(|| format!("cannot remove {}", draft.display()))
}

/// Whether a folder is an artifact of ours rather than a Hugging Face directory.
#[must_use]
pub fn is_artifact(folder: &Path) -> bool {
    folder.join("manifest.json").exists()
}

/// A model in the engine, for one title at a time.
pub struct Shipped {
    engine: Engine,
    runtime: Runtime,
    model: ModelId,
}

impl Shipped {
    /// Loads an artifact, or a Hugging Face directory in int8.
    ///
    /// # Errors
    ///
    /// When the folder is no model or threads are refused.
    pub fn load(folder: &Path) -> Result<Self> {
        let options = LoadOptions::new(KernelChoice::Auto.resolve()?, Quantization::Q8);
        let model = Model::load(folder, options)?;
        let name = model.info().id.clone();
        let engine = Engine::start(vec![model], EngineOptions::default())?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        Ok(Self {
            engine,
            runtime,
            model: name,
        })
    }

    /// The greedy answers to titles, in their order.
    ///
    /// # Errors
    ///
    /// When the engine refuses a title or fails.
    pub fn answers(&self, titles: &[String]) -> Result<Vec<String>> {
        titles.iter().map(|title| self.answer(title)).collect()
    }

    fn answer(&self, title: &str) -> Result<String> {
        let content = Content::Prompt(title.to_owned());
        let job = Job::new(self.model.clone(), Task::Generate, content, MAX_ANSWER);
        let mut stream = self.engine.submit(job)?;
        self.runtime.block_on(async {
            let mut text = String::new();
            while let Some(output) = stream.next().await {
                if let Output::Tokens { items, .. } = output? {
                    text.extend(items.into_iter().map(|token| token.text));
                }
            }
            Ok(text)
        })
    }
}
