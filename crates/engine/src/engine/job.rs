//! What an engine is asked.

use std::time::Instant;

use tiermesh_core::{Content, ModelId, OutputConstraint, Task, UserId};

use crate::sampler::SamplingParams;

/// One answer to compute.
#[derive(Clone, Debug)]
pub struct Job {
    /// Which model.
    pub model: ModelId,
    /// Who asks; users share the engine by weight.
    pub user: UserId,
    /// 0 is the least urgent; from 3 on all are equally urgent.
    pub priority: u8,
    /// What is asked.
    pub task: Task,
    /// What it reads.
    pub content: Content,
    /// Tokens of the answer the client has already: the answer goes on after
    /// them as if it had never stopped.
    pub emitted: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// With the position, decides every draw.
    pub seed: u64,
    /// The answer's length at most, emitted tokens included.
    pub max_tokens: u32,
    /// The answer ends before any of these.
    pub stop: Vec<String>,
    /// What the answer must fit.
    pub constraint: Option<OutputConstraint>,
    /// When its first token should be there: of equals, the earlier is first.
    pub first_token: Option<Instant>,
    /// When it must be over.
    pub deadline: Option<Instant>,
}

impl Job {
    /// A greedy answer of so many tokens at most, for nobody in particular.
    ///
    /// # Panics
    ///
    /// Never: the user's name is a constant that is valid.
    #[must_use]
    pub fn new(model: ModelId, task: Task, content: Content, max_tokens: u32) -> Self {
        Self {
            model,
            user: UserId::new("local").expect("a constant name that is valid"),
            priority: 0,
            task,
            content,
            emitted: Vec::new(),
            sampling: SamplingParams::GREEDY,
            seed: 0,
            max_tokens,
            stop: Vec::new(),
            constraint: None,
            first_token: None,
            deadline: None,
        }
    }
}
