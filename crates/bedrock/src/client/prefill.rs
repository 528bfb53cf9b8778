//! Going on with an answer that another model began: the text so far goes as
//! the assistant's own last turn, which the model then continues.

use tiermesh_core::{Continuation, ErrorClass, InferError, Refusal};

/// What was said before, as Converse takes it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Prefill {
    /// The last turn. Models refuse one that ends in white space.
    pub(super) text: String,
    /// Tokens the client has.
    pub(super) tokens: u64,
    /// The white space that was left off: the client has it, and the model
    /// may say it again.
    pub(super) owed: Owed,
}

impl Prefill {
    /// # Errors
    /// Where the model does not continue a turn of its own, or was given ids
    /// of a vocabulary it does not have.
    pub(super) fn of(said: &Continuation, takes_it: bool, place: &str) -> Result<Self, Refusal> {
        if said.is_empty() {
            return Ok(Self::default());
        }
        let refused = |why: &str| {
            let message = format!("{place} {why}");
            Err(InferError::new(
                ErrorClass::NotFound,
                "CONTINUATION_NOT_SERVED",
                message,
            ))
        };
        if !said.is_prefill() {
            // To begin anew would repeat what the client has.
            return refused("cannot go on from token ids");
        }
        if !takes_it {
            return refused("has no model there that goes on from an assistant's text");
        }
        let text = said.text.trim_end();
        Ok(Self {
            owed: Owed(said.text[text.len()..].to_owned()),
            text: text.to_owned(),
            tokens: said.tokens,
        })
    }
}

/// Text that the client has and the model has not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Owed(String);

impl Owed {
    /// Takes off a piece's beginning what the client has already.
    pub(super) fn strip(&mut self, piece: String) -> String {
        if self.0.is_empty() || piece.is_empty() {
            return piece;
        }
        let same = self
            .0
            .chars()
            .zip(piece.chars())
            .take_while(|(owed, said)| owed == said);
        let bytes = same.map(|(owed, _)| owed.len_utf8()).sum::<usize>();
        // What differs, or the whole of it, settles it; a piece that is all
        // owed leaves the rest for the next.
        self.0 = match bytes == piece.len() {
            true => self.0.split_off(bytes),
            false => String::new(),
        };
        piece[bytes..].to_owned()
    }
}

/// Whether a model continues an assistant's turn, by its Bedrock id, where the
/// configuration does not say: Anthropic's and Amazon's Nova do, as their
/// documentation has it; others want a user's turn last.
pub(super) fn takes_prefill(bedrock_id: &str) -> bool {
    bedrock_id.contains("anthropic.claude") || bedrock_id.contains("amazon.nova")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owed(text: &str, pieces: &[&str]) -> String {
        let mut owed = Owed(text.to_owned());
        let said = pieces.iter().map(|piece| owed.strip((*piece).to_owned()));
        said.collect()
    }

    #[test]
    fn white_space_is_never_said_twice_and_never_lost() {
        assert_eq!(owed(" ", &[" four", " five"]), "four five");
        assert_eq!(owed(" ", &["four"]), "four");
        assert_eq!(owed("\n\n", &["\n", "\n", "four"]), "four");
        assert_eq!(owed("\n ", &["\nfour"]), "four");
        assert_eq!(owed("", &[" four"]), " four");
    }

    #[test]
    fn a_turn_never_ends_in_white_space() {
        let said = Continuation {
            text: "one, two \n".into(),
            tokens: 5,
            ..Continuation::default()
        };
        let prefill = Prefill::of(&said, true, "there").unwrap();
        assert_eq!((prefill.text.as_str(), prefill.tokens), ("one, two", 5));
        assert_eq!(prefill.owed, Owed(" \n".into()));
        let refused = Prefill::of(&said, false, "there").unwrap_err();
        assert_eq!(refused.reason, "CONTINUATION_NOT_SERVED");
    }
}
