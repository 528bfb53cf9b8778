//! The one path every API takes: defaults, validation, guard, slot, seal,
//! answer.

use crate::Door;
use crate::answer::{Answer, Sweeper};
use crate::auth::Holder;
use crate::call::Call;
use crate::replay::{Missed, Replays, after_accepted};
use crate::resume::{self, Brought, Issuer};
use crate::slots::Slots;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tiermesh_core::{
    Content, Context, Continuation, Deadline, DecisionSummary, EventStream, InferError, RawRequest,
    Request, Sealed,
};
use tokio::time::Sleep;

/// What there is of an answer already.
struct Began {
    /// Which one it is, at the door that began it.
    stream: u64,
    /// What the client has not of what was said.
    missed: Missed,
    /// Tokens of what will come that the client has, or is told again.
    known: u64,
}

impl Began {
    fn anew() -> Self {
        Self {
            stream: fastrand::u64(1..),
            missed: Missed::default(),
            known: 0,
        }
    }
}

/// A door with its bounds: what the APIs share.
pub(crate) struct Entry {
    pub(crate) door: Door,
    pub(crate) slots: Arc<Slots>,
    pub(crate) sweeper: Arc<Sweeper>,
    pub(crate) replays: Arc<Replays>,
    /// Unix seconds when this door opened.
    pub(crate) opened: u64,
    draining: AtomicBool,
}

impl Entry {
    pub(crate) fn new(door: Door) -> Arc<Self> {
        Arc::new(Self {
            slots: Slots::new(door.options.max_streams),
            sweeper: Sweeper::new(door.options.write_timeout, door.options.max_streams),
            replays: Replays::new(door.options.replay),
            opened: unix_seconds(),
            draining: AtomicBool::new(false),
            door,
        })
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Reads a call's headers.
    pub(crate) fn call(&self, headers: &http::HeaderMap) -> Result<Call, InferError> {
        Call::read(headers, &self.door.options)
    }

    /// Starts an answer, or refuses before anything was sent.
    pub(crate) async fn infer(
        &self,
        raw: RawRequest,
        seed: Option<u64>,
        call: Call,
    ) -> Result<Answer, InferError> {
        let (request, context) = self.check(raw, seed, &call)?;
        self.begin(request, context, call, Began::anew()).await
    }

    /// Goes on with an answer whose connection was lost.
    pub(crate) async fn resume(
        &self,
        mut raw: RawRequest,
        mut brought: Brought,
        mut call: Call,
    ) -> Result<Answer, InferError> {
        let mut told = resume::open(self.door.options.resume.as_deref(), &brought.token)?;
        if raw.request_id.is_empty() {
            raw.request_id.clone_from(&told.request_id);
        }
        call.resumable = true;
        let (request, mut context) = self.check(raw, Some(told.seed), &call)?;
        resume::check(&told, &request, &context.account)?;
        resume::fits(&brought, &request)?;
        let missed = self.replays.missed(told.stream, brought.next_seq);
        if let Some(missed) = &missed {
            resume::caught_up(&mut told, &mut brought, missed);
        }
        let mut began = Began {
            // A token from before there were numbers has none.
            stream: match told.stream {
                0 => fastrand::u64(1..),
                stream => stream,
            },
            missed: missed.unwrap_or_default(),
            known: 0,
        };
        if began.missed.is_whole {
            return self.begin(request, context, call, began).await;
        }
        if began.missed.kept.is_empty() {
            began.missed.first = brought.next_seq;
        }
        (context.continuation, began.known) = resume::continuation(&told, brought)?;
        self.begin(request, context, call, began).await
    }

    /// The path from a valid request on.
    async fn begin(
        &self,
        mut request: Request,
        context: Context,
        call: Call,
        began: Began,
    ) -> Result<Answer, InferError> {
        let options = &self.door.options;
        let signer = options.resume.as_ref().filter(|_| call.resumable);
        let issuer = signer.map(|signer| {
            let whose = (&request, &context.account);
            let terms = (began.stream, options.resume_for);
            Issuer::new(signer, &self.door.catalog, whose, terms)
        });
        if let Some(guard) = &self.door.options.guard {
            guard(&mut request.meta, &call.caller())?;
        }
        let context = Context {
            via: call.via,
            trace_parent: call.trace_parent,
            ..context
        };
        let slot = self.slots.take()?;
        let mut deadline = context
            .deadline
            .remaining(self.door.clock.now())
            .map(|left| Box::pin(tokio::time::sleep(left)));
        let (request_id, seed) = (request.meta.request_id.clone(), request.meta.seed);
        let mut writer = None;
        let stream = if began.missed.is_whole {
            began.missed.into_told()
        } else {
            let stream = self.open(request, context, &mut deadline).await?;
            let stream = match began.known {
                0 => stream,
                known => resume::leave_out(stream, known),
            };
            match &issuer {
                None => stream,
                Some(_) => {
                    let Began {
                        stream: id, missed, ..
                    } = began;
                    let kept = self.replays.keep(id, stream, &missed);
                    writer = Some(kept.writer());
                    after_accepted(missed.events, Box::pin(kept))
                }
            }
        };
        let begun = (stream, slot);
        let mut answer = Answer::new(begun, deadline, (request_id, seed), &self.sweeper);
        if let Some(writer) = writer {
            writer.is(answer.handle());
        }
        answer.issuer = issuer.map(Box::new);
        Ok(answer)
    }

    async fn open(
        &self,
        request: Request,
        context: Context,
        deadline: &mut Option<Pin<Box<Sleep>>>,
    ) -> Result<EventStream, InferError> {
        let opening = self
            .door
            .infer
            .infer(Arc::new(Sealed::new(request)), context);
        match deadline {
            None => opening.await,
            Some(over) => tokio::select! {
                biased;
                opened = opening => opened,
                () = over => Err(InferError::deadline_exceeded()),
            },
        }
    }

    /// The decision for a request. Nothing is sent anywhere, so it needs no
    /// content, no slot, and no guard.
    pub(crate) fn explain(
        &self,
        mut raw: RawRequest,
        seed: Option<u64>,
        call: Call,
    ) -> Result<DecisionSummary, InferError> {
        raw.content
            .get_or_insert_with(|| Content::Prompt("-".to_owned()));
        let (request, context) = self.check(raw, seed, &call)?;
        let context = Context {
            via: call.via,
            ..context
        };
        self.door.explain.explain(&request.meta, &context)
    }

    fn check(
        &self,
        mut raw: RawRequest,
        seed: Option<u64>,
        call: &Call,
    ) -> Result<(Request, Context), InferError> {
        let arrived = self.door.clock.now();
        let options = &self.door.options;
        if raw.request_id.is_empty() {
            raw.request_id = uuid::Uuid::new_v4().to_string();
        }
        let holder = call.holder.as_ref();
        let user = match holder {
            Some(holder) => holder.user(&raw.user_id)?,
            None => None,
        };
        if raw.user_id.is_empty() {
            raw.user_id = user.unwrap_or(&options.default_user).to_string();
        }
        if raw.policy.is_empty() {
            raw.policy = options.policy_for(call.tenant()).to_string();
        }
        raw.seed = seed.unwrap_or_else(|| fastrand::u64(..));
        let request = raw.validate()?;
        let deadline = Deadline {
            first_token: request.meta.first_token.map(|left| arrived + left),
            total: request.meta.total.map(|left| arrived + left),
        }
        .capped(call.timeout.map(|left| arrived + left));
        if deadline.is_over(arrived) {
            return Err(InferError::deadline_exceeded());
        }
        let context = Context {
            deadline,
            continuation: Continuation::default(),
            account: holder.map(Holder::account).unwrap_or_default(),
            ..Context::default()
        };
        Ok((request, context))
    }
}

pub(crate) fn unix_seconds() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
