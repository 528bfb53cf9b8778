//! Doors that ask for API keys.

use crate::fake::{Fake, House, Script, open, open_with};
use crate::grpc::{channel, prompt};
use crate::raw_http::{exchange, get, post};
use std::sync::Arc;
use tiermesh_core::UserId;
use tiermesh_frontdoor::{Holder, Keys};
use tiermesh_identity::{KeyDigest, generate_key};
use tiermesh_proto::v1;
use tiermesh_proto::v1::fleet_client::FleetClient;
use tiermesh_proto::v1::inference_client::InferenceClient;
use tonic::{Code, Request, Status};

const CHAT: &str = r#"{"model":"auto","messages":[{"role":"user","content":"hi"}]}"#;
const CONVERSE: &str = r#"{"messages":[{"role":"user","content":[{"text":"hi"}]}]}"#;

/// A key of a tenant whose users it names itself, and one of ann's alone.
struct Two {
    service: String,
    anns: String,
}

async fn guarded() -> (Arc<Fake>, House, Two) {
    let fake = Fake::new(Script::default());
    let two = Two {
        service: generate_key(),
        anns: generate_key(),
    };
    let holder = |name: &str, tenant: Option<&str>, user: Option<&str>| Holder {
        name: name.to_owned(),
        tenant: tenant.map(ToOwned::to_owned),
        user: user.map(|user| UserId::new(user).unwrap()),
        operator: name == "web",
    };
    let keys = Keys::new([
        (
            KeyDigest::of(&two.service).unwrap(),
            holder("web", Some("acme"), None),
        ),
        (
            KeyDigest::of(&two.anns).unwrap(),
            holder("phone", None, Some("ann")),
        ),
    ]);
    let keys = Some(Arc::new(keys));
    let house = open_with(&fake, None, |options| options.keys = keys).await;
    (fake, house, two)
}

fn with<T>(authorization: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !authorization.is_empty() {
        let value = authorization.parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

fn by(user: &str) -> v1::InferRequest {
    v1::InferRequest {
        user_id: user.into(),
        ..prompt()
    }
}

#[tokio::test]
async fn who_brings_no_key_or_another_reaches_nothing_over_any_api() {
    let (fake, house, two) = guarded().await;
    let mut inference = InferenceClient::new(channel(house.address).await);
    let mut fleet = FleetClient::new(channel(house.address).await);
    let wrong = generate_key();
    let digest = KeyDigest::of(&two.service).unwrap();
    for sent in [
        String::new(),
        format!("Bearer {wrong}"),
        format!("Bearer {digest}"),
        format!("Basic {}", two.service),
        two.service.clone(),
        "Bearer ".to_owned(),
    ] {
        let sent = sent.as_str();
        let resume = v1::ResumeRequest::default();
        let locate = v1::LocateRequest::default();
        let refusals: [Option<Status>; 6] = [
            inference.infer(with(sent, prompt())).await.err(),
            inference.resume(with(sent, resume)).await.err(),
            inference.explain(with(sent, prompt())).await.err(),
            inference.locate(with(sent, locate)).await.err(),
            inference
                .list_models(with(sent, v1::ListModelsRequest {}))
                .await
                .err(),
            fleet
                .list_nodes(with(sent, v1::ListNodesRequest {}))
                .await
                .err(),
        ];
        for status in refusals {
            let status = status.expect("refused");
            assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
            for secret in [&two.service, &two.anns, &wrong] {
                assert!(!format!("{status:?}").contains(&**secret));
            }
        }
        let headers: &[(&str, &str)] = match sent {
            "" => &[],
            sent => &[("authorization", sent)],
        };
        for (path, body) in [
            ("/v1/chat/completions", CHAT),
            ("/route/explain", r#"{"prompt":"x"}"#),
        ] {
            let reply = exchange(house.address, &post(path, headers, body.as_bytes())).await;
            assert_eq!(reply.status, 401, "{path}: {}", reply.text());
            assert_eq!(reply.header("www-authenticate"), "Bearer");
            assert_eq!(reply.json()["error"]["type"], "authentication_error");
            assert!(!reply.text().contains(&wrong));
        }
        // As Bedrock itself refuses a caller it does not know.
        let converse = post("/model/m/converse", headers, CONVERSE.as_bytes());
        let reply = exchange(house.address, &converse).await;
        assert_eq!(reply.status, 403, "{}", reply.text());
        assert_eq!(
            reply.header("x-amzn-errortype"),
            "UnrecognizedClientException"
        );
    }
    let twice = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
    let reply = post("/v1/chat/completions", &twice, CHAT.as_bytes());
    assert_eq!(exchange(house.address, &reply).await.status, 401);
    assert_eq!(
        exchange(house.address, &get("/v1/models")).await.status,
        401
    );
    assert_eq!(
        exchange(house.address, &get("/v1/models/m")).await.status,
        401
    );
    assert!(fake.seen.lock().unwrap().is_empty(), "nobody was asked");
    // Whoever watches the door needs no key.
    assert_eq!(exchange(house.address, &get("/health")).await.status, 200);
}

#[tokio::test]
async fn a_key_says_who_pays_and_who_asks() {
    let (fake, house, two) = guarded().await;
    let mut client = InferenceClient::new(channel(house.address).await);
    let (service, anns) = (
        format!("Bearer {}", two.service),
        format!("bearer {}", two.anns),
    );
    for (key, user, asked) in [
        (&service, "bob", "bob"),
        (&service, "", "somebody"),
        (&anns, "", "ann"),
        (&anns, "ann", "ann"),
    ] {
        client.infer(with(key, by(user))).await.unwrap();
        let (meta, context) = fake.seen.lock().unwrap().pop().unwrap();
        assert_eq!(meta.user_id.as_str(), asked);
        let account = context.account;
        let expected = match key == &service {
            true => (Some("web"), Some("acme")),
            false => (Some("phone"), None),
        };
        assert_eq!(
            (account.key.as_deref(), account.tenant.as_deref()),
            expected
        );
    }
    let refused = client.infer(with(&anns, by("bob"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let locate = v1::LocateRequest {
        user_id: "bob".into(),
        ..v1::LocateRequest::default()
    };
    let refused = client.locate(with(&anns, locate)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let located = client
        .locate(with(&anns, v1::LocateRequest::default()))
        .await;
    assert_eq!(located.unwrap().into_inner().endpoints[0].ticket, "for ann");

    for (path, body) in [
        ("/v1/chat/completions", CHAT),
        ("/model/m/converse", CONVERSE),
    ] {
        let headers = [("authorization", &*service)];
        let reply = exchange(house.address, &post(path, &headers, body.as_bytes())).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let (_, context) = fake.seen.lock().unwrap().pop().unwrap();
        assert_eq!(context.account.tenant.as_deref(), Some("acme"), "{path}");
    }
}

#[tokio::test]
async fn a_door_without_keys_takes_whoever_calls() {
    let fake = Fake::new(Script::default());
    let house = open(&fake).await;
    let mut client = InferenceClient::new(channel(house.address).await);
    // OpenAI's clients send some key wherever they are sent to.
    for sent in ["", "Bearer sk-anything"] {
        client.infer(with(sent, by("bob"))).await.unwrap();
        let (meta, context) = fake.seen.lock().unwrap().pop().unwrap();
        assert_eq!(meta.user_id.as_str(), "bob");
        assert_eq!(context.account, tiermesh_core::Account::default());
    }
}
