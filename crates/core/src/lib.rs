//! Core types and traits of tiermesh. No I/O, no runtime; one clock, to be
//! handed to whoever needs the time.
//!
//! Everything that can answer a request implements [`Infer`]. A request's
//! content is [`Sealed`]: it opens only with a [`Permit`], which only
//! [`privacy::permit`] constructs, for that request and one destination.

pub mod candidates;
pub mod capacity;
pub mod error;
pub mod event;
pub mod id;
pub mod money;
pub mod privacy;
pub mod reason;
pub mod request;
pub mod tier;
pub mod time;
pub mod traits;

pub use candidates::Candidates;
pub use capacity::{
    BreakerState, Calibrated, CandidateState, CapacityReport, EngineCapacity, ModelOffer,
    ModelState, Outlook, PRIORITY_CLASSES, Residency, Snapshot,
};
pub use error::{ErrorClass, InferError, Refusal};
pub use event::{
    Alternative, Attempt, AttemptOutcome, DecisionSummary, Done, Event, Fallback, FinishReason,
    ReasonRecord, Seam, SeamKind, TaskResult, TierScore, Token, TokenDetail, Usage,
};
pub use id::{ModelDigest, ModelId, NodeId, NumericsId, PolicyName, Region, RequestId, UserId};
pub use money::Usd;
pub use privacy::{Destination, Permit, PermitError, PermitScope, Privacy, Sealed};
pub use reason::Reason;
pub use request::PREFIX_BLOCK_TOKENS;
pub use request::{
    Content, Continuity, DeviceInfo, FieldError, Message, ModelSelector, NetworkKind,
    OutputConstraint, RawRequest, Request, RequestMeta, Role, Sampling, Task, Thermal,
};
pub use tier::Tier;
pub use time::{Clock, Deadline, MonotonicClock, Time};
pub use traits::{
    Account, Context, Continuation, EventStream, Explain, Fleet, Infer, InferFuture, Speaker, Via,
};
