//! What a door tells beside answers: decisions, endpoints, models, services.

use crate::support::{at, mesh};
use tiermesh_harness::client::{ask, prompt, reason};
use tiermesh_harness::{CLOUD_MODEL, OWNER};
use tiermesh_proto::v1;
use tonic::{Code, Request};

#[tokio::test(flavor = "multi_thread")]
async fn explain_costs_nothing_and_names_what_infer_does() {
    let mesh = mesh(|spec| {
        spec.standin = true;
        spec.device = true;
    })
    .await;
    let mut gateway = at(&mesh.gateway).await;
    let before = mesh.nodes().await.unwrap();
    for _ in 0..50 {
        gateway.explain(prompt("a title", 16)).await.unwrap();
    }
    let after = mesh.nodes().await.unwrap();
    let credits = |nodes: &[v1::Node]| nodes.iter().map(|n| n.credits_free).collect::<Vec<_>>();
    assert_eq!(credits(&before), credits(&after));
    assert!(
        after
            .iter()
            .all(|n| n.streams_active + n.streams_queued == 0)
    );
    for (policy, model) in [
        ("iot", ""),
        ("automotive", ""),
        ("interactive", CLOUD_MODEL),
        ("batch", "tiny-llama"),
    ] {
        let mut request = prompt("a title", 16);
        request.policy = policy.to_owned();
        request.model = model.to_owned();
        let explained = gateway.explain(request.clone()).await.unwrap();
        let explained = explained.into_inner();
        let answer = ask(&mut gateway, request).await.unwrap();
        let decided = answer.decision();
        assert_eq!(
            (explained.tier, &explained.node, &explained.model),
            (decided.tier, &decided.node, &decided.model),
            "{policy}"
        );
        assert!(!explained.reasons.is_empty() && !explained.scores.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn located_ticket_opens_its_edge_and_an_altered_one_does_not() {
    let mesh = mesh(|spec| spec.edges = 2).await;
    let mut gateway = at(&mesh.gateway).await;
    let located = gateway
        .locate(v1::LocateRequest {
            user_id: OWNER.to_owned(),
            privacy: v1::Privacy::Edge as i32,
            ..v1::LocateRequest::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(located.endpoints.len(), 2, "{located:?}");
    for place in &located.endpoints {
        assert_eq!(place.tier, v1::Tier::Mec as i32);
        assert!(place.ticket_ttl_ms > 0);
        let edge = mesh.edges.iter().find(|edge| edge.name == place.node);
        assert_eq!(edge.unwrap().endpoint(), place.endpoint);
    }

    let (one, other) = (&located.endpoints[0], &located.endpoints[1]);
    let mut edge = tiermesh_harness::client::client(&one.endpoint)
        .await
        .unwrap();
    let with_ticket = |ticket: &str, user: &str| {
        let mut content = prompt("private words", 8);
        content.privacy = v1::Privacy::Edge as i32;
        content.user_id = user.to_owned();
        let mut request = Request::new(content);
        let ticket = ticket.parse().unwrap();
        request.metadata_mut().insert("tiermesh-ticket", ticket);
        request
    };
    let answer = ask(&mut edge, with_ticket(&one.ticket, OWNER)).await;
    assert_eq!(answer.unwrap().decision().node, one.node);

    let mut altered = one.ticket.clone().into_bytes();
    let middle = altered.len() / 2;
    altered[middle] = if altered[middle] == b'A' { b'B' } else { b'A' };
    let altered = String::from_utf8(altered).unwrap();
    for (ticket, user) in [
        (altered.as_str(), OWNER),
        (other.ticket.as_str(), OWNER),
        (one.ticket.as_str(), "bob"),
        ("rubbish", OWNER),
    ] {
        let (status, _) = ask(&mut edge, with_ticket(ticket, user)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
        assert_eq!(reason(&status), "TICKET_REFUSED");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_lists_models_and_services_and_is_healthy() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let mesh = mesh(|spec| {
        spec.standin = true;
        spec.device = true;
    })
    .await;
    let daemons = [&mesh.gateway, &mesh.edges[0], mesh.device.as_ref().unwrap()];
    for daemon in daemons {
        let listed = at(daemon).await.list_models(v1::ListModelsRequest {}).await;
        let models = listed.unwrap().into_inner().models;
        let tiny = models.iter().find(|model| model.id == "tiny-llama");
        let tiny = tiny.expect("the model every node has");
        assert!(!tiny.digest.is_empty() && tiny.context_tokens == 2048);

        let channel = tonic::transport::Channel::from_shared(daemon.endpoint().to_owned());
        let channel = channel.unwrap().connect().await.unwrap();
        let asked = HealthCheckRequest {
            service: "tiermesh.v1.Inference".to_owned(),
        };
        let health = HealthClient::new(channel.clone()).check(asked).await;
        assert_eq!(health.unwrap().into_inner().status, 1, "SERVING");
        let services = services(channel).await;
        for service in ["tiermesh.v1.Inference", "tiermesh.v1.Fleet"] {
            assert!(services.iter().any(|s| s == service), "{services:?}");
        }
    }
    let mut gateway = at(&mesh.gateway).await;
    let listed = gateway.list_models(v1::ListModelsRequest {}).await;
    let models = listed.unwrap().into_inner().models;
    let cloud = models.iter().find(|model| model.family == CLOUD_MODEL);
    let cloud = cloud.expect("the cloud tier's model");
    assert_eq!(cloud.tiers, [v1::Tier::Cloud as i32]);
    assert!(cloud.output_usd_per_million > 0.0);
}

async fn services(channel: tonic::transport::Channel) -> Vec<String> {
    use pb::server_reflection_request::MessageRequest;
    use pb::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1 as pb;
    let mut client = pb::server_reflection_client::ServerReflectionClient::new(channel);
    let ask = pb::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = client.server_reflection_info(futures::stream::iter([ask]));
    let mut answers = answers.await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    match answer.message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|s| s.name).collect()
        }
        other => panic!("{other:?}"),
    }
}
