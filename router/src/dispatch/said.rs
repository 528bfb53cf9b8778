//! What the client has of an answer, and how another node can go on from it.

use tiermesh_core::{
    CandidateState, Context, Continuation, Continuity, NodeId, RequestMeta, SeamKind, Speaker,
    Task, Token,
};

/// The answer so far. Bounded by the longest answer.
#[derive(Debug, Default)]
pub(crate) struct Said {
    ids: Vec<u32>,
    /// The ids are all there, and of one vocabulary.
    is_whole: bool,
    text: String,
    /// Tokens since the answer began, or began anew.
    tokens: u64,
    /// Tokens that a restart told the client to discard: the client's numbers
    /// run on, a node's begin anew.
    discarded: u64,
    speaker: Option<Speaker>,
    /// Who said the last token.
    node: Option<NodeId>,
}

impl Said {
    /// What a request brings with it when it goes on from somewhere else.
    pub(crate) fn before(context: &Context) -> Self {
        let said = &context.continuation;
        Self {
            is_whole: !said.is_prefill(),
            ids: said.emitted_ids.clone(),
            text: said.text.clone(),
            tokens: said.said(),
            discarded: 0,
            speaker: said.speaker.clone(),
            node: None,
        }
    }

    /// The next token's number, as nodes count.
    pub(crate) const fn tokens(&self) -> u64 {
        self.tokens
    }

    /// What the client adds to a node's number.
    pub(crate) const fn discarded(&self) -> u64 {
        self.discarded
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Nothing was said that counts, and it must be said as it was before: the
    /// client has a part of it.
    pub(crate) const fn is_pinned(&self) -> bool {
        self.tokens == 0 && self.node.is_none() && self.speaker.is_some()
    }

    pub(crate) const fn node(&self) -> Option<&NodeId> {
        self.node.as_ref()
    }

    pub(crate) fn add(&mut self, items: &[Token]) {
        self.tokens += items.len() as u64;
        for token in items {
            self.text.push_str(&token.text);
            match token.id {
                Some(id) if self.is_whole => self.ids.push(id),
                _ => self.is_whole = false,
            }
        }
    }

    /// From here on this candidate speaks; `kind` joins it to what was said.
    pub(crate) fn goes_on(&mut self, by: &CandidateState, kind: Option<SeamKind>) {
        match kind {
            // Its ids and those before are of two vocabularies.
            Some(SeamKind::Prefill) => self.is_whole = false,
            Some(SeamKind::Restart) => {
                self.discarded += self.tokens;
                *self = Self {
                    is_whole: true,
                    discarded: self.discarded,
                    ..Self::default()
                };
            }
            Some(SeamKind::Exact | SeamKind::SameModel) | None => {}
        }
        self.node = Some(by.node.clone());
        self.speaker = Some(Speaker {
            model: Some(by.model.id.clone()),
            digest: by.model.digest.clone(),
            numerics_id: by.model.numerics_id.clone(),
        });
    }

    /// The node handed the request on to one whose arithmetic we do not know.
    pub(crate) fn handed_on(&mut self, node: NodeId, same_model: bool) {
        self.node = Some(node);
        match &mut self.speaker {
            Some(speaker) if same_model => speaker.numerics_id = None,
            speaker => *speaker = None,
        }
    }

    /// A seam inside the node's own answer.
    pub(crate) fn seam_within(&mut self, kind: SeamKind) {
        match (kind, &mut self.speaker) {
            (SeamKind::Exact, _) => {}
            (SeamKind::SameModel, Some(speaker)) => speaker.numerics_id = None,
            (SeamKind::SameModel, None) => {}
            (SeamKind::Prefill, _) => self.is_whole = false,
            (SeamKind::Restart, _) => {
                // The node's numbers run on, as ours do.
                self.ids.clear();
                self.text.clear();
                self.is_whole = false;
            }
        }
    }

    /// The best way this candidate could go on.
    pub(crate) fn best_kind(&self, meta: &RequestMeta, by: &CandidateState) -> SeamKind {
        let equal = |a: Option<&str>, b: Option<&str>| a.is_some() && a == b;
        let speaker = self.speaker.as_ref().filter(|_| self.is_whole);
        let numerics = |s: &Speaker| {
            let ours = s.numerics_id.as_ref().map(|id| id.as_str());
            equal(ours, by.model.numerics_id.as_ref().map(|id| id.as_str()))
        };
        let digest = |s: &Speaker| {
            let ours = s.digest.as_ref().map(|digest| digest.as_str());
            equal(ours, by.model.digest.as_ref().map(|d| d.as_str()))
        };
        match speaker {
            Some(speaker) if numerics(speaker) => SeamKind::Exact,
            Some(speaker) if digest(speaker) => SeamKind::SameModel,
            _ if matches!(meta.task, Task::Generate | Task::Chat) => SeamKind::Prefill,
            _ => SeamKind::Restart,
        }
    }

    /// What a node is told that goes on in this way.
    pub(crate) fn continuation(&self, kind: Option<SeamKind>) -> Continuation {
        match kind {
            Some(SeamKind::Restart) => Continuation::default(),
            Some(SeamKind::Prefill) => Continuation {
                emitted_ids: Vec::new(),
                text: self.text.clone(),
                tokens: self.tokens,
                speaker: None,
            },
            _ => Continuation {
                emitted_ids: if self.is_whole {
                    self.ids.clone()
                } else {
                    Vec::new()
                },
                text: self.text.clone(),
                tokens: self.tokens,
                speaker: self.speaker.clone(),
            },
        }
    }
}

/// Whether a client that accepts `least` at the least takes a seam of `kind`.
pub(crate) const fn accepts(least: Continuity, kind: SeamKind) -> bool {
    let weakness = match least {
        Continuity::Exact => 0,
        Continuity::SameModel => 1,
        Continuity::Prefill => 2,
        Continuity::Restart => 3,
        Continuity::Fail => return false,
    };
    (kind as u8) <= weakness
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_takes_what_it_accepts_and_everything_stronger() {
        use SeamKind::{Exact, Prefill, Restart, SameModel};
        let kinds = [Exact, SameModel, Prefill, Restart];
        for (least, taken) in [
            (Continuity::Exact, 1),
            (Continuity::SameModel, 2),
            (Continuity::Prefill, 3),
            (Continuity::Restart, 4),
            (Continuity::Fail, 0),
        ] {
            let accepted = kinds.iter().filter(|kind| accepts(least, **kind));
            assert_eq!(accepted.count(), taken, "{least:?}");
        }
    }
}
