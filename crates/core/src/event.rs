//! What comes back: a numbered stream of events, or an error.

use crate::id::{ModelId, NodeId, PolicyName};
use crate::money::Usd;
use crate::reason::Reason;
use crate::tier::Tier;
use std::time::Duration;

/// One event of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The request was taken, and this is where it goes. A failover before
    /// the first token sends another.
    Accepted(Box<DecisionSummary>),
    /// Tokens, in order, numbered from `first_seq` without a gap.
    Tokens {
        /// The number of the first of them, counted from 0.
        first_seq: u64,
        /// At least one token.
        items: Vec<Token>,
    },
    /// The answer goes on from somewhere else.
    Seam(Seam),
    /// The whole answer of a task that does not stream.
    Result(TaskResult),
    /// The end.
    Done(Box<Done>),
}

/// One token of the model's vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// What it adds to the text; empty while a character is incomplete.
    pub text: String,
    /// Its id in the model's vocabulary; none from a model behind an API.
    pub id: Option<u32>,
    /// Natural log of its probability, where asked and known.
    pub logprob: Option<f32>,
    /// More about it, where log-probabilities were asked for and are known.
    pub detail: Option<Box<TokenDetail>>,
}

/// What is told of a token beside its log-probability.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TokenDetail {
    /// What it stands for by itself: perhaps a part of a character, and never
    /// held back or cut as a token's text may be.
    pub bytes: Vec<u8>,
    /// The likeliest tokens in its place, likeliest first; it is among them
    /// if it is that likely.
    pub top: Vec<Alternative>,
}

/// A token that could have come.
#[derive(Debug, Clone, PartialEq)]
pub struct Alternative {
    /// Its id in the model's vocabulary.
    pub id: u32,
    /// What it stands for by itself.
    pub bytes: Vec<u8>,
    /// Natural log of its probability.
    pub logprob: f32,
}

/// A place where the answer's source changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seam {
    /// The next token's number.
    pub seq: u64,
    /// Who answered so far.
    pub from: NodeId,
    /// Who goes on.
    pub to: NodeId,
    /// How the two parts belong together.
    pub kind: SeamKind,
}

/// How an answer goes on after a break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SeamKind {
    /// The very tokens that would have come.
    Exact,
    /// The same model, perhaps other tokens.
    SameModel,
    /// Another model, from the text so far.
    Prefill,
    /// Discard everything before this.
    Restart,
}

/// A task's result that is not a token stream.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskResult {
    /// A vector.
    Embedding(Vec<f32>),
    /// Labelled spans: byte range and label.
    Tags(Vec<(usize, usize, String)>),
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model said so, or a stop string matched.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
    /// The model's provider filtered it.
    ContentFilter,
}

impl FinishReason {
    /// The spelling on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContentFilter => "content_filter",
        }
    }
}

/// Tokens read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Of the prompt.
    pub input_tokens: u64,
    /// Of the answer.
    pub output_tokens: u64,
}

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// It answered.
    Answered,
    /// It refused at admission.
    Refused,
    /// It failed.
    Failed,
    /// It was asked beside another that was faster, or was given up for it.
    Cancelled,
}

/// One try at an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Who was asked.
    pub node: NodeId,
    /// On which tier.
    pub tier: Tier,
    /// For which model.
    pub model: ModelId,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// The error's reason code, when it did not answer.
    pub reason: Option<String>,
}

/// The end of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// Why it ended.
    pub finish: FinishReason,
    /// Tokens read and written.
    pub usage: Usage,
    /// What it cost, over all attempts.
    pub cost: Usd,
    /// From the door to the first token.
    pub first_token: Option<Duration>,
    /// From the door to the end.
    pub total: Duration,
    /// Every try, in order.
    pub attempts: Vec<Attempt>,
}

/// A tier's best score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TierScore {
    /// The tier.
    pub tier: Tier,
    /// 0 to 100; 0 also when no candidate of the tier was left.
    pub score: f32,
}

/// A reason, and whom it is about.
#[derive(Debug, Clone, PartialEq)]
pub struct ReasonRecord {
    /// The candidate's node; none for reasons about the whole request.
    pub node: Option<NodeId>,
    /// The candidate's model.
    pub model: Option<ModelId>,
    /// The reason.
    pub reason: Reason,
}

/// A place to try when the ones before it fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// Its tier.
    pub tier: Tier,
    /// Its node.
    pub node: NodeId,
    /// Its model.
    pub model: ModelId,
}

/// Where a request goes and why.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionSummary {
    /// The policy that decided.
    pub policy: PolicyName,
    /// The chosen tier.
    pub tier: Tier,
    /// The chosen node.
    pub node: NodeId,
    /// The chosen model.
    pub model: ModelId,
    /// Every tier's best score.
    pub scores: Vec<TierScore>,
    /// The margin over the next best, 0 to 1.
    pub confidence: f32,
    /// Why, closed and with values.
    pub reasons: Vec<ReasonRecord>,
    /// What comes next if it fails, in order.
    pub fallbacks: Vec<Fallback>,
    /// Expected milliseconds to the first token.
    pub first_token_ms: f32,
    /// Expected milliseconds to the end.
    pub total_ms: f32,
    /// Expected cost.
    pub cost: Usd,
    /// The run of the process that decided.
    pub epoch: u64,
    /// The report it was decided from.
    pub sequence: u64,
}
