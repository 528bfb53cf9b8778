//! A look at a request before it is decided.

use super::Shared;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{Context, Request, Sealed, Time};
use tiermesh_decision::Limits;

/// The future of a look.
pub type LookFuture<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Looks at requests before they are decided, so that an
/// [`Estimator`](tiermesh_decision::analysis::Estimator) knows more of them
/// than their length. A look bounds its own time and money, asks for a permit
/// for wherever it sends content, and never fails a request.
pub trait Advise: Send + Sync + 'static {
    /// Looks at a request whose first token is due in so long. Its privacy is
    /// the stricter of its own and its policy's already.
    fn look<'a>(
        &'a self,
        request: &'a Arc<Sealed<Request>>,
        context: &'a Context,
        left: Option<Duration>,
    ) -> LookFuture<'a>;
}

impl Shared {
    /// Has the adviser look, where there is one. The deadline runs from the
    /// request's arrival: a look takes its part of it.
    pub(crate) async fn advised(
        &self,
        request: &Arc<Sealed<Request>>,
        context: Context,
        arrived: Time,
    ) -> Context {
        let Some(adviser) = &self.keeps.adviser else {
            return context;
        };
        let meta = request.meta();
        let tenant = context.account.tenant.as_deref();
        let policies = self.policies();
        let Ok(policy) = policies.permitted(&meta.policy, tenant) else {
            // Its decision says so.
            return context;
        };
        let limits = Limits::of(meta, &context, policy, arrived);
        let context = Context {
            deadline: limits.deadline,
            ..context
        };
        if !context.continuation.is_empty() || limits.deadline.is_over(arrived) {
            return context;
        }
        let tightened;
        let request = if limits.privacy == meta.privacy {
            request
        } else {
            tightened = Arc::new(request.tightened(limits.privacy));
            &tightened
        };
        let first = limits.deadline.first_token_remaining(arrived);
        let total = limits.deadline.remaining(arrived);
        let left = first.into_iter().chain(total).min();
        adviser.look(request, &context, left).await;
        context
    }
}
