//! What a node's door lets in.

use std::sync::Arc;
use std::time::SystemTime;
use tiermesh_core::{Destination, ErrorClass, InferError, Privacy, RequestMeta, Tier};
use tiermesh_frontdoor::{Caller, Guard};
use tiermesh_link::Upstream;
use tiermesh_router::Dispatcher;

/// The rules of one door.
pub(crate) struct Rules {
    pub(crate) own: Destination,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) upstream: Option<Arc<Upstream>>,
    pub(crate) require_ticket: bool,
}

impl Rules {
    pub(crate) fn into_guard(self) -> Guard {
        Arc::new(move |meta, caller| self.check(meta, caller))
    }

    fn check(&self, meta: &mut RequestMeta, caller: &Caller<'_>) -> Result<(), InferError> {
        // From here on the request itself carries its policy's privacy, so
        // that every permit is asked with it.
        let policies = self.dispatcher.policies();
        let policy = policies.require(&meta.policy)?;
        meta.privacy = meta.privacy.min(policy.privacy);
        self.check_owner(meta)?;
        if meta.privacy == Privacy::Device && self.own.tier != Tier::Device {
            let message = "content marked `device` never leaves its owner's device: send it to your device agent (by default http://127.0.0.1:8082)";
            return Err(
                InferError::new(ErrorClass::Forbidden, "WRONG_DOOR", message)
                    .with("endpoint", "http://127.0.0.1:8082"),
            );
        }
        self.check_ticket(meta, caller)
    }

    fn check_owner(&self, meta: &RequestMeta) -> Result<(), InferError> {
        match &self.own.owner {
            Some(owner) if owner != &meta.user_id => Err(InferError::new(
                ErrorClass::Forbidden,
                "PERMIT_REFUSED",
                format!("device `{}` serves only its owner", self.own.node),
            )),
            _ => Ok(()),
        }
    }

    fn check_ticket(&self, meta: &RequestMeta, caller: &Caller<'_>) -> Result<(), InferError> {
        let refused =
            |why: String| InferError::new(ErrorClass::Unauthenticated, "TICKET_REFUSED", why);
        let Some(ticket) = caller.ticket else {
            return if self.require_ticket {
                Err(refused("this edge asks for a ticket: get one from the gateway's Locate and send it as `tiermesh-ticket`".into()))
            } else {
                Ok(())
            };
        };
        let Some(gateway) = self
            .upstream
            .as_ref()
            .and_then(|upstream| upstream.status())
        else {
            // Nobody can check it now. Local breakout goes on while the region
            // is away, unless tickets are this door's only guard.
            return if self.require_ticket {
                Err(refused(
                    "the ticket cannot be checked while the gateway is away".into(),
                ))
            } else {
                Ok(())
            };
        };
        let ticket = gateway
            .tickets
            .verify(ticket, &self.own.node, SystemTime::now())
            .map_err(|error| refused(error.to_string()))?;
        if ticket.user != meta.user_id {
            return Err(refused("the ticket was given to another user".into()));
        }
        Ok(())
    }
}
