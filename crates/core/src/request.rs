//! Requests: what a client may ask, checked once at the door.
//!
//! A [`RawRequest`] is what arrived; [`RawRequest::validate`] is the only way
//! to a [`Request`]. Everything behind the door takes the valid type.

use crate::id::{ModelId, PolicyName, Region, RequestId, UserId};
use crate::money::Usd;
use crate::privacy::Privacy;
use serde::{Deserialize, Serialize};
use std::time::Duration;

mod prefix;
mod validate;

pub use prefix::PREFIX_BLOCK_TOKENS;

pub use validate::{FieldError, RawRequest};

/// The most content one request carries, in bytes over all its messages.
pub const MAX_CONTENT_BYTES: usize = 256 * 1024;
/// The most messages one chat carries.
pub const MAX_MESSAGES: usize = 256;
/// The most tokens one answer may be asked for.
pub const MAX_OUTPUT_TOKENS: u32 = 8192;
/// What an answer is bounded to when the client does not say.
pub const DEFAULT_OUTPUT_TOKENS: u32 = 256;
/// The most stop strings, and the longest, in bytes.
pub const MAX_STOPS: usize = 8;
/// The longest stop string in bytes.
pub const MAX_STOP_BYTES: usize = 128;
/// The most bytes of what an answer must fit.
pub const MAX_CONSTRAINT_BYTES: usize = 64 * 1024;
/// The most texts an answer may be chosen from.
pub const MAX_CHOICES: usize = 256;
/// The most tokens one request biases.
pub const MAX_LOGIT_BIASES: usize = 1024;
/// The most alternatives told beside a token.
pub const MAX_TOP_LOGPROBS: u8 = 20;
/// The longest deadline a client may set: a day, in milliseconds.
pub const MAX_DEADLINE_MS: u64 = 86_400_000;

/// What is asked of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Continue a prompt.
    Generate,
    /// Answer a conversation.
    Chat,
    /// Turn text into a vector.
    Embed,
    /// Label the tokens of a text.
    Tag,
}

impl Task {
    /// The spelling on the wire and in errors.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Chat => "chat",
            Self::Embed => "embed",
            Self::Tag => "tag",
        }
    }
}

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions of the application.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The spelling on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub text: String,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Message({:?}, {} bytes)", self.role, self.text.len())
    }
}

/// What the model reads. Its `Debug` shows sizes, never text.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// A plain prompt.
    Prompt(String),
    /// A conversation.
    Messages(Vec<Message>),
}

impl Content {
    /// Bytes of text in it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Prompt(text) => text.len(),
            Self::Messages(messages) => messages.iter().map(|m| m.text.len()).sum(),
        }
    }

    /// The text of the last thing the user said; the prompt itself otherwise.
    #[must_use]
    pub fn last_user_text(&self) -> &str {
        match self {
            Self::Prompt(text) => text,
            Self::Messages(messages) => messages
                .iter()
                .rev()
                .find(|m| m.role == Role::User)
                .map_or("", |m| m.text.as_str()),
        }
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Content({} bytes)", self.bytes())
    }
}

/// Which model should answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelSelector {
    /// Whatever the router finds best.
    Auto,
    /// A model by its exact id, or any model of that family.
    Named(ModelId),
}

impl ModelSelector {
    /// Whether a model with this id and family is meant.
    #[must_use]
    pub fn matches(&self, id: &ModelId, family: &str) -> bool {
        match self {
            Self::Auto => true,
            Self::Named(name) => name == id || name.as_str() == family,
        }
    }

    /// The spelling on the wire: the name, or `auto`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Auto => "auto",
            Self::Named(name) => name.as_str(),
        }
    }
}

/// The weakest way to go on after a break that the client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Continuity {
    /// The very tokens that would have come.
    Exact,
    /// The same model, perhaps other tokens.
    SameModel,
    /// Another model goes on from the text so far.
    Prefill,
    /// The client discards what it has and starts over.
    Restart,
    /// An error.
    Fail,
}

impl Continuity {
    /// The spelling on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::SameModel => "same_model",
            Self::Prefill => "prefill",
            Self::Restart => "restart",
            Self::Fail => "fail",
        }
    }
}

/// What an answer must fit. Its `Debug` shows kind and size, never text.
#[derive(Clone, PartialEq, Eq)]
pub enum OutputConstraint {
    /// A JSON schema, as JSON.
    JsonSchema(String),
    /// A regular expression that the whole answer matches.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A grammar in the Lark notation that llguidance reads.
    Grammar(String),
}

impl OutputConstraint {
    /// What it is, for people.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Choice(_) => "choice",
            Self::Grammar(_) => "grammar",
        }
    }

    /// Bytes of text in it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::JsonSchema(text) | Self::Regex(text) | Self::Grammar(text) => text.len(),
            Self::Choice(texts) => texts.iter().map(String::len).sum(),
        }
    }
}

impl std::fmt::Debug for OutputConstraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "OutputConstraint({}, {} bytes)",
            self.kind(),
            self.bytes()
        )
    }
}

/// How tokens are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; at most 2.
    pub temperature: f32,
    /// Nucleus mass in (0, 1]; 1 keeps everything.
    pub top_p: f32,
    /// Keep this many likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep tokens at least this much as likely as the likeliest, 0 to 1.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of the prompt's and the
    /// answer's tokens, 0.1 to 10; the model's own when absent.
    pub repetition_penalty: Option<f32>,
    /// Taken off the logit of every token the answer has, −2 to 2.
    pub presence_penalty: f32,
    /// Taken off a token's logit as often as the answer has it, −2 to 2.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens, −100 to 100; in order of tokens,
    /// each once.
    pub logit_bias: Vec<(u32, f32)>,
    /// Tell each token's log-probability, and those of so many likeliest
    /// tokens in its place.
    pub logprobs: Option<u8>,
    /// The answer ends after this many tokens.
    pub max_tokens: u32,
    /// The answer ends before any of these.
    pub stop: Vec<String>,
    /// What the answer must fit.
    pub constraint: Option<OutputConstraint>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: None,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            logprobs: None,
            max_tokens: DEFAULT_OUTPUT_TOKENS,
            stop: Vec::new(),
            constraint: None,
        }
    }
}

/// How hot the client's device runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thermal {
    /// As it should be.
    Nominal,
    /// Warm; work should move away.
    Serious,
    /// Work must move away.
    Critical,
}

/// How the client's device is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// No network at all.
    Offline,
    /// Paid by the byte.
    Metered,
    /// Not paid by the byte.
    Unmetered,
}

/// What the client says about its device. Everything is optional.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DeviceInfo {
    /// Charge in percent, 0 to 100.
    pub battery_percent: Option<u8>,
    /// Temperature class.
    pub thermal: Option<Thermal>,
    /// Network class.
    pub network: Option<NetworkKind>,
    /// Free memory in mebibytes.
    pub free_memory_mib: Option<u32>,
}

/// Everything about a request but its content. Safe to log and to route on.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestMeta {
    /// Unique per call; drawn at the door when the client gives none.
    pub request_id: RequestId,
    /// Who asks, and who owns the devices that may answer.
    pub user_id: UserId,
    /// What is asked.
    pub task: Task,
    /// Of which model.
    pub model: ModelSelector,
    /// Under which policy; the door's default when the client gives none.
    pub policy: PolicyName,
    /// Time to the first token the client asked for.
    pub first_token: Option<Duration>,
    /// Time to the end the client asked for.
    pub total: Option<Duration>,
    /// The most the answer may cost.
    pub max_cost: Option<Usd>,
    /// How far the content may travel.
    pub privacy: Privacy,
    /// The only region that may see it, when set.
    pub residency: Option<Region>,
    /// The weakest continuation the client accepts.
    pub continuity: Continuity,
    /// Fixed before the first attempt, so that attempts agree.
    pub seed: u64,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// What the client says of its device.
    pub device: DeviceInfo,
    /// Bytes of content, for estimates that need no look inside.
    pub content_bytes: usize,
    /// How the content begins: digests of its blocks of 256 bytes, each of all
    /// up to there, for whoever wants to know what was read before. Never on a
    /// wire and never recorded.
    pub prefix: Vec<u64>,
}

impl RequestMeta {
    /// A first estimate of the prompt in tokens: bytes over three. English
    /// runs near four bytes a token, Thai near three to six with our
    /// tokenizer, so this errs on the long side for English alone.
    #[must_use]
    pub fn estimated_prompt_tokens(&self) -> u32 {
        u32::try_from(self.content_bytes / 3 + 4).unwrap_or(u32::MAX)
    }
}

/// A request that passed validation. Seal it before it goes anywhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What routing may look at.
    pub meta: RequestMeta,
    /// What only a permit's holder may look at.
    pub content: Content,
}
