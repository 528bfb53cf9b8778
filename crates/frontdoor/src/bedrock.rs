//! Bedrock's Converse API: `tiermesh-bedrock` knows the wire, and its
//! requests take the path all others take.

use crate::entry::Entry;
use axum::Router;
use http::HeaderMap;
use std::sync::Arc;
use tiermesh_bedrock::{ConverseDoor, DoorFuture};
use tiermesh_core::{EventStream, RawRequest};

pub(crate) fn routes(entry: &Arc<Entry>) -> Router {
    tiermesh_bedrock::routes(Arc::new(Behind(Arc::clone(entry))))
}

struct Behind(Arc<Entry>);

impl ConverseDoor for Behind {
    fn infer(&self, raw: RawRequest, headers: HeaderMap) -> DoorFuture<'_> {
        Box::pin(async move {
            let call = self.0.call(&headers)?;
            // 0 is how this wire says that the client named no seed.
            let seed = Some(raw.seed).filter(|seed| *seed != 0);
            let answer = self.0.infer(raw, seed, call).await?;
            let events: EventStream = Box::pin(answer);
            Ok(events)
        })
    }
}
