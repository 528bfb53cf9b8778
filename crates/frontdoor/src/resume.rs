//! Going on with an answer whose client lost its connection.
//!
//! A client that asked for it is told a signed token with its answer. With the
//! token, the same request and what it has (the tokens' ids, or only how many)
//! it goes on at any door that knows the key. With the ids, a node reads them
//! and goes on behind them; without, it says the same answer again and what
//! the client has is left out, which only a node that computes the very same
//! may do.

use crate::Catalog;
use crate::replay::Missed;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};
use tiermesh_core::{
    Account, Content, Continuation, ErrorClass, Event, EventStream, InferError, ModelDigest,
    ModelId, NodeId, NumericsId, Request, SeamKind, Speaker, Token,
};
use tiermesh_identity::{ResumeError, ResumeSigner, Resumption, fingerprint};

/// The most text a client brings back, in bytes.
const MAX_TEXT_BYTES: usize = 128 * 1024;

/// What a client brings to go on.
#[derive(Debug, Default)]
pub(crate) struct Brought {
    pub(crate) token: String,
    /// The number of the first token it does not have.
    pub(crate) next_seq: u64,
    /// The ids of those it has; all of them or none.
    pub(crate) emitted_ids: Vec<u32>,
    /// Their text.
    pub(crate) text: String,
}

/// Makes an answer's tokens.
pub(crate) struct Issuer {
    signer: Arc<ResumeSigner>,
    catalog: Arc<dyn Catalog>,
    good_for: Duration,
    about: Resumption,
}

impl Issuer {
    pub(crate) fn new(
        signer: &Arc<ResumeSigner>,
        catalog: &Arc<dyn Catalog>,
        (request, account): (&Request, &Account),
        (stream, good_for): (u64, Duration),
    ) -> Self {
        Self {
            signer: Arc::clone(signer),
            catalog: Arc::clone(catalog),
            good_for,
            about: Resumption {
                user: request.meta.user_id.to_string(),
                account: payer(account),
                stream,
                request_id: request.meta.request_id.to_string(),
                request: of_request(request),
                seed: request.meta.seed,
                model: None,
                digest: None,
                numerics_id: None,
                expires_unix_ms: 0,
            },
        }
    }

    /// The token for what this model on this node says.
    pub(crate) fn token(&mut self, node: &NodeId, model: &ModelId) -> String {
        let speaker = self.catalog.speaker(node, model).unwrap_or_default();
        let text = |id: &dyn std::fmt::Display| id.to_string();
        self.about.model = Some(model.to_string());
        self.about.digest = speaker.digest.as_ref().map(|id| text(id));
        self.about.numerics_id = speaker.numerics_id.as_ref().map(|id| text(id));
        self.signer.sign(self.about.clone(), self.good_for)
    }

    /// The token after a seam onto a node; the model is the same there, or
    /// nobody can say whose tokens the client has.
    pub(crate) fn after_seam(&mut self, node: &NodeId, same_model: bool) -> String {
        let model = self.about.model.as_ref().filter(|_| same_model);
        if let Some(model) = model.and_then(|model| ModelId::new(model).ok()) {
            return self.token(node, &model);
        }
        (self.about.model, self.about.digest, self.about.numerics_id) = (None, None, None);
        self.signer.sign(self.about.clone(), self.good_for)
    }
}

/// Whose answers those of an account are: a tenant's keys are one customer's.
fn payer(account: &Account) -> Option<String> {
    let Account { key, tenant } = account;
    let tenant = tenant.as_ref().map(|tenant| format!("tenant:{tenant}"));
    tenant.or_else(|| key.as_ref().map(|key| format!("key:{key}")))
}

/// What the token says, checked.
///
/// # Errors
/// `RESUME_REFUSED`, and why.
pub(crate) fn open(signer: Option<&ResumeSigner>, token: &str) -> Result<Resumption, InferError> {
    let Some(signer) = signer else {
        return Err(refused(
            ErrorClass::NotFound,
            "this door resumes no answers",
        ));
    };
    signer
        .verify(token, SystemTime::now())
        .map_err(|error| match error {
            ResumeError::Malformed => refused(ErrorClass::InvalidArgument, &error.to_string())
                .with("field", "resume_token"),
            ResumeError::Signature | ResumeError::Expired => {
                refused(ErrorClass::Forbidden, &error.to_string())
            }
        })
}

/// Whether this user may go on with this request.
///
/// # Errors
/// `RESUME_REFUSED` for another user's token, or another request.
pub(crate) fn check(
    told: &Resumption,
    request: &Request,
    account: &Account,
) -> Result<(), InferError> {
    if told.account != payer(account) {
        let why = "the resume token is another account's";
        return Err(refused(ErrorClass::Forbidden, why));
    }
    if told.user != request.meta.user_id.as_str() {
        let why = "the resume token is another user's";
        return Err(refused(ErrorClass::Forbidden, why));
    }
    if told.request != of_request(request) {
        let why = "the request is not the one the resume token is for: send it as it was";
        return Err(refused(ErrorClass::InvalidArgument, why).with("field", "request"));
    }
    Ok(())
}

/// Whether what was brought can be of this request at all.
///
/// # Errors
/// `INVALID_FIELD` for numbers that do not fit each other.
pub(crate) fn fits(brought: &Brought, request: &Request) -> Result<(), InferError> {
    let most = u64::from(request.meta.sampling.max_tokens);
    let wrong = |field: &'static str, what: String| {
        Err(
            InferError::new(ErrorClass::InvalidArgument, "INVALID_FIELD", what)
                .with("field", field),
        )
    };
    let (next, ids) = (brought.next_seq, &brought.emitted_ids);
    if next > most {
        return wrong(
            "next_seq",
            format!("`next_seq` is {next}: the answer has at most {most}"),
        );
    }
    if !ids.is_empty() && ids.len() as u64 != next {
        let count = ids.len();
        let what = format!("`emitted_ids` has {count} ids and `next_seq` is {next}: all or none");
        return wrong("emitted_ids", what);
    }
    if brought.text.len() > MAX_TEXT_BYTES {
        return wrong(
            "emitted_text",
            format!("`emitted_text` is over {MAX_TEXT_BYTES} bytes"),
        );
    }
    Ok(())
}

/// The answer as its client will have it once it was told what it missed, and
/// whose it is by then.
pub(crate) fn caught_up(told: &mut Resumption, brought: &mut Brought, missed: &Missed) {
    // The client may hold a token from before the last seam.
    match missed.seam {
        None | Some(SeamKind::Exact) => {}
        Some(SeamKind::SameModel) => told.numerics_id = None,
        Some(SeamKind::Prefill | SeamKind::Restart) => {
            (told.model, told.digest, told.numerics_id) = (None, None, None);
        }
    }
    let (all, had) = (missed.all(), brought.next_seq);
    let ids = |tokens: &[&Token]| tokens.iter().map(|t| t.id).collect::<Option<Vec<_>>>();
    let tail: Vec<_> = missed.tokens().collect();
    let known = had == 0 || !brought.emitted_ids.is_empty();
    brought.emitted_ids = match (&all, ids(&tail)) {
        (Some(all), _) => ids(all).unwrap_or_default(),
        (None, Some(tail)) if known => [std::mem::take(&mut brought.emitted_ids), tail].concat(),
        _ => Vec::new(),
    };
    brought.text = match all {
        Some(all) => all.iter().map(|token| &*token.text).collect(),
        None if had == 0 || !brought.text.is_empty() => {
            let tail = tail.iter().map(|token| &*token.text);
            std::mem::take(&mut brought.text) + &tail.collect::<String>()
        }
        None => String::new(),
    };
    brought.next_seq = missed.next;
}

/// What goes on: the continuation, and how many tokens are left out of what
/// comes.
///
/// # Errors
/// `RESUME_REFUSED` where nobody could go on from what was brought.
pub(crate) fn continuation(
    told: &Resumption,
    brought: Brought,
) -> Result<(Continuation, u64), InferError> {
    let (next, ids) = (brought.next_seq, brought.emitted_ids);
    let id = |text: &Option<String>| text.clone().unwrap_or_default();
    let speaker = Speaker {
        model: ModelId::new(id(&told.model)).ok(),
        digest: ModelDigest::new(id(&told.digest)).ok(),
        numerics_id: NumericsId::new(id(&told.numerics_id)).ok(),
    };
    let known = speaker.numerics_id.is_some() || speaker.digest.is_some();
    if next == 0 || (!ids.is_empty() && known) {
        let continuation = Continuation {
            tokens: next,
            emitted_ids: ids,
            text: brought.text,
            speaker: (next > 0).then_some(speaker),
        };
        return Ok((continuation, 0));
    }
    if !brought.text.is_empty() {
        let continuation = Continuation {
            tokens: next,
            text: brought.text,
            speaker: Some(Speaker::default()),
            ..Continuation::default()
        };
        return Ok((continuation, 0));
    }
    if speaker.numerics_id.is_none() {
        let why = "the answer is not one that can be said again: bring `emitted_text`";
        return Err(refused(ErrorClass::InvalidArgument, why).with("field", "emitted_text"));
    }
    let again = Continuation {
        speaker: Some(speaker),
        ..Continuation::default()
    };
    Ok((again, next))
}

/// Leaves out the tokens before `from`, which the client has.
pub(crate) fn leave_out(mut events: EventStream, from: u64) -> EventStream {
    struct Rest<F>(F);
    impl<F> futures_core::Stream for Rest<F>
    where
        F: FnMut(&mut std::task::Context<'_>) -> Poll<Option<Result<Event, InferError>>> + Unpin,
    {
        type Item = Result<Event, InferError>;

        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> Poll<Option<Self::Item>> {
            (self.0)(cx)
        }
    }
    let poll = move |cx: &mut std::task::Context<'_>| loop {
        let event = std::task::ready!(events.as_mut().poll_next(cx));
        let Some(Ok(Event::Tokens {
            first_seq,
            mut items,
        })) = event
        else {
            return Poll::Ready(event);
        };
        let known = usize::try_from(from.saturating_sub(first_seq)).unwrap_or(usize::MAX);
        if known >= items.len() {
            continue;
        }
        items.drain(..known);
        let first_seq = first_seq + known as u64;
        return Poll::Ready(Some(Ok(Event::Tokens { first_seq, items })));
    };
    Box::pin(Rest(poll))
}

/// Everything an answer depends on, by fingerprint. Not the deadline: whoever
/// comes back may have another.
fn of_request(request: &Request) -> String {
    let meta = &request.meta;
    let rest = format!(
        "{:?} {:?} {} {:?} {:?} {:?} {:?}",
        meta.task, meta.model, meta.policy, meta.privacy, meta.residency, meta.sampling, meta.seed
    );
    let mut parts = vec![meta.user_id.as_str().as_bytes(), rest.as_bytes()];
    match &request.content {
        Content::Prompt(text) => parts.push(text.as_bytes()),
        Content::Messages(messages) => {
            for message in messages {
                parts.extend([message.role.as_str().as_bytes(), message.text.as_bytes()]);
            }
        }
    }
    fingerprint(parts)
}

fn refused(class: ErrorClass, why: &str) -> InferError {
    InferError::new(class, "RESUME_REFUSED", why)
}
