//! What an answer must fit: a JSON schema, a regular expression, one of some
//! texts, or a grammar.
//!
//! The mask of tokens that may come next is computed on a thread of its own
//! while the model computes the logits it is for.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv};
use llguidance::toktrie::{TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use tiermesh_core::OutputConstraint;

use crate::tokenizer::TextTokenizer;

/// Steps of building a lexer, some 20 ms of work.
const COMPILE_FUEL: u64 = 1_000_000;
/// Symbols of a compiled grammar.
const GRAMMAR_SYMBOLS: usize = 100_000;
/// States a lexer may grow to; each takes one or two kilobytes.
const LEXER_STATES: usize = 20_000;
/// Masks that may wait to be computed; one more is computed where it is needed.
const WAITING_MASKS: usize = 256;

/// Why an answer cannot be made to fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The schema, expression or grammar is wrong, cannot be satisfied, or is
    /// too large to compile within bounds.
    #[error("the {kind} cannot be used: {reason}")]
    Compile {
        /// What it is.
        kind: &'static str,
        /// What the compiler says.
        reason: String,
    },
    /// The part of the answer that the client has does not fit.
    #[error("the answer so far does not fit the {kind}")]
    Emitted {
        /// What it is.
        kind: &'static str,
    },
    /// This model's tokens cannot be constrained.
    #[error("this model's tokenizer cannot be constrained: {0}")]
    Tokenizer(String),
}

/// A model's vocabulary, ready to compile constraints for.
pub(crate) struct Compiler {
    factory: ParserFactory,
    eos: Vec<u32>,
}

impl Compiler {
    pub(crate) fn new(
        tokenizer: &TextTokenizer,
        vocab: u32,
        eos: &[u32],
    ) -> Result<Self, ConstraintError> {
        let first = *eos
            .first()
            .ok_or_else(|| ConstraintError::Tokenizer("the model has no end token".to_owned()))?;
        let words: Vec<Vec<u8>> = (0..vocab)
            .map(|id| match tokenizer.is_spoken(id) {
                true => tokenizer.token_bytes(id),
                false => {
                    let mut name = vec![TokTrie::SPECIAL_TOKEN_MARKER];
                    name.extend(tokenizer.token_bytes(id));
                    if name.len() == 1 { Vec::new() } else { name }
                }
            })
            .collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab, first), &words);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| ConstraintError::Tokenizer(error.to_string()))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.initial_lexer_fuel = COMPILE_FUEL;
        limits.max_grammar_size = GRAMMAR_SYMBOLS;
        limits.max_lexer_states = LEXER_STATES;
        limits.precompute_large_lexemes = false;
        limits.verbose_errors = false;
        Ok(Self {
            factory,
            eos: eos.to_vec(),
        })
    }

    /// Compiles a constraint for an answer that goes on after `emitted`.
    pub(crate) fn compile(
        &self,
        wanted: &OutputConstraint,
        emitted: &[u32],
    ) -> Result<Constraint, ConstraintError> {
        let kind = wanted.kind();
        let refused = |reason: String| ConstraintError::Compile { kind, reason };
        let grammar = match wanted {
            OutputConstraint::JsonSchema(schema) => {
                let schema = serde_json::from_str(schema)
                    .map_err(|error| refused(format!("it is not JSON: {error}")))?;
                TopLevelGrammar::from_json_schema(schema)
            }
            OutputConstraint::Regex(regex) => TopLevelGrammar::from_regex(regex),
            OutputConstraint::Choice(texts) => {
                let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
                TopLevelGrammar::from_lark(format!("start: {}", texts.join(" | ")))
            }
            OutputConstraint::Grammar(lark) => TopLevelGrammar::from_lark(lark.clone()),
        };
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        if let Some(reason) = matcher.get_error() {
            return Err(refused(short(&reason)));
        }
        // The client's part may end with the end token of an answer that
        // stopped there.
        let said = emitted.iter().take_while(|id| !self.eos.contains(id));
        for id in said {
            matcher
                .consume_token(*id)
                .map_err(|_| ConstraintError::Emitted { kind })?;
        }
        let mask = matcher.compute_mask_or_eos();
        let mask = mask.map_err(|error| refused(short(&error.to_string())))?;
        if mask.is_zero() {
            return Err(refused("nothing this model can write fits it".to_owned()));
        }
        Ok(Constraint {
            eos: self.eos.clone(),
            state: State::Known(Box::new((matcher, mask))),
        })
    }
}

/// A text as a literal of the grammar's language.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The first line of a compiler's message, without what it may quote at length.
fn short(reason: &str) -> String {
    let line = reason.lines().next().unwrap_or_default();
    line.chars().take(200).collect()
}

/// Constraints differ in nothing a stream's comparison should see.
pub(crate) struct Constraint {
    eos: Vec<u32>,
    state: State,
}

enum State {
    Known(Box<(Matcher, SimpleVob)>),
    Coming(Receiver<Work>),
    Over,
}

type Work = (Matcher, Result<SimpleVob, Broken>);

/// A constraint could not be followed any further: its automaton outgrew its
/// bounds in the middle of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the constraint outgrew its bounds in the middle of the answer")]
pub struct Broken;

impl Constraint {
    /// The tokens that may come next, a bit each.
    pub(crate) fn allowed(&mut self) -> Result<Vec<u32>, Broken> {
        if let State::Coming(coming) = &self.state {
            let (matcher, mask) = coming.recv().map_err(|_| Broken)?;
            self.state = State::Known(Box::new((matcher, mask?)));
        }
        let State::Known(known) = &self.state else {
            return Err(Broken);
        };
        let mask = &known.1;
        let mut bits = mask.as_slice().to_vec();
        if self.eos.iter().any(|id| mask.is_allowed(*id)) {
            for id in &self.eos {
                if let Some(word) = bits.get_mut(*id as usize / 32) {
                    *word |= 1 << (id % 32);
                }
            }
        }
        Ok(bits)
    }

    /// The answer has this token now. The next mask is begun.
    pub(crate) fn accept(&mut self, id: u32) -> Result<(), Broken> {
        let State::Known(known) = std::mem::replace(&mut self.state, State::Over) else {
            return Err(Broken);
        };
        if self.eos.contains(&id) {
            return Ok(());
        }
        let (mut matcher, _) = *known;
        matcher.consume_token(id).map_err(|_| Broken)?;
        let (done, coming) = sync_channel(1);
        self.state = State::Coming(coming);
        if let Err(refused) = masks().try_send((matcher, done)) {
            let (matcher, done) = match refused {
                std::sync::mpsc::TrySendError::Full(task)
                | std::sync::mpsc::TrySendError::Disconnected(task) => task,
            };
            compute(matcher, &done);
        }
        Ok(())
    }
}

type Task = (Matcher, SyncSender<Work>);

fn compute(mut matcher: Matcher, done: &SyncSender<Work>) {
    let mask = matcher.compute_mask_or_eos().map_err(|_| Broken);
    // Nobody waits for it once the stream is gone.
    let _ = done.send((matcher, mask));
}

/// The thread that computes masks, started with the first constraint. Without
/// it masks are computed where they are needed.
fn masks() -> &'static SyncSender<Task> {
    static MASKS: OnceLock<SyncSender<Task>> = OnceLock::new();
    MASKS.get_or_init(|| {
        let (send, receive) = sync_channel::<Task>(WAITING_MASKS);
        let thread = std::thread::Builder::new().name("infer-masks".to_owned());
        let started = thread.spawn(move || {
            for (matcher, done) in receive {
                compute(matcher, &done);
            }
        });
        if let Err(error) = started {
            tracing::warn!(%error, "no thread for masks; they are computed in line");
        }
        send
    })
}

#[cfg(test)]
mod tests;
