//! The gRPC services, mounted as one axum router.

use crate::answer::Answer;
use crate::call::Call;
use crate::catalog::{Locate, calibrations};
use crate::entry::Entry;
use crate::resume::Brought;
use crate::serve::ServeError;
use crate::status::to_status;
use axum::Router;
use futures_core::Stream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Poller, Poll, ready};
use tiermesh_core::{
    Event, FieldError, InferError, ModelId, ModelSelector, NodeId, RawRequest, Region, SeamKind,
    UserId,
};
use tiermesh_proto::v1;
use tiermesh_proto::v1::fleet_server::{Fleet, FleetServer};
use tiermesh_proto::v1::inference_server::{Inference, InferenceServer};
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataValue;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

mod refusals;

/// The largest request message, in bytes: content is at most 256 KiB, and
/// the rest is names.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// What a name may be.
const NAME: &str = "1 to 200 characters of A-Z a-z 0-9 . _ : / @ + -";

/// The services `grpc.health.v1` speaks of; the empty name is the door itself.
const SERVICES: [&str; 3] = [
    "",
    v1::inference_server::SERVICE_NAME,
    v1::fleet_server::SERVICE_NAME,
];

/// Tells health watchers how the door is doing.
pub(crate) struct Health(HealthReporter);

impl Health {
    /// From here on every service is `NOT_SERVING`.
    pub(crate) async fn drain(&self) {
        for service in SERVICES {
            self.0
                .set_service_status(service, ServingStatus::NotServing)
                .await;
        }
    }

    /// Ends the watches, which never end by themselves.
    pub(crate) async fn close(&mut self) {
        for service in SERVICES {
            self.0.clear_service_status(service).await;
        }
    }
}

/// Every gRPC service of the door, for gRPC and grpc-web clients.
pub(crate) async fn routes(entry: &Arc<Entry>) -> Result<(Router, Health), ServeError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in SERVICES {
        reporter
            .set_service_status(service, ServingStatus::Serving)
            .await;
    }
    let inference = InferenceServer::new(Service(Arc::clone(entry)))
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let fleet =
        FleetServer::new(Service(Arc::clone(entry))).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let routes = Routes::new(inference)
        .add_service(fleet)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .into_axum_router()
        .reset_fallback()
        .layer(axum::middleware::map_response(refusals::explain))
        .layer(axum::middleware::from_fn(refusals::only_grpc))
        .layer(tonic_web::GrpcWebLayer::new());
    Ok((routes, Health(reporter)))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tiermesh_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

struct Service(Arc<Entry>);

#[tonic::async_trait]
impl Inference for Service {
    type InferStream = WireAnswer;
    type ResumeStream = WireAnswer;

    async fn infer(
        &self,
        request: Request<v1::InferRequest>,
    ) -> Result<Response<WireAnswer>, Status> {
        let answer = self.begin(request).await.map_err(to_status)?;
        Ok(respond(answer))
    }

    async fn resume(
        &self,
        request: Request<v1::ResumeRequest>,
    ) -> Result<Response<WireAnswer>, Status> {
        let answer = self.go_on(request).await.map_err(to_status)?;
        Ok(respond(answer))
    }

    async fn explain(
        &self,
        request: Request<v1::InferRequest>,
    ) -> Result<Response<v1::Decision>, Status> {
        let explain = || {
            let (metadata, _, wire) = request.into_parts();
            let call = self.0.call(metadata.as_ref())?;
            let seed = wire.seed;
            self.0.explain(wire.try_into()?, seed, call)
        };
        let decision = explain().map_err(to_status)?;
        let calibrations = calibrations(&*self.0.door.catalog, &decision);
        let decision = v1::Decision {
            calibrations,
            ..v1::Decision::from(decision)
        };
        Ok(Response::new(decision))
    }

    async fn locate(
        &self,
        request: Request<v1::LocateRequest>,
    ) -> Result<Response<v1::LocateResponse>, Status> {
        let locate = || {
            let (metadata, _, wire) = request.into_parts();
            let ask = self.ask(&wire, &self.0.call(metadata.as_ref())?)?;
            self.0.door.catalog.locate(&ask)
        };
        let endpoints = locate().map_err(to_status)?;
        Ok(Response::new(v1::LocateResponse {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
        }))
    }

    async fn list_models(
        &self,
        request: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        self.0
            .call(request.metadata().as_ref())
            .map_err(to_status)?;
        let models = self.0.door.catalog.models();
        Ok(Response::new(v1::ListModelsResponse {
            models: models.into_iter().map(Into::into).collect(),
        }))
    }
}

#[tonic::async_trait]
impl Fleet for Service {
    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        self.operator(request.metadata()).map_err(to_status)?;
        let nodes = self.0.door.catalog.nodes();
        Ok(Response::new(v1::ListNodesResponse {
            nodes: nodes.into_iter().map(Into::into).collect(),
        }))
    }

    async fn preload(
        &self,
        request: Request<v1::PreloadRequest>,
    ) -> Result<Response<v1::PreloadResponse>, Status> {
        let preload = || {
            self.operator(request.metadata())?;
            let wire = request.into_inner();
            let bad = |field, value: &str| FieldError::new(field, format!("`{value}`"), NAME);
            let node = NodeId::new(&wire.node).map_err(|e| bad("node", &e.value))?;
            let model = ModelId::new(&wire.model).map_err(|e| bad("model", &e.value))?;
            self.0.door.catalog.preload(&node, &model)
        };
        preload().map_err(to_status)?;
        Ok(Response::new(v1::PreloadResponse {}))
    }
}

impl Service {
    /// Refuses callers that do not run the mesh, where there are keys at all.
    fn operator(&self, metadata: &tonic::metadata::MetadataMap) -> Result<(), InferError> {
        let call = self.0.call(metadata.as_ref())?;
        call.holder.map_or(Ok(()), |holder| holder.runs_the_mesh())
    }

    async fn go_on(&self, request: Request<v1::ResumeRequest>) -> Result<Answer, InferError> {
        let (metadata, _, wire) = request.into_parts();
        let call = self.0.call(metadata.as_ref())?;
        let brought = Brought {
            token: wire.resume_token,
            next_seq: wire.next_seq,
            emitted_ids: wire.emitted_ids,
            text: wire.emitted_text,
        };
        let raw = RawRequest::try_from(wire.request.unwrap_or_default())?;
        self.0.resume(raw, brought, call).await
    }

    async fn begin(&self, request: Request<v1::InferRequest>) -> Result<Answer, InferError> {
        let (metadata, _, wire) = request.into_parts();
        let mut call = self.0.call(metadata.as_ref())?;
        call.resumable |= wire.resumable;
        let seed = wire.seed;
        self.0.infer(RawRequest::try_from(wire)?, seed, call).await
    }

    fn ask(&self, wire: &v1::LocateRequest, call: &Call) -> Result<Locate, InferError> {
        let bad = |field, value: &str| FieldError::new(field, format!("`{value}`"), NAME);
        let some = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        let holders = match &call.holder {
            Some(holder) => holder.user(&wire.user_id)?,
            None => None,
        };
        Ok(Locate {
            privacy: wire.privacy_level()?,
            user: match some(&wire.user_id) {
                None => holders.unwrap_or(&self.0.door.options.default_user).clone(),
                Some(name) => UserId::new(name).map_err(|e| bad("user_id", &e.value))?,
            },
            model: match some(&wire.model).filter(|name| name != "auto") {
                None => ModelSelector::Auto,
                Some(name) => {
                    ModelSelector::Named(ModelId::new(name).map_err(|e| bad("model", &e.value))?)
                }
            },
            region: some(&wire.region)
                .map(Region::new)
                .transpose()
                .map_err(|e| bad("region", &e.value))?,
        })
    }
}

fn respond(answer: Answer) -> Response<WireAnswer> {
    let (request_id, seed) = (answer.request_id.as_str().parse(), answer.seed);
    let mut response = Response::new(WireAnswer(answer));
    let metadata = response.metadata_mut();
    if let Ok(request_id) = request_id {
        metadata.insert("x-tiermesh-request-id", request_id);
    }
    metadata.insert("x-tiermesh-seed", MetadataValue::from(seed));
    response
}

/// An answer as wire events. It is polled by the connection: no task and no
/// queue stand between the model and the socket.
pub(crate) struct WireAnswer(Answer);

impl Stream for WireAnswer {
    type Item = Result<v1::InferEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<Option<Self::Item>> {
        use v1::infer_event::Event as Wire;
        let event = match ready!(Pin::new(&mut self.0).poll_next(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(to_status(error)))),
            Some(Ok(event)) => event,
        };
        let token = self.0.issuer.as_mut().and_then(|issuer| match &event {
            Event::Accepted(decision) => Some(issuer.token(&decision.node, &decision.model)),
            Event::Seam(seam) => {
                let same = matches!(seam.kind, SeamKind::Exact | SeamKind::SameModel);
                Some(issuer.after_seam(&seam.to, same))
            }
            _ => None,
        });
        let mut wire = v1::InferEvent::from(event);
        match (&mut wire.event, token) {
            (Some(Wire::Accepted(accepted)), Some(token)) => accepted.resume_token = token,
            (Some(Wire::Seam(seam)), Some(token)) => seam.resume_token = token,
            _ => {}
        }
        if let Some(Wire::Accepted(accepted)) = &mut wire.event {
            accepted.request_id = self.0.request_id.to_string();
            accepted.seed = self.0.seed;
        }
        Poll::Ready(Some(Ok(wire)))
    }
}
