//! What a client has not of what was said.

use super::told::Told;
use tiermesh_core::{DecisionSummary, Event, EventStream, SeamKind, Token};

/// What a client has missed.
#[derive(Debug, Default)]
pub(crate) struct Missed {
    pub(crate) accepted: Option<Box<DecisionSummary>>,
    pub(crate) events: Vec<Event>,
    /// The number of the token behind them.
    pub(crate) next: u64,
    /// The end is among them.
    pub(crate) is_whole: bool,
    /// How the answer was joined, where it was.
    pub(crate) seam: Option<SeamKind>,
    /// Everything that is kept, the end left out, from this number on.
    pub(crate) kept: Vec<Event>,
    pub(crate) first: u64,
}

impl Missed {
    /// Every token of the answer so far, where all are kept.
    pub(crate) fn all(&self) -> Option<Vec<&Token>> {
        (self.first == 0).then(|| tokens(&self.kept).collect())
    }

    /// The whole rest, which nobody has to compute.
    pub(crate) fn into_told(self) -> EventStream {
        let accepted = self.accepted.map(Event::Accepted);
        let events = accepted.into_iter().chain(self.events);
        Box::pin(Told(events.collect()))
    }

    /// Those the client has not.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = &Token> {
        tokens(&self.events)
    }
}

fn tokens(events: &[Event]) -> impl Iterator<Item = &Token> {
    events.iter().flat_map(|event| match event {
        Event::Tokens { items, .. } => &items[..],
        _ => &[],
    })
}
