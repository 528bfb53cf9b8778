//! The one path every API takes: defaults, validation, guard, slot, seal,
//! answer.

use crate::Door;
use crate::answer::{Answer, Sweeper};
use crate::call::Call;
use crate::resume::{self, Brought, Issuer};
use crate::slots::Slots;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tiermesh_core::{
    Content, Context, Continuation, Deadline, DecisionSummary, InferError, RawRequest, Request,
    Sealed,
};

/// A door with its bounds: what the APIs share.
pub(crate) struct Entry {
    pub(crate) door: Door,
    pub(crate) slots: Arc<Slots>,
    pub(crate) sweeper: Arc<Sweeper>,
    /// Unix seconds when this door opened.
    pub(crate) opened: u64,
    draining: AtomicBool,
}

impl Entry {
    pub(crate) fn new(door: Door) -> Arc<Self> {
        Arc::new(Self {
            slots: Slots::new(door.options.max_streams),
            sweeper: Sweeper::new(door.options.write_timeout, door.options.max_streams),
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
        Call::read(headers, &self.door.options.node)
    }

    /// Starts an answer, or refuses before anything was sent.
    pub(crate) async fn infer(
        &self,
        raw: RawRequest,
        seed: Option<u64>,
        call: Call,
    ) -> Result<Answer, InferError> {
        let (request, context) = self.check(raw, seed, &call)?;
        self.begin(request, context, call, 0).await
    }

    /// Goes on with an answer whose connection was lost.
    pub(crate) async fn resume(
        &self,
        mut raw: RawRequest,
        brought: Brought,
        mut call: Call,
    ) -> Result<Answer, InferError> {
        let told = resume::open(self.door.options.resume.as_deref(), &brought.token)?;
        if raw.request_id.is_empty() {
            raw.request_id.clone_from(&told.request_id);
        }
        call.resumable = true;
        let (request, mut context) = self.check(raw, Some(told.seed), &call)?;
        resume::check(&told, &request)?;
        let (continuation, known) = resume::continuation(&told, brought, &request)?;
        context.continuation = continuation;
        self.begin(request, context, call, known).await
    }

    /// The path from a valid request on. The client has the first `known`
    /// tokens of what will come.
    async fn begin(
        &self,
        mut request: Request,
        context: Context,
        call: Call,
        known: u64,
    ) -> Result<Answer, InferError> {
        let options = &self.door.options;
        let issuer = options.resume.as_ref().filter(|_| call.resumable);
        let issuer = issuer.map(|signer| Issuer::new(signer, &self.door.catalog, &request));
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
        let opening = self
            .door
            .infer
            .infer(Arc::new(Sealed::new(request)), context);
        let stream = match &mut deadline {
            None => opening.await?,
            Some(over) => tokio::select! {
                biased;
                opened = opening => opened?,
                () = over => return Err(InferError::deadline_exceeded()),
            },
        };
        let stream = match known {
            0 => stream,
            known => resume::leave_out(stream, known),
        };
        let begun = (stream, slot);
        let mut answer = Answer::new(begun, deadline, (request_id, seed), &self.sweeper);
        answer.issuer = issuer.map(Box::new);
        Ok(answer)
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
        if raw.user_id.is_empty() {
            raw.user_id = options.default_user.to_string();
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
