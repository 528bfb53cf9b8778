//! What may pass the gateway at all.

use std::sync::Arc;
use tiermesh_core::{Context, ErrorClass, InferError, Privacy, RequestMeta, Tier, Usd};
use tiermesh_frontdoor::Guard;
use tiermesh_link::{Admit, NodeTable};
use tiermesh_router::Dispatcher;

/// The default place of a user's own agent.
const DEVICE_AGENT: &str = "http://127.0.0.1:8082";

/// The gateway stands in a region: content marked `device` or `edge` must not
/// be here, whoever sends it and by whichever way.
pub(crate) struct Rules {
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) table: Arc<NodeTable>,
    /// The most one request may cost here.
    pub(crate) most: Option<Usd>,
}

impl Rules {
    pub(crate) fn guard(self: &Arc<Self>) -> Guard {
        let rules = self.clone();
        Arc::new(move |meta, _caller| rules.check(meta))
    }

    fn check(&self, meta: &mut RequestMeta) -> Result<(), InferError> {
        // From here on the request itself carries its policy's privacy, so
        // that every permit is asked with it.
        let policies = self.dispatcher.policies();
        let policy = policies.require(&meta.policy)?;
        meta.privacy = meta.privacy.min(policy.privacy);
        if let Some(most) = self.most {
            let asked = meta.max_cost.or(policy.max_cost);
            meta.max_cost = Some(asked.map_or(most, |asked| asked.min(most)));
        }
        if meta.privacy.allows(Tier::Cloud) {
            return Ok(());
        }
        let endpoint = self.endpoint(meta);
        let message = match &endpoint {
            Some(endpoint) => format!(
                "content marked `{}` must not pass the regional gateway: send it to {endpoint}",
                meta.privacy.as_str()
            ),
            None => format!(
                "content marked `{}` must not pass the regional gateway, and no edge is linked now: send it to your device agent (by default {DEVICE_AGENT})",
                meta.privacy.as_str()
            ),
        };
        let endpoint = endpoint.unwrap_or_else(|| DEVICE_AGENT.to_owned());
        Err(
            InferError::new(ErrorClass::Forbidden, "WRONG_DOOR", message)
                .with("endpoint", endpoint),
        )
    }

    /// The nearest door that may see the content.
    fn endpoint(&self, meta: &RequestMeta) -> Option<String> {
        let mut nodes = self.table.list();
        nodes.sort_by_key(|node| node.rtt);
        nodes
            .into_iter()
            .filter(|node| match node.hello.tier {
                Tier::Device => node.hello.owner.as_ref() == Some(&meta.user_id),
                Tier::Mec => meta.privacy == Privacy::Edge,
                Tier::Cloud => false,
            })
            .find_map(|node| node.hello.endpoint.clone())
    }
}

impl Admit for Rules {
    fn admit(&self, request: &mut RequestMeta, _context: &mut Context) -> Result<(), InferError> {
        self.check(request)
    }
}
