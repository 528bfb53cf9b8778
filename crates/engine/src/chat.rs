//! A conversation as the one text its model was trained on.
//!
//! Templates are Jinja as Hugging Face's `transformers` renders it, from
//! `chat_template.jinja` or `tokenizer_config.json`. They come with a model and
//! are not trusted: what a rendering may cost is bounded ([`limits`]), and what
//! a user wrote cannot become a special token, which is the tokenizer's work
//! ([`crate::tokenizer`]).

use std::collections::BTreeMap;

use minijinja::{Environment, Value};
use tiermesh_core::{Message, Role};
use time::OffsetDateTime;

use crate::tokenizer::{Disguise, EncodeError, TextTokenizer};

mod config;
mod environment;
mod json;
mod limits;
mod source;

pub(crate) use config::TokenizerConfig;
pub use config::{ChatTemplateError, TOKENIZER_CONFIG};

/// The most bytes of a template's source.
pub const MAX_TEMPLATE_BYTES: usize = 256 << 10;
/// The file a template may have for itself. It wins over
/// `tokenizer_config.json`.
pub const CHAT_TEMPLATE: &str = "chat_template.jinja";
const NAME: &str = "chat";

/// Why a conversation cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The template says that it does not do such conversations.
    #[error("the model's chat template refuses this conversation: {0}")]
    Raised(String),
    /// The template does something that cannot be done.
    #[error("the model's chat template fails in line {line}: {problem}")]
    Failed {
        /// The line in the template.
        line: usize,
        /// What kind of thing; no content.
        problem: String,
    },
    /// The template takes too many steps, or makes too much text.
    #[error("the model's chat template goes beyond its limits")]
    Limit,
    /// The system gives no thread to render on.
    #[error("no thread can be started for the model's chat template")]
    NoThread,
    /// An answer cannot go on from the last message.
    #[error("the model's chat template does not show the last message")]
    NotShown,
}

/// Why a conversation has no tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// The text cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The template cannot be rendered.
    #[error(transparent)]
    Render(#[from] RenderError),
}

/// A model's chat template, ready to render.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// `bos_token` and the like, by their names.
    tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// Reads the template of a model from its `tokenizer_config.json` and its
    /// `chat_template.jinja`, each where it is there; `None` when the model
    /// has no template.
    ///
    /// # Errors
    ///
    /// When a file cannot be parsed, or the template is too long or is none.
    pub fn from_files(
        tokenizer_config: Option<&[u8]>,
        chat_template_jinja: Option<&[u8]>,
    ) -> Result<Option<Self>, ChatTemplateError> {
        let config = TokenizerConfig::parse(tokenizer_config)?;
        Self::new(&config, chat_template_jinja)
    }

    pub(crate) fn new(
        config: &TokenizerConfig,
        chat_template_jinja: Option<&[u8]>,
    ) -> Result<Option<Self>, ChatTemplateError> {
        let (file, source) = match (chat_template_jinja, config.chat_template()) {
            (Some(bytes), _) => {
                let source = std::str::from_utf8(bytes).map_err(ChatTemplateError::NotUtf8)?;
                (CHAT_TEMPLATE, source)
            }
            (None, Some(source)) => (TOKENIZER_CONFIG, source),
            (None, None) => return Ok(None),
        };
        if source.len() > MAX_TEMPLATE_BYTES {
            let bytes = source.len();
            return Err(ChatTemplateError::TooLong { file, bytes });
        }
        let prepared = source::prepare(source).map_err(|problem| ChatTemplateError::Syntax {
            file,
            line: problem.line,
            problem: problem.message.to_owned(),
        })?;
        let mut environment = environment::new();
        let added = environment.add_template_owned(NAME, prepared);
        added.map_err(|error| ChatTemplateError::Syntax {
            file,
            line: error.line().unwrap_or(0),
            problem: limits::described(&error),
        })?;
        Ok(Some(Self {
            environment,
            source: source.to_owned(),
            tokens: config.special_tokens().clone(),
        }))
    }

    /// Whether a token is written by the template, and so means to the model
    /// what the template means by it. A token that it compares messages with
    /// or splits them at (`</think>`) has to be left in them.
    pub(crate) fn writes(&self, token: &str) -> bool {
        self.source.contains(token) && !source::inspects(&self.source, token)
    }

    /// The conversation as tokens. The answer goes on from a last message of
    /// the assistant, and begins after one of anybody else.
    pub(crate) fn encode(
        &self,
        tokenizer: &TextTokenizer,
        messages: &[Message],
        now: OffsetDateTime,
    ) -> Result<Vec<u32>, PromptError> {
        let texts: Vec<&str> = messages.iter().map(|m| m.text.as_str()).collect();
        let (texts, disguise) = tokenizer.disguise(&texts, &self.source)?;
        let turns = messages.iter().map(|m| m.role).zip(texts).collect();
        let rendered = self.conversation(turns, &disguise, now)?;
        Ok(tokenizer.encode_disguised(&rendered, &disguise, false)?)
    }

    /// To go on from the last message, a mark is put at its end and the text
    /// cut there. The mark has a space at its own end: a template that trims
    /// the message trims it too, and then what stood before the mark has to be
    /// trimmed as well.
    fn conversation(
        &self,
        mut turns: Vec<(Role, String)>,
        disguise: &Disguise,
        now: OffsetDateTime,
    ) -> Result<String, RenderError> {
        let goes_on = turns
            .last()
            .is_some_and(|(role, _)| *role == Role::Assistant);
        if !goes_on {
            return self.messages(&turns, true, now);
        }
        let mark = disguise.spare();
        if let Some((_, text)) = turns.last_mut() {
            text.extend([mark, ' ']);
        }
        let mut rendered = self.messages(&turns, false, now)?;
        let at = rendered.rfind(mark).ok_or(RenderError::NotShown)?;
        let trimmed = !rendered[at + mark.len_utf8()..].starts_with(' ');
        rendered.truncate(at);
        if trimmed {
            rendered.truncate(rendered.trim_end().len());
        }
        Ok(rendered)
    }

    fn messages(
        &self,
        turns: &[(Role, String)],
        add_generation_prompt: bool,
        now: OffsetDateTime,
    ) -> Result<String, RenderError> {
        let message = |(role, text): &(Role, String)| {
            // A template that writes a whole message shows this order.
            Value::from_pairs([
                ("role", Value::from(role.as_str())),
                ("content", Value::from(text.as_str())),
            ])
        };
        let messages: Vec<Value> = turns.iter().map(message).collect();
        let variables = [
            ("messages", Value::from(messages)),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ];
        self.render(variables, now)
    }

    /// Renders with the model's special tokens and these variables.
    fn render<'a>(
        &'a self,
        variables: impl IntoIterator<Item = (&'a str, Value)>,
        now: OffsetDateTime,
    ) -> Result<String, RenderError> {
        let tokens = self.tokens.iter();
        let mut context: BTreeMap<&str, Value> = tokens
            .map(|(name, token)| (name.as_str(), Value::from(token.as_str())))
            .collect();
        // `none`, and not undefined: templates ask which of the two they are.
        context.extend([("tools", Value::from(())), ("documents", Value::from(()))]);
        context.extend(variables);
        limits::within(now, || {
            let template = self.environment.get_template(NAME)?;
            template.render(Value::from_pairs(context))
        })
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("bytes", &self.source.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
