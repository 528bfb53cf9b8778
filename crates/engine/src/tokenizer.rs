//! Text to tokens and back.
//!
//! A prompt's fixed parts are written by the artifact's author, and special
//! tokens in them are what they look like. In what a user writes `<|end|>` is
//! seven characters and nothing else: it is put in disguise ([`disguise`])
//! before anything looks for added tokens, and taken out of it before the text
//! is split. Everything else about the text is encoded as the tokenizer's own
//! library does it, so added tokens that are not special (runs of spaces, line
//! ends) are found in a user's text too.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::{Model as _, OffsetType, PreTokenizedString, PreTokenizer as _};
use tokenizers::{AddedToken, Encoding, PostProcessor, Tokenizer, TruncationDirection};

use crate::chat::{ChatTemplate, TokenizerConfig};

mod detokenize;
mod disguise;
mod spelling;

pub(crate) use detokenize::{Detokenizer, Piece};
pub(crate) use disguise::Disguise;
use disguise::Guard;
use spelling::Spelling;

/// Why `tokenizer.json` is refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// It is not JSON.
    #[error("tokenizer.json cannot be parsed")]
    Json(#[source] serde_json::Error),
    /// It is JSON, but no tokenizer.
    #[error("tokenizer.json does not describe a tokenizer: {0}")]
    Build(String),
    /// Building it broke the tokenizer library.
    #[error("tokenizer.json broke the tokenizer")]
    Panicked,
}

/// A text the tokenizer cannot encode; which one is not said, it is content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tokenizer cannot encode this text")]
pub struct EncodeError;

/// A tokenizer for templates and content.
pub(crate) struct TextTokenizer {
    tokenizer: Tokenizer,
    spelling: Spelling,
    guard: Guard,
    /// Guarded tokens that are looked for in normalised text, in which a
    /// disguise made of the text as written may miss one.
    normalized: Vec<u32>,
}

/// What is read of `tokenizer.json` beside what the library reads.
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    decoder: Value,
}

impl TextTokenizer {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, TokenizerError> {
        let parts: Parts = serde_json::from_slice(json).map_err(TokenizerError::Json)?;
        let mut tokenizer = Self {
            tokenizer: build(json)?,
            spelling: Spelling::of(&parts.decoder),
            guard: Guard::default(),
            normalized: Vec::new(),
        };
        tokenizer.guard(|_| false)?;
        Ok(tokenizer)
    }

    /// Takes what the model's other files say of its tokens: which ones are
    /// special by name, what stands around a text, and what the chat template
    /// writes.
    pub(crate) fn configure(
        &mut self,
        config: &TokenizerConfig,
        template: Option<&ChatTemplate>,
    ) -> Result<(), TokenizerError> {
        let known = self.tokenizer.get_added_tokens_decoder();
        for text in config.named() {
            // One without an id is no token of this model's.
            let Some(id) = self.tokenizer.token_to_id(text) else {
                continue;
            };
            let token = known.get(&id).cloned();
            let token = token.unwrap_or_else(|| AddedToken::from(text, true));
            self.tokenizer.add_special_tokens(&[token.special(true)]);
        }
        if let Some([before, after]) = config.around() {
            self.put_around(before, after)?;
        }
        self.guard(|token| template.is_some_and(|template| template.writes(token)))
    }

    /// Puts these tokens around a text, instead of what the file says.
    fn put_around(
        &mut self,
        before: Option<&str>,
        after: Option<&str>,
    ) -> Result<(), TokenizerError> {
        let known = |token: &&str| self.tokenizer.token_to_id(token).is_some();
        let (before, after) = (before.filter(known), after.filter(known));
        let tokens = before.iter().chain(after.iter());
        let tokens: Vec<(String, u32)> = tokens
            .filter_map(|token| Some(((*token).to_owned(), self.tokenizer.token_to_id(token)?)))
            .collect();
        let parts = before.into_iter().chain(["$A:0"]).chain(after);
        let single: Vec<String> = parts.map(str::to_owned).collect();
        let wrong = |error: String| TokenizerError::Build(error);
        let template = TemplateProcessing::builder()
            .try_single(single)
            .map_err(wrong)?
            .special_tokens(tokens)
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        self.tokenizer.with_post_processor(Some(template));
        Ok(())
    }

    /// Decides which added tokens a user's text cannot have: special ones,
    /// those in `<|…|>`, which are special whatever the file says of them, and
    /// those `also` knows by their text.
    fn guard(&mut self, also: impl Fn(&str) -> bool) -> Result<(), TokenizerError> {
        let mut texts = Vec::new();
        self.normalized.clear();
        for (id, token) in self.tokenizer.get_added_tokens_decoder() {
            let text = &token.content;
            let marked = text.starts_with("<|") && text.ends_with("|>");
            if text.is_empty() || !(token.special || marked || also(text)) {
                continue;
            }
            if token.normalized && self.tokenizer.get_normalizer().is_some() {
                self.normalized.push(id);
            }
            texts.push(token.content);
        }
        self.guard = Guard::new(texts).map_err(TokenizerError::Build)?;
        Ok(())
    }

    /// The largest id it can give.
    pub(crate) fn largest_id(&self) -> Option<u32> {
        self.tokenizer.get_vocab(true).into_values().max()
    }

    /// The id of a token by its text.
    pub(crate) fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// Encodes a fixed part of the prompt: special tokens are recognised.
    pub(crate) fn encode_template(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        self.encode_as_it_is(text, false)
    }

    /// Encodes a whole text whose author may use special tokens, with the
    /// tokens that the tokenizer puts around a text.
    pub(crate) fn encode_trusted(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        self.encode_as_it_is(text, true)
    }

    /// Encodes what a user wrote: nothing in it is special.
    pub(crate) fn encode_content(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        self.encode_untrusted(text, false)
    }

    /// Encodes a whole text that a user wrote, with the tokens that the
    /// tokenizer puts around a text.
    pub(crate) fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        self.encode_untrusted(text, true)
    }

    fn encode_untrusted(&self, text: &str, whole: bool) -> Result<Vec<u32>, EncodeError> {
        let (texts, disguise) = self.disguise(&[text], "")?;
        self.encode_disguised(&texts[0], &disguise, whole)
    }

    /// Users' texts with every special token in disguise, which
    /// [`Self::encode_disguised`] sees through. `beside` is a text they are
    /// going to be mixed with.
    pub(crate) fn disguise(
        &self,
        texts: &[&str],
        beside: &str,
    ) -> Result<(Vec<String>, Disguise), EncodeError> {
        let (disguised, disguise) = self.guard.disguise(texts, beside);
        if !self.normalized.is_empty() {
            for text in &disguised {
                let ids = self.encode_disguised(text, &disguise, false)?;
                if ids.iter().any(|id| self.normalized.contains(id)) {
                    return Err(EncodeError);
                }
            }
        }
        Ok((disguised, disguise))
    }

    /// Encodes a text with disguised tokens in it: those are text, others are
    /// recognised. `whole` asks for the tokens around a text.
    pub(crate) fn encode_disguised(
        &self,
        text: &str,
        disguise: &Disguise,
        whole: bool,
    ) -> Result<Vec<u32>, EncodeError> {
        if disguise.is_empty() {
            return self.encode_as_it_is(text, whole);
        }
        let encoded = self.see_through(text, disguise, whole);
        encoded
            .map(|e| e.get_ids().to_vec())
            .map_err(|_| EncodeError)
    }

    fn encode_as_it_is(&self, text: &str, whole: bool) -> Result<Vec<u32>, EncodeError> {
        // Offsets are of no use here, and leaving them out is faster.
        let encoding = self.tokenizer.encode_fast(text, whole);
        encoding
            .map(|e| e.get_ids().to_vec())
            .map_err(|_| EncodeError)
    }

    /// The steps of the library's own `encode`, with one more between looking
    /// for added tokens and everything that looks at characters.
    fn see_through(
        &self,
        text: &str,
        disguise: &Disguise,
        whole: bool,
    ) -> tokenizers::Result<Encoding> {
        let tokenizer = &self.tokenizer;
        let added = tokenizer.get_added_vocabulary();
        let mut parts: PreTokenizedString =
            added.extract_and_normalize(tokenizer.get_normalizer(), text);
        parts.normalize(|part| {
            part.map(|c| disguise.original(c));
            Ok(())
        })?;
        if let Some(splitter) = tokenizer.get_pre_tokenizer() {
            splitter.pre_tokenize(&mut parts)?;
        }
        parts.tokenize(|part| tokenizer.get_model().tokenize(part.get()))?;
        let encoding = parts.into_encoding(None, 0, OffsetType::None)?;
        tokenizer.post_process(encoding, None, whole)
    }

    /// The bytes a token stands for; they need not be whole characters. A
    /// special token's are its name.
    pub(crate) fn token_bytes(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.tokenizer.id_to_token(id) else {
            return Vec::new();
        };
        if self.is_special(&token) {
            return token.into_bytes();
        }
        self.spelling
            .bytes(&token, false)
            .unwrap_or_else(|| self.decode(&[id]).into_bytes())
    }

    /// Encodes a whole text for an encoder: the tokens that open and close a
    /// text are put around it, and it is cut so that at most `most` tokens
    /// come out. Beside each token the bytes it stands for; none for those
    /// that were put around.
    #[expect(clippy::type_complexity, reason = "ids and their bytes, nothing more")]
    pub(crate) fn encode_whole(
        &self,
        text: &str,
        most: usize,
    ) -> Result<(Vec<u32>, Vec<(usize, usize)>), EncodeError> {
        let around = self
            .tokenizer
            .get_post_processor()
            .map_or(0, |p| p.added_tokens(false));
        let mut encoding = self
            .tokenizer
            .encode(text, false)
            .map_err(|_| EncodeError)?;
        encoding.truncate(most.saturating_sub(around), 0, TruncationDirection::Right);
        let encoding = self
            .tokenizer
            .post_process(encoding, None, true)
            .map_err(|_| EncodeError)?;
        let offsets = encoding.get_offsets().to_vec();
        Ok((encoding.get_ids().to_vec(), offsets))
    }

    /// The text of these tokens, special ones left out. Incomplete characters
    /// become U+FFFD.
    fn decode(&self, ids: &[u32]) -> String {
        // Decoders of the supported kinds do not fail; if one does, the token
        // has no text.
        self.tokenizer.decode(ids, true).unwrap_or_default()
    }

    /// Whether a token has text in an answer; special ones have none.
    pub(crate) fn is_spoken(&self, id: u32) -> bool {
        self.spoken(id).is_some()
    }

    /// A token that has text in an answer.
    fn spoken(&self, id: u32) -> Option<String> {
        let token = self.tokenizer.id_to_token(id)?;
        (!self.is_special(&token)).then_some(token)
    }

    fn is_special(&self, token: &str) -> bool {
        self.tokenizer
            .get_added_vocabulary()
            .is_special_token(token)
    }
}

/// Garbage in some corners of the format panics inside the library.
fn build(json: &[u8]) -> Result<Tokenizer, TokenizerError> {
    let built = std::panic::catch_unwind(|| Tokenizer::from_bytes(json));
    let mut tokenizer = built
        .map_err(|_| TokenizerError::Panicked)?
        .map_err(|error| TokenizerError::Build(error.to_string()))?;
    tokenizer.with_padding(None);
    // Lengths are checked where they can be refused, never cut in silence.
    tokenizer
        .with_truncation(None)
        .map_err(|error| TokenizerError::Build(error.to_string()))?;
    Ok(tokenizer)
}

#[cfg(test)]
mod tests;
