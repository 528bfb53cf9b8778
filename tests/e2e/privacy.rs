//! Content that must not travel, does not: at the wrong door, under a policy
//! that says so, and where only the cloud has the model.

use crate::cloud::standin;
use crate::support::{at, mesh};
use std::collections::HashMap;
use tiermesh_harness::client::{ask, client, prompt, reason};
use tiermesh_harness::{CLOUD_MODEL, Cloud, OWNER};
use tiermesh_proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

fn metadata(status: &Status) -> HashMap<String, String> {
    let details = status.get_error_details();
    details.error_info().unwrap().metadata.clone()
}

fn marked(privacy: v1::Privacy) -> v1::InferRequest {
    let mut request = prompt("patient 7 is unwell", 8);
    request.privacy = privacy as i32;
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_refuses_marked_content_and_names_a_door_that_takes_it() {
    let standin = standin().await;
    let mesh = mesh(|spec| {
        spec.device = true;
        spec.cloud = Cloud::Endpoint(standin.endpoint_url());
    })
    .await;
    let mut gateway = at(&mesh.gateway).await;
    let mut healthcare = prompt("patient 7 is unwell", 8);
    healthcare.policy = "healthcare".to_owned();
    let for_the_phone = marked(v1::Privacy::Device);
    let phone = mesh.device.as_ref().unwrap();
    for (request, doors) in [
        (
            marked(v1::Privacy::Edge),
            vec![mesh.edges[0].endpoint(), phone.endpoint()],
        ),
        (for_the_phone, vec![phone.endpoint()]),
        (healthcare, vec![mesh.edges[0].endpoint(), phone.endpoint()]),
    ] {
        let (status, _) = ask(&mut gateway, request.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert_eq!(reason(&status), "WRONG_DOOR");
        let endpoint = metadata(&status).remove("endpoint").unwrap();
        assert!(
            doors.contains(&endpoint.as_str()),
            "{endpoint} of {doors:?}"
        );

        let mut door = client(&endpoint).await.unwrap();
        let answer = ask(&mut door, request).await.unwrap();
        assert_ne!(answer.decision().tier, v1::Tier::Cloud as i32);
        assert_eq!(answer.tokens.len(), 8);
    }
    assert_eq!(standin.requests(), 0, "nothing of it reached the cloud");
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_never_forwards_private_content_for_a_model_of_the_cloud() {
    let standin = standin().await;
    let mesh = mesh(|spec| {
        spec.device = true;
        spec.cloud = Cloud::Endpoint(standin.endpoint_url());
    })
    .await;
    let phone = mesh.device.as_ref().unwrap();
    for door in [&mesh.edges[0], phone] {
        let mut door = at(door).await;
        let mut open = prompt("anybody may read this", 4);
        open.model = CLOUD_MODEL.to_owned();
        // The gateway's offers are told within a second.
        let mut forwarded = ask(&mut door, open.clone()).await;
        for _ in 0..200 {
            match &forwarded {
                Err((status, _)) if status.code() == Code::NotFound => {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    forwarded = ask(&mut door, open.clone()).await;
                }
                _ => break,
            }
        }
        let forwarded = forwarded.expect("open content goes up");
        assert_eq!(forwarded.decision().tier, v1::Tier::Cloud as i32);

        let mut by_policy = prompt("patient 7 is unwell", 8);
        by_policy.policy = "healthcare".to_owned();
        for mut private in [marked(v1::Privacy::Edge), by_policy] {
            private.model = CLOUD_MODEL.to_owned();
            let (status, answer) = ask(&mut door, private).await.unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
            assert!(answer.tokens.is_empty());
        }
    }
    assert!(standin.saw_bytes("anybody may read this"));
    assert!(!standin.saw_bytes("patient 7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn device_agent_serves_its_owner_alone() {
    let mesh = mesh(|spec| spec.device = true).await;
    let mut phone = at(mesh.device.as_ref().unwrap()).await;
    let of = |user: &str| {
        let mut request = prompt("a title", 4);
        request.user_id = user.to_owned();
        request
    };
    let answer = ask(&mut phone, of(OWNER)).await.unwrap();
    assert_eq!(answer.tokens.len(), 4);
    let (status, _) = ask(&mut phone, of("bob")).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");

    // Nor does anybody's request come to it by the gateway.
    let mut gateway = at(&mesh.gateway).await;
    let mut request = of("bob");
    request.policy = "gaming".to_owned();
    let answer = ask(&mut gateway, request).await.unwrap();
    assert_eq!(answer.decision().node, "edge-1");
}
