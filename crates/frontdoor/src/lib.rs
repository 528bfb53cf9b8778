//! The client API every daemon serves, on one port: gRPC (with health,
//! reflection and grpc-web) and HTTP (OpenAI and Bedrock).
//!
//! All of them share one request path, [`Door`] handed to [`serve`]: fill the
//! defaults in, validate, ask the content guard, take a stream slot, seal, and
//! hand the request to whatever answers. The deadline binds the whole stream,
//! and the slot belongs to the stream, whichever API it is read through.

mod answer;
mod auth;
mod bedrock;
mod call;
mod catalog;
mod entry;
mod grpc;
mod http;
mod listing;
mod openai;
mod replay;
mod resume;
mod serve;
mod slots;
mod status;

pub use auth::{Holder, Keys};
pub use catalog::{Catalog, CatalogModel, Locate, Located, NodeStatus};
pub use listing::{models_of, nodes_of, speaker_of};
pub use replay::ReplayBounds;
pub use serve::{ServeError, serve};

use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    Clock, Explain, Infer, InferError, NodeId, PolicyName, Region, RequestMeta, Tier, UserId,
};
use tiermesh_identity::ResumeSigner;

/// Everything a daemon puts behind its client API.
#[derive(Clone)]
pub struct Door {
    /// Answers requests.
    pub infer: Arc<dyn Infer>,
    /// Tells where a request would go.
    pub explain: Arc<dyn Explain>,
    /// Knows models, nodes and edge endpoints.
    pub catalog: Arc<dyn Catalog>,
    /// Identity, defaults and bounds.
    pub options: DoorOptions,
    /// The clock deadlines are told on.
    pub clock: Arc<dyn Clock>,
}

/// Looks at a request's metadata and its sender before the request is sealed,
/// and refuses what may not enter here. It may make the request stricter, for
/// example give it the privacy of its policy.
pub type Guard = Arc<dyn Fn(&mut RequestMeta, &Caller<'_>) -> Result<(), InferError> + Send + Sync>;

/// The policy of a tenant's requests that name none; none where it has no
/// policy of its own.
pub type TenantDefault = Arc<dyn Fn(&str) -> Option<PolicyName> + Send + Sync>;

/// What is known of a request's sender.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Caller<'a> {
    /// The signed ticket it brought (`tiermesh-ticket`), unchecked.
    pub ticket: Option<&'a str>,
}

/// Who a door is, what it fills in, and its bounds.
#[derive(Clone)]
pub struct DoorOptions {
    /// This node.
    pub node: NodeId,
    /// Its tier.
    pub tier: Tier,
    /// Its region, where it has one.
    pub region: Option<Region>,
    /// The user of requests that name none.
    pub default_user: UserId,
    /// The policy of requests that name none.
    pub default_policy: PolicyName,
    /// A tenant's own policy for them, where it has one.
    pub tenant_default: Option<TenantDefault>,
    /// Signs and checks resume tokens; `None` resumes nothing. With a key of
    /// this process alone, answers go on at this door and nowhere else.
    pub resume: Option<Arc<ResumeSigner>>,
    /// How long a resume token is good for.
    pub resume_for: Duration,
    /// What is kept for clients that come back.
    pub replay: ReplayBounds,
    /// The API keys that are asked for; `None` asks for none, and takes whoever
    /// calls at their word.
    pub keys: Option<Arc<Keys>>,
    /// Refuses content that may not enter here; `None` lets everything in.
    pub guard: Option<Guard>,
    /// Answers at a time, over all connections and APIs. One more is refused
    /// at once with the time to wait.
    pub max_streams: usize,
    /// Connections at a time; one more is closed at once.
    pub max_connections: usize,
    /// How often a silent HTTP/2 connection is pinged.
    pub keepalive: Duration,
    /// How long a ping may stay unanswered.
    pub keepalive_timeout: Duration,
    /// How long a client may take over a TLS handshake, request headers, or a
    /// whole HTTP request body.
    pub read_timeout: Duration,
    /// How long a client may leave its socket full, or an event unread, before
    /// it is cut off.
    pub write_timeout: Duration,
    /// How long open streams may go on after shutdown began.
    pub drain_timeout: Duration,
}

impl DoorOptions {
    /// A door of `node` on `tier` with the bounds of a small daemon: 256
    /// streams, 1,024 connections, everyone let in.
    #[must_use]
    pub fn new(node: NodeId, tier: Tier, default_user: UserId, default_policy: PolicyName) -> Self {
        Self {
            node,
            tier,
            region: None,
            default_user,
            default_policy,
            tenant_default: None,
            resume: Some(Arc::new(ResumeSigner::generate())),
            resume_for: Duration::from_secs(15 * 60),
            replay: ReplayBounds::default(),
            keys: None,
            guard: None,
            max_streams: 256,
            max_connections: 1024,
            keepalive: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        }
    }

    /// The policy of a request that names none.
    pub(crate) fn policy_for(&self, tenant: Option<&str>) -> PolicyName {
        let own = self.tenant_default.as_ref();
        let own = own.zip(tenant).and_then(|(own, tenant)| own(tenant));
        own.unwrap_or_else(|| self.default_policy.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_that_names_no_policy_gets_its_own() {
        let name = |name: &str| PolicyName::new(name).unwrap();
        let mut options = DoorOptions::new(
            NodeId::new("edge-1").unwrap(),
            Tier::Mec,
            UserId::new("ann").unwrap(),
            name("interactive"),
        );
        assert_eq!(options.policy_for(Some("acme")), name("interactive"));
        let iot = name("iot");
        options.tenant_default = Some(Arc::new(move |t| (t == "acme").then(|| iot.clone())));
        assert_eq!(options.policy_for(Some("acme")), name("iot"));
        assert_eq!(options.policy_for(Some("other")), name("interactive"));
        assert_eq!(options.policy_for(None), name("interactive"));
    }
}
